"""A file's header → what it says about its history, beside the pixels (no section of the paper).

`read_header` gives the choices of a JPEG encoder, `SignatureReference` how well they fit the camera that the EXIF
claims. Each statement stands alone, with how often it is wrong for authentic photos; none is mixed into a score.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
