"""Drawing: colored heatmaps, sheets of pictures, plots, HTML pages.

Pictures are uint8 [H, W, 3], heatmaps float [H, W]. `images` and `html` need only the core, `plots` needs plotly (the
extra `notebook`).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
