"""Inspection of a single picture by a person: heatmap, metadata and what they mean (paper, figure 1).

`Inspector` opens a file → `Inspection`: the picture, its EXIF, a `SpliceResult`, and how well its EXIF fits its pixels.
`write_report` writes it as a self-contained page, `make_gallery` does so for each picture in a folder, `compare` sets a
suspect beside a reference photo, `change_review` keeps a person's status and note, and `inspection.widget` shows it all
in JupyterLab.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
