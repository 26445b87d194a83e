"""Contrastive training (paper, sections 3.2 and 3.3).

`contrastive_loss` is the symmetric InfoNCE of B images and B sentences, float [B, D] each → a scalar. `train` is a
resumable loop on Accelerate, configured by `TrainConfig`; a `Recipe` builds data set, model and augmentation from
a notebook's parameters. `train_readout` trains a learned readout for a model's weights.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
