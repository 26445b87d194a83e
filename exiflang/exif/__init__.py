"""Photo → tags → text (paper, section 3.1).

`read_exif` reads a picture file into `{tag: value}` with canonical names and values, whichever software wrote them;
`exif_to_text` joins the tags into one sentence, "Make: Canon, Model: Canon EOS 700D, ...", the input of the text tower.
Raises `ExifError` for input that cannot be read.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
