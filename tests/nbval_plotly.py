"""pytest plugin for nbval: kernels start in the project folder, where the runner starts them; figures are not compared,
since their numbers are in the text beside them."""

import os

from nbval import plugin
from nbval.kernel import RunningKernel

from exiflang.pipeline.html import PLOTLY_MIME


class ProjectKernel(RunningKernel):
    def __init__(self, *args, cwd: str, **options):
        super().__init__(*args, cwd=os.getcwd(), **options)


plugin.RunningKernel = ProjectKernel


def pytest_collection_modifyitems(items):
    for notebook in {item.parent for item in items}:
        notebook.skip_compare += (PLOTLY_MIME,)
