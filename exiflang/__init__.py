"""Image patches and EXIF sentences in one embedding space, to localize splices (EXIF as Language, CVPR 2023)."""

import lazy_loader

__version__ = "0.2.0"

# Names are resolved on first use (see `__init__.pyi`): `import exiflang` is cheap, and code without torch never
# waits for it. The same applies to each subpackage.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
