"""Samples → shards, for data sets made by tests and by the speed benchmarks."""

import tarfile
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from exiflang.data.shards import Sample, add_sample


def write_shards(samples: Iterable[Sample], folder: str | Path, per_shard: int = 1000) -> list[Path]:
    """Write `samples` into `folder/00000.tar`, `00001.tar` ..., and return their paths."""
    samples, shards = iter(samples), []
    Path(folder).mkdir(parents=True, exist_ok=True)
    while batch := list(islice(samples, per_shard)):
        shards.append(Path(folder) / f"{len(shards):05d}.tar")
        with tarfile.open(shards[-1], "w") as tar:
            for sample in batch:
                add_sample(tar, sample)
    return shards
