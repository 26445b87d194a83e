"""Benchmarks scored picture by picture, by one process or many; an interrupted run resumes.

`accelerate launch -m exiflang.evaluation --config scores.yaml` and `notebooks/03_evaluate` both start here. Under
`scores_dir`, each set has a folder with `settings.json` and, for each picture, a file of its rows, its heatmap (16-bit,
bright = tampered) and a thumbnail, named by the SHA-1 of the picture's name.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from exiflang.evaluation.baselines import BASELINES
from exiflang.evaluation.benchmarks import Benchmark, load_benchmark
from exiflang.evaluation.laundering import NETWORKS
from exiflang.evaluation.layouts import LAYOUTS, BenchmarkError
from exiflang.evaluation.scoring import Scored, nothing_scored, score_each
from exiflang.localization.learned_readout import readout_sha256
from exiflang.localization.localizer import SpliceLocalizer
from exiflang.localization.windows import ImageEncoder
from exiflang.models.weights import load_model, weights_sha256
from exiflang.utils.files import absolute_path, read_json, write_json, write_whole
from exiflang.utils.launch import launch_module, this_process
from exiflang.utils.locks import hold
from exiflang.utils.typed import check_fields
from exiflang.viz.images import shrink, thumbnail

INFO = ("format", "kind", "donor_scale", "mask")
#: Lengths of the longer side, in pixels.
HEATMAP, THUMBNAIL = 1024, 240


@dataclass
class ScoreRun:
    """Settings of a scoring run: the parameters of `notebooks/03_evaluate`.

    Args:
        benchmarks: names of sets in `root`, one folder each: a key of `LAYOUTS` has its published layout, any other is
            a folder with `images/` and `masks/`. A laundering may follow: "columbia facebook" (the copies
            `<name>_Facebook` in `root` itself), "columbia jpeg 75", "columbia resize 0.5".
        root: folder of the sets.
        scores_dir: folder for the scores, from which an interrupted run resumes.
        model: see `load_model`.
        baselines: also score the training-free embeddings.
        readouts: empty: the default of `SpliceLocalizer`.
        windows_per_side, window_size, mode, precision, protocol: see `SpliceLocalizer`.
        border: see `localization_scores`.
    """

    benchmarks: list[str]
    root: str
    scores_dir: str
    model: str = ""
    baselines: bool = False
    readouts: list[str] = field(default_factory=list)
    windows_per_side: int = 30
    window_size: int | None = None
    mode: str = "exact"
    precision: str = "float32"
    protocol: str = "default"
    border: int = 0

    def __post_init__(self) -> None:
        check_fields(self)
        if len(set(self.benchmarks)) < len(self.benchmarks):
            raise BenchmarkError(f"benchmarks {self.benchmarks} contain a duplicate: remove it")
        if odd := [name for name in self.benchmarks if not re.fullmatch(r"[\w-][\w.-]*( [a-z]+( [\d.]+)?)?", name)]:
            raise BenchmarkError(f"benchmarks {odd}: give names of folders in root, optionally with a laundering")

    @classmethod
    def of(cls, **parameters: Any) -> ScoreRun:
        """Create from names and values. Raises `ValueError` for unknown or missing names and values of a wrong type."""
        names = [part.name for part in dataclasses.fields(cls)]
        missing = sorted({"benchmarks", "root", "scores_dir"} - parameters.keys())
        if (unknown := sorted(parameters.keys() - set(names))) or missing:
            raise ValueError(f"unknown parameters {unknown}, missing {missing}: choose among {', '.join(names)}")
        return cls(**parameters)

    def _set(self, given: str) -> Benchmark:
        name, _, laundering = given.partition(" ")
        root = absolute_path(self.root)
        folder = root if laundering in NETWORKS else root / name
        benchmark = load_benchmark(name if name in LAYOUTS else "folder", folder, laundering or None)
        benchmark.name = given
        return benchmark

    def run(self) -> None:
        """Score the pictures that have no score yet, sharing the work if several processes were launched.

        Raises `BenchmarkError` for an unreadable benchmark, scores with different settings, and a folder in use by
        another run; `OSError` or `ValueError` if the model does not exist or does not fit.
        """
        state, found = this_process(), self.found()
        model = load_model(self.model).to(state.device)
        encoders: dict[str, ImageEncoder] = {"model": model}
        if self.baselines:
            encoders |= {name: make() for name, make in BASELINES.items()}
        own = ("readouts", "windows_per_side", "window_size", "mode", "precision", "protocol", "border")
        how = {name: getattr(self, name) for name in own} | {"calibrated": bool(model.config.calibration)}
        how["readouts"] = self.readouts or [SpliceLocalizer(model, protocol=self.protocol).readout]
        settings = how | {"weights": weights_sha256(self.model) or self.model, "methods": sorted(encoders)}
        settings["readout"] = readout_sha256(model)
        settings |= {"root": str(absolute_path(self.root))}
        with ExitStack() as held:
            if state.is_main_process:
                for scored in found.values():
                    held.enter_context(hold(scored.folder / ".lock", str(scored.folder), BenchmarkError))
                    scored.claim(settings)
            state.wait_for_everyone()
            pending = [scored.pending() for scored in found.values()]
            state.wait_for_everyone()  # all list the same pictures before the first is scored
            for scored, names in zip(found.values(), pending, strict=True):
                part = scored.benchmark.only(names[state.process_index :: state.num_processes])
                for picture in score_each(encoders, part, info=INFO, **how):
                    scored.keep(picture)
                for name, reason in part.skipped:
                    write_json(scored.place(name), {"name": name, "skipped": reason})
            state.wait_for_everyone()  # the main process holds the locks for all

    def found(self) -> dict[str, ScoredSet]:
        """{name as given: its scores so far}. Raises `BenchmarkError` if a benchmark does not exist."""
        folder = absolute_path(self.scores_dir)
        return {given: ScoredSet(self._set(given), folder / given.replace(" ", "-")) for given in self.benchmarks}


def score_benchmarks(run: ScoreRun, processes: int = 1) -> dict[str, ScoredSet]:
    """Score in this process or in several new ones (see `launch_module`), and return the sets of `run` by name.

    Raises as `ScoreRun.run` does, or `LaunchError` with the output of the processes.
    """
    if processes == 1:
        run.run()
        return run.found()
    found = run.found()
    pictures = sum(len(scored.benchmark) for scored in found.values())
    with ThreadPoolExecutor(1) as pool, tqdm(total=pictures, unit=" pictures") as bar:
        work = pool.submit(launch_module, "exiflang.evaluation", dataclasses.asdict(run), processes)
        while not work.done():
            wait([work], timeout=1)
            bar.update(sum(scored.count() for scored in found.values()) - bar.n)
        work.result()
    return found


class ScoredSet:
    """The scores of a benchmark in a folder."""

    def __init__(self, benchmark: Benchmark, folder: Path):
        self.benchmark, self.folder = benchmark, folder

    def claim(self, settings: Mapping[str, Any]) -> None:
        """Create the folder, or check that its scores have the same settings. Raises `BenchmarkError` if not."""
        place = self.folder / "settings.json"
        settings = json.loads(json.dumps(settings))
        if place.exists() and read_json(place) != settings:
            raise BenchmarkError(
                f"{self.folder}: holds scores with different settings; choose a different scores_dir, or clear it"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(place, settings)

    def place(self, name: str, suffix: str = ".json") -> Path:
        """Path of a picture's file with this suffix."""
        return self.folder / f"{hashlib.sha1(name.encode()).hexdigest()[:16]}{suffix}"

    def record(self, name: str) -> dict[str, Any]:
        """A picture's record: its `rows`, or why it was `skipped`; {} if it was not processed yet."""
        try:
            return read_json(self.place(name))
        except FileNotFoundError:
            return {}

    def count(self) -> int:
        """Number of pictures that were scored or skipped."""
        return max(0, sum(1 for _ in self.folder.glob("*.json")) - 1)  # minus settings.json

    def pending(self) -> list[str]:
        """Names of pictures without a score; skipped ones are tried again."""
        return [name for name in self.benchmark.names if "rows" not in self.record(name)]

    def keep(self, picture: Scored) -> None:
        """Write a picture's heatmap, thumbnail and, last, its rows."""
        name, heatmap = picture.item.name, picture.heatmap
        self._image(name, "-heatmap.png", (shrink(heatmap, HEATMAP) * 65535).round().astype(np.uint16))
        self._image(name, ".jpg", thumbnail(picture.item.image, picture.item.mask, heatmap, THUMBNAIL)[..., ::-1])
        write_json(self.place(name), {"name": name, "rows": picture.rows})

    def _image(self, name: str, suffix: str, pixels: np.ndarray) -> None:
        place = self.place(name, suffix)
        write_whole(place, cv2.imencode(place.suffix, pixels)[1].tobytes())

    def skipped(self) -> list[tuple[str, str]]:
        """(name, reason) of skipped pictures."""
        records = ((name, self.record(name)) for name in self.benchmark.names)
        return [(name, found["skipped"]) for name, found in records if "skipped" in found]

    def scores(self) -> pd.DataFrame:
        """The rows of all pictures, in benchmark order (see `score_each`). Raises `BenchmarkError` if none."""
        rows = [row for name in self.benchmark.names for row in self.record(name).get("rows", [])]
        if not rows:
            raise nothing_scored(self.benchmark.name, len(self.benchmark), self.skipped())
        return pd.DataFrame(rows)
