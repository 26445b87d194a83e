"""The options of `prepare` in groups, and their construction from a flat mapping."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from exiflang.utils.typed import check_fields, typed


@dataclass(frozen=True)
class Simulation:
    """The simulated cameras of the source "simulated", and the test splices.

    Args:
        photos_per_camera: number of photos of each camera that training may see.
        unseen_makes: number of makes, of four cameras each, that training never sees; drawn by the seed.
        splices, authentic: numbers of spliced and authentic pictures of unseen cameras; seen cameras get half as many.
    """

    photos_per_camera: int = 40
    unseen_makes: int = 3
    splices: int = 60
    authentic: int = 30

    def __post_init__(self) -> None:
        check_fields(self)
        _check_least(self, splices=0, authentic=0)


@dataclass(frozen=True)
class Split:
    """Which photos are excluded from training.

    Args:
        heldout_share: share of each camera's photos that is held out, above 0 and below 1.
        choose_share, report_share: shares of the cameras set aside to select the training step and to report figures;
            with few cameras, a group may be empty by chance. Only names are compared (see `camera_group`): a camera
            sold as "EOS 350D" in one place and as "EOS DIGITAL REBEL XT" in another counts as two, which may end up in
            different groups.
    """

    heldout_share: float = 0.15
    choose_share: float = 0.0
    report_share: float = 0.0

    def __post_init__(self) -> None:
        check_fields(self)
        if not 0 < self.heldout_share < 1:
            raise ValueError(f"heldout_share is {self.heldout_share}: it must lie between 0 and 1")
        if not (self.choose_share >= 0 and self.report_share >= 0 and self.choose_share + self.report_share < 1):
            raise ValueError(
                f"choose_share and report_share are {self.choose_share} and {self.report_share}: they must be 0 or "
                "more and leave some cameras to train on"
            )

    @property
    def names(self) -> list[str]:
        """The splits of a data set: "train", "heldout", and "choose" and "report" if their share is above 0."""
        apart = {"choose": self.choose_share, "report": self.report_share}
        return ["train", "heldout", *(name for name, share in apart.items() if share)]


@dataclass(frozen=True)
class Contents:
    """The contents of the shards.

    Args:
        tile_size, tiles_per_photo: side in pixels (a multiple of 32) and number of tiles cut from each photo.
        min_tags: photos with fewer EXIF tags are left out.
        min_share: 0..1, share of the training photos below which `tags.json` calls a tag rare; shards keep all tags.
        sample: number of photos drawn from YFCC100M; 0: all.
        photos_per_shard: source photos per shard job; existing shards are grouped into jobs of half a gigabyte.
        private: keep GPS, serial numbers, names and comments in the shards; sentences omit them regardless.
    """

    tile_size: int = 256
    tiles_per_photo: int = 2
    min_tags: int = 10
    min_share: float = 0.05
    sample: int = 0
    photos_per_shard: int = 1000
    private: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        if not 0 <= self.min_share <= 1:
            raise ValueError(f"min_share is {self.min_share}: it must lie in 0..1")
        if self.tile_size < 32 or self.tile_size % 32:
            raise ValueError(f"tile_size is {self.tile_size}: it must be a multiple of 32")
        _check_least(self, sample=0, tiles_per_photo=1, photos_per_shard=1)


@dataclass(frozen=True)
class Limits:
    """Limits on downloads.

    Args:
        per_host: simultaneous downloads from one host.
        allow_private: also download from addresses that are not public, such as 127.0.0.1 or 10.0.0.1: a list of URLs
            from elsewhere can then reach whatever this machine can.

    Raises `ValueError` for a number below 1.
    """

    per_host: int = 4
    allow_private: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        _check_least(self, per_host=1)


@dataclass(frozen=True)
class Work:
    """The processes that do the work; they do not affect the result.

    Args:
        workers: processes on this machine; 1: the current process.
        scheduler: address of a running Dask scheduler instead, e.g. "tcp://10.0.0.1:8786" (see `run_jobs`).
    """

    workers: int = 2
    scheduler: str = ""

    def __post_init__(self) -> None:
        check_fields(self)
        _check_least(self, workers=1)


_GROUPS = {"simulation": Simulation, "split": Split, "contents": Contents, "limits": Limits, "work": Work}


def grouped(options: Mapping[str, Any]) -> dict[str, Any]:
    """A flat mapping of options, as in presets and notebooks → the keyword arguments of `prepare`.

    `prepare(source, data_dir, **grouped({"seed": 1, "tile_size": 128, "workers": 4}))`; other options keep their
    defaults. Raises `ValueError` for an unknown option, and for a value of the wrong type or out of range.
    """
    names = {group: [field.name for field in fields(kind)] for group, kind in _GROUPS.items()}
    known = ["seed", *(name for group in names.values() for name in group)]
    for name in options:
        if name not in known:
            close = " or ".join(difflib.get_close_matches(name, known))
            hint = f"did you mean {close}?" if close else f"choose among {', '.join(known)}"
            raise ValueError(f"{name} is not an option of prepare: {hint}")
    chosen = {group: {name: options[name] for name in own if name in options} for group, own in names.items()}
    seed = typed("seed", options.get("seed", 0), int)
    return {"seed": seed} | {group: kind(**chosen[group]) for group, kind in _GROUPS.items()}


def _check_least(group: object, **least: int) -> None:
    for name, number in least.items():
        if (value := getattr(group, name)) < number:
            raise ValueError(f"{name} is {value}: it must be at least {number}")
