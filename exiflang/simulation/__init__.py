"""Simulated cameras: photos with ground-truth EXIF, and splices of two photos, each reproducible from a seed.

A scene passes through the lens, sensor, demosaicing, in-camera processing and JPEG of one of the `CAMERAS` → the bytes
of a JPEG file; `make_splice` pastes a region of one camera's photo into another's → file and mask bool [H, W].
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
