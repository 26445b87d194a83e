"""Evaluation: benchmarks, scores, retrieval, probes (paper, section 4).

`load_benchmark` lists a published data set's pictures with masks, bool [H, W]; `score_pictures` and, over many
processes, `score_benchmarks` localize splices in them → a row of metrics per picture (p-mAP, cIoU, ...). `exif_fit`
measures how well EXIF and pixels match, and the probes what else the embeddings encode.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
