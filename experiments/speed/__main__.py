"""`python -m experiments.speed` (`make bench`): run notebooks/06_speed, and update its figures."""

import sys
import time

from exiflang.pipeline.parameters import PipelineError, project_path
from exiflang.pipeline.runner import run_notebook
from exiflang.utils.files import write_json
from experiments.speed.report import markdown
from experiments.tables import publish


def main() -> int:
    """Returns 0, or 1 if the notebook fails; then nothing is updated."""
    run_dir = project_path("reports/runs") / f"speed-{time.strftime('%Y%m%d-%H%M%S')}"
    try:
        found = run_notebook("notebooks/06_speed.ipynb", {}, run_dir)
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if on_gpu := [row for row in found["rows"] if "GPU" in row["way"]]:
        write_json(project_path("reports/golden/speed_gpu.json"), {"protocol": found["protocol"], "rows": on_gpu})
    publish("speed", found, {"speed": markdown(found)})
    print(run_dir)
    return 0


if __name__ == "__main__":
    sys.exit(main())
