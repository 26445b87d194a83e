"""The two towers and their joint embedding space (paper, section 3.2).

`ExifLang` embeds patches, uint8 [B, 3, P, P], and B EXIF sentences → float32 [B, D] each, unit norm: their dot product
is the cosine similarity. `ExifLangConfig.preset("paper")` is the paper's ResNet-50 and DistilBERT; `load_model` loads
weights by name, and `ExifLang.from_reference_checkpoint` loads the authors' checkpoint.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
