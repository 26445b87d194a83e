"""Runs the notebooks: parameters checked, paths absolute, a manifest of each run.

`run_pipeline` runs 01 → 02 → 03 with a preset into `reports/runs/<id>`, `run_notebook` one of them → its metrics.
Raises `UsageError` for a request that cannot be run, `PipelineError` for a run that failed. Needs the extra `notebook`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
