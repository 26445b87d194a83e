"""Trained weights → a release folder: calibrated on authentic pictures, in float16, with a model card.

`release` turns a finished training run and its data set into `config.json`, `model.safetensors`, tokenizer, text bank
and `README.md`, which `ExifLang.from_pretrained` and `SpliceLocalizer` read.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
