"""The inspector in JupyterLab: `HeatmapInspector` opens a picture and shows its views side by side.

Logic lives in pure functions of `inspection`; what lies here draws, listens and works in the background. Needs the
extra `notebook`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
