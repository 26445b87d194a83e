"""Tar shards → training data (paper, section 3.3).

A data set yields pairs of a patch, uint8 [3, P, P], and the photo's EXIF sentence: `PatchDataset` from shards indexed
up front, `StreamDataset` from shards streamed from anywhere. `Augmentation` rescales and recompresses a batch's patches
and records both in their sentences. Raises `DataError` naming the shard.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
