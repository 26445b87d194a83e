"""How well JPEG headers fit the camera that the EXIF claims, with each photo or each model left out.

`python -m experiments.header_check` compares every photo's own EXIF with that of other cameras and updates
reports/golden/headers.json.
"""

import sys
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

import numpy as np
import typer
from sklearn.metrics import roc_auc_score

from exiflang.headers.collect import collect_signatures
from exiflang.headers.reference import Signature, SignatureReference
from exiflang.pipeline.parameters import project_path
from exiflang.utils.commands import run_command
from experiments.tables import publish, table

#: EXIF of other cameras per photo; photos of one model at most; resamples of models for the limits.
OFFERED, MOST_PHOTOS, RESAMPLES = 20, 10, 1000


def pairs(photos: Sequence[Signature], rng: np.random.Generator) -> list[tuple[int, list[int]]]:
    """Photos, at most `MOST_PHOTOS` of a model, each with `OFFERED` photos of other models."""
    camera = np.array([photo.camera_key for photo in photos])
    found = []
    for name in dict.fromkeys(camera):
        own, others = np.flatnonzero(camera == name), np.flatnonzero(camera != name)
        for number in rng.permutation(own)[:MOST_PHOTOS]:
            found.append((int(number), rng.permutation(others)[:OFFERED].tolist()))
    return found


def scores(known: SignatureReference, kind: str, exif: str, rng: np.random.Generator) -> dict[str, Any]:
    """AUC of own EXIF against offered EXIF, with 95 % limits over models.

    kind: "new": photos of the photo's model and of the offered one are left out of the reference; "known": only the two
        photos.
    exif: "tags" for the product's ratio; "make": with the make alone; "shuffled": tags and names of a random photo.
    """
    photos = list(known.photos.values())
    camera = np.array([photo.camera_key for photo in photos])
    shuffled = rng.permutation(len(photos))
    groups: list[tuple[list[float], list[float]]] = []
    last = ""
    for number, others in pairs(photos, rng):
        if camera[number] != last:
            groups.append(([], []))
            last = camera[number]
        for other in (number, *others):
            claimed = photos[shuffled[other] if exif == "shuffled" else other]
            claimed = claimed._replace(tags=None, model="") if exif == "make" else claimed
            left_out = np.isin(camera, (camera[number], camera[other]))
            if kind == "known":
                left_out = np.isin(np.arange(len(photos)), (number, other))
            groups[-1][other != number].append(known.ratio(claimed, photos[number].encoding, left_out))
    return _auc_with_limits(groups, rng) | {"photos": sum(len(own) for own, _ in groups), "models": len(groups)}


def _auc_with_limits(groups: Sequence[tuple[list[float], list[float]]], rng: np.random.Generator) -> dict[str, float]:
    def auc(chosen: np.ndarray) -> float:
        own = np.concatenate([groups[i][0] for i in chosen])
        offered = np.concatenate([groups[i][1] for i in chosen])
        return float(roc_auc_score(np.repeat([1, 0], [len(own), len(offered)]), np.concatenate([own, offered])))

    drawn = [auc(rng.integers(len(groups), size=len(groups))) for _ in range(RESAMPLES)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {"auc": auc(np.arange(len(groups))), "low": float(low), "high": float(high)}


def markdown(found: dict[str, Any]) -> str:
    """The table: a row per method, a column for seen and unseen models."""
    rows = [
        [name, *(f"{part['auc']:.2f} ({part['low']:.2f} to {part['high']:.2f})" for part in row.values())]
        for name, row in found["auc"].items()
    ]
    rows.append(["tables and sampling in no other photo", *(f"{found['never_seen'][k]:.0%}" for k in ("known", "new"))])
    head = [f"{found['photos']:,} photos of {found['cameras']} models", "model in the reference", "model left out"]
    return table(head, rows)


def renew(
    photos: Annotated[str, typer.Option(help="Photos as cameras wrote them, or shards of them.")] = "../shared/photos",
) -> None:
    """Update reports/golden/headers.json."""
    known, left_out = collect_signatures(project_path(photos))
    names = {"header given tags, make and model": "tags", "header given the make": "make"}
    names |= {"control: EXIF of a random photo": "shuffled"}
    auc = {
        name: {kind: scores(known, kind, exif, np.random.default_rng(0)) for kind in ("known", "new")}
        for name, exif in names.items()
    }
    golden = {"protocol": {"offered": OFFERED, "most_photos_of_a_model": MOST_PHOTOS, "resamples": RESAMPLES}}
    golden |= {"photos": len(known.photos), "cameras": known.cameras, "left_out": dict(left_out)}
    golden |= {"auc": auc, "never_seen": {"known": known.never_seen(True), "new": known.never_seen(False)}}
    publish("headers", golden, {"headers": markdown(golden)})


#: Command line; returns the exit code, see `run_command`.
main = partial(run_command, renew)

if __name__ == "__main__":
    sys.exit(main())
