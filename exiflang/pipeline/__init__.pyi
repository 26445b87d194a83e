from .parameters import PipelineError as PipelineError
from .parameters import UsageError as UsageError
from .runner import run_notebook as run_notebook
from .runner import run_pipeline as run_pipeline
