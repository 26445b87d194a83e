"""Photo → tags → text (paper, section 3.1).

`read_exif` reads a picture file into `{tag: value}` in one spelling, whoever wrote or printed it; `exif_to_text` writes
the tags as one sentence, "Make: Canon, Model: Canon EOS 700D, ...", which is what the text tower is given.
Raises `ExifError` for what cannot be read.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
