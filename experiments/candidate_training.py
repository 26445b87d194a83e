"""Train a candidate for the packaged weights from random ones, for as long as two cores allow in one go.

    python -m torch.distributed.run --standalone --nproc-per-node=2 -m experiments.candidate_training

writes data/models/exiflang-next, which is not packaged. Called again, an interrupted run goes on, and a finished one
is only written again. `experiments.candidate` measures the result.
"""

import sys
from functools import partial

import torch

from exiflang.pipeline.parameters import project_path
from exiflang.utils.commands import run_command
from exiflang.utils.launch import this_process
from experiments.ablation_data import data_set
from experiments.tower_recipes import WIDE, Row, trained

PLACE = "data/models/exiflang-next"
#: The only change that gains in small models on both sets that choose; `batch_size` is that of each process.
CANDIDATE = Row(
    "candidate",
    {"steps": 4600, "batch_size": 64, "learning_rate": 1.5e-3, "warmup_steps": 200, "ema": 0.998, "compile": True},
    tower=WIDE,
    seeds=1,
)


def train() -> None:
    """Train the candidate, or go on with it."""
    process = this_process()
    torch.set_num_threads(1)
    with process.main_process_first():
        data_set("real")
    model = trained(CANDIDATE, 0)
    if process.is_main_process:
        model.save_pretrained(project_path(PLACE))


#: Command line; returns the exit code, see `run_command`.
main = partial(run_command, train)

if __name__ == "__main__":
    sys.exit(main())
