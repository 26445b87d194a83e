"""`python -m speed` (`make bench`): run notebooks/06_speed, renew reports/golden/speed.json and the README's table."""

from __future__ import annotations

import sys
import time

from exiflang.files import write_json
from exiflang.golden import with_table
from exiflang.parameters import PipelineError, project_path
from exiflang.pipeline import run_notebook
from speed.report import markdown


def main() -> int:
    """Returns 0, or 1 when the notebook fails: nothing is renewed then."""
    run_dir = project_path("reports/runs") / f"speed-{time.strftime('%Y%m%d-%H%M%S')}"
    try:
        found = run_notebook("notebooks/06_speed.ipynb", {}, run_dir)
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    write_json(project_path("reports/golden/speed.json"), found)
    if on_gpu := [row for row in found["rows"] if "GPU" in row["way"]]:
        write_json(project_path("reports/golden/speed_gpu.json"), {"protocol": found["protocol"], "rows": on_gpu})
    readme = project_path("README.md")
    readme.write_text(with_table(readme.read_text(encoding="utf-8"), "speed", markdown(found)), encoding="utf-8")
    print(run_dir)
    return 0


if __name__ == "__main__":
    sys.exit(main())
