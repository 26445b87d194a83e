"""Picture → windows → embeddings → readout → heatmap → decision (paper, section 3.4).

`SpliceLocalizer` takes a file or a picture, uint8 [H, W, 3] → `SpliceResult`: heatmap float32 [H, W] in 0..1, mask,
score and verdict. A `LearnedReadout` reads how windows relate, and the evidence of file and pixels; or one of the
`READOUTS` clusters cells by their dissimilarity, [h, w, h, w]. `protocol="reference"` makes the authors' choices.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
