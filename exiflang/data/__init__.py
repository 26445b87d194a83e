"""Tar shards → what training draws from them (paper, section 3.3).

A data set gives pairs of a patch, uint8 [3, P, P], and the photo's EXIF sentence: `PatchDataset` from shards indexed at
once, `StreamDataset` from shards anywhere. `Augmentation` rescales and recompresses a batch's patches and says so in
their sentences. Raises `DataError` naming the shard.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
