"""One picture looked into: heatmap, metadata and what they say, for a person (paper, figure 1).

`Inspector` opens a file → `Inspection`: the picture, its EXIF, a `SpliceResult`, and how well its EXIF fits its pixels.
`write_report` makes one self-contained page of it, `make_gallery` one of each picture in a folder; `inspection.widget`
shows it in JupyterLab.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
