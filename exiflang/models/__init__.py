"""The two towers and their common space (paper, section 3.2).

`ExifLang` embeds patches, uint8 [B, 3, P, P], and EXIF sentences, B of them → float32 [B, D] each, unit norm, so that
their product is the cosine. `ExifLangConfig.preset("paper")` is the paper's ResNet-50 and DistilBERT; `load_model`
finds weights by name, `ExifLang.from_reference_checkpoint` reads the authors'.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
