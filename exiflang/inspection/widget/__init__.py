"""The inspector in JupyterLab: `HeatmapInspector` opens a picture and shows its views side by side.

Logic is in pure functions of `inspection`; this package draws, handles events and runs background work. It needs the
extra `notebook`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
