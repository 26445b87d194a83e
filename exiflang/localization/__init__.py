"""Picture → windows → embeddings → readout → heatmap → decision (paper, section 3.4).

`SpliceLocalizer` takes a file or a picture, uint8 [H, W, 3] → `SpliceResult`: heatmap float32 [H, W] in 0..1, mask,
score and verdict. The readout is a `LearnedReadout`, a small network on relations of windows and evidence from file and
pixels, or one of `READOUTS`, which cluster cells by their dissimilarity, [h, w, h, w]. `protocol="reference"` follows
the authors' code.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
