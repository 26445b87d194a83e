"""Photos from any source → tar shards of lossless tiles with their EXIF (paper, section 3.1 and its data).

`prepare` reads a folder, shards, lists of URLs or YFCC100M's dumps, on one machine or a cluster. It writes 256 px tiles
that keep the camera's JPEG blocks, each with its `{tag: value}`, split by photo and camera.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
