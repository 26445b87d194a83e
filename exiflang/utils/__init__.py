"""Shared utilities: image loading, file writing, folders at URLs, processes, hardware.

`load_image` reads any picture → upright uint8 [H, W, 3]; `write_whole` and `write_json` write files atomically.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
