"""What all tests share: reproducible Hypothesis examples, one thread per process, the order of tests, the folder of
real photos if present."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Before torch is imported, and for child processes too: no result depends on the number of processors or of workers.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"

settings.register_profile("exiflang", deadline=None, derandomize=True)
settings.load_profile("exiflang")

# Modules that take longest come first: a worker that meets one of them last keeps the others waiting.
LONGEST = (
    "notebooks/test_notebooks.py",
    "training/test_train_speed.py",
    "training/test_recipe.py",
    "training/test_train_resume.py",
    "training/test_loop.py",
    "models/test_inference.py",
    "preparation/test_yfcc.py",
    "notebooks/test_browser.py",
    "evaluation/test_score_run.py",
    "data/test_streaming.py",
    "experiments/test_speed.py",
    "models/test_packaged.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {Path(__file__).parent / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path, len(LONGEST)))


@pytest.fixture(scope="session")
def shared() -> Path:
    folder = Path(__file__).parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip(f"needs the real photos of {folder}")
    return folder
