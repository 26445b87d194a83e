"""Run the notebooks: checked parameters, absolute paths, and a manifest for each run.

`run_pipeline` runs 01 → 02 → 03 with a preset into `reports/runs/<id>`, `run_notebook` runs one of them → its metrics.
Raises `UsageError` for an invalid request, `PipelineError` for a failed run. Needs the extra `notebook`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
