from .evaluation.benchmarks import load_benchmark as load_benchmark
from .exif.reader import read_exif as read_exif
from .exif.text import exif_to_text as exif_to_text
from .inspection.inspector import Inspector as Inspector
from .inspection.widget.heatmap_inspector import HeatmapInspector as HeatmapInspector
from .localization.localizer import SpliceLocalizer as SpliceLocalizer
from .localization.result import SpliceResult as SpliceResult
from .models.config import ExifLangConfig as ExifLangConfig
from .models.model import ExifLang as ExifLang
from .pipeline.runner import run_notebook as run_notebook
from .pipeline.runner import run_pipeline as run_pipeline
from .training.losses import contrastive_loss as contrastive_loss

__version__: str
