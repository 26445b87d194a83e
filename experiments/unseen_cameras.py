"""What tells whether EXIF fits a photo of a camera that training never saw: pixels, and the header of the JPEG.

`python -m experiments.unseen_cameras` measures each way side by side and updates reports/golden/unseen_cameras.json.

Protocol: a photo's own EXIF against that of `OFFERED` photos of other cameras in its group, by the area under the curve
over all photos. All that is learned is learned from training photos. Every setting (ridges, number of directions,
weights) was chosen on the cameras `choose`; `report` has other cameras and chose nothing. Limits are 95 % by resampling
cameras with all their photos, since photos of a camera are not independent.

Controls: a tower trained on shuffled EXIF, whose tags are shuffled for the linear maps too; an untrained tower, whose
maps are learned from true tags, so that it shows what the maps find in any features; tags shuffled for the header.
"""

import io
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any

import numpy as np
import typer
from PIL import Image, JpegImagePlugin
from sklearn.metrics import roc_auc_score

from exiflang.data.shards import Photo, find_shards, plain_name, read_member, read_photos
from exiflang.evaluation.retrieval import embed_photos
from exiflang.inspection.tag_space import TagSpace, TagVector, correlate
from exiflang.inspection.text_bank import TextBank
from exiflang.models.model import ExifLang
from exiflang.models.weights import NAME
from exiflang.pipeline.parameters import project_path
from exiflang.utils.commands import run_command
from experiments.metadata_check import CROPS, OFFERED, packaged_with_controls
from experiments.tables import publish, table

#: Directions and ridges of the header's space, and its weight beside the pixels: chosen on the cameras `choose`.
DIRECTIONS, RIDGES, WEIGHT = 40, (1.0, 3.0), 2.0
RESAMPLINGS = 500
#: Photos whose embeddings say how much a sentence fits any picture.
REFERENCE = 1000
GROUPS = {"seen": "seen cameras", "choose": "unseen, chose the settings", "report": "unseen, report"}


@dataclass(frozen=True, eq=False)
class Pairs:
    """Photos and the EXIF offered to them: photo `i[k]` with the tags of photo `j[k]`, its own if they are equal."""

    i: np.ndarray
    j: np.ndarray
    camera: np.ndarray  # of each photo

    @classmethod
    def of(cls, cameras: Sequence[str], seed: int = 0) -> "Pairs":
        """Each photo's own EXIF, and `OFFERED` of other cameras: the draws of `metadata_check`."""
        rng, camera = np.random.default_rng(seed), np.array(cameras)
        offered = [rng.permutation(np.flatnonzero(camera != name))[:OFFERED] for name in camera]
        i = np.concatenate([[own] * (1 + len(others)) for own, others in enumerate(offered)])
        j = np.concatenate([[own, *others] for own, others in enumerate(offered)])
        return cls(i, j, np.unique(camera, return_inverse=True)[1])

    def auc(self, fit: np.ndarray) -> dict[str, float]:
        """Area under the curve of fits, a number for each pair, with its 95 % limits `low` and `high`."""
        own, of_pair, rng = self.i == self.j, self.camera[self.i], np.random.default_rng(0)
        cameras = self.camera.max() + 1
        drawn = []
        for _ in range(RESAMPLINGS):
            weight = np.bincount(rng.integers(cameras, size=cameras), minlength=cameras)[of_pair]
            drawn.append(roc_auc_score(own, fit, sample_weight=weight))
        low, high = np.quantile(drawn, [0.025, 0.975])
        return {"auc": float(roc_auc_score(own, fit)), "low": float(low), "high": float(high)}


# ---- pixels


def pixel_fits(
    model: ExifLang, text_bank: TextBank, reference: np.ndarray, photos: Sequence[Photo], pairs: Pairs
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """{name of a way: fits of the pairs} by the pixels of photos, and the sum that goes with the header's.

    `reference`: embeddings of training photos [n, D], for the mean fit of a sentence.
    """
    image, text = embed_photos(model, photos, CROPS)
    tags = [photo.tags for photo in photos]
    alone = replace(text_bank, space=None, places=None)
    placed, dim = text_bank.placed(text, tags), text.shape[1]
    space = text_bank.space
    if space is None:
        raise ValueError("the text bank has no tag space: create it again with python -m exiflang.inspection.text_bank")
    among_reference = reference @ text.T
    hub = (image @ text.T - among_reference.mean(0)) / np.maximum(among_reference.std(0), 1e-9)
    i, j = pairs.i, pairs.j
    return {
        "sentence": alone.rank(image[i], text[j]),
        "sentence, relative to other pictures": hub[i, j],
        "tags": (space.place_images(image)[i] * placed[j, dim:]).sum(-1),
        "sentence and tags (the check)": text_bank.rank(image[i], placed[j]),
    }, text_bank.fit(image[i], placed[j])


def reference_images(model: ExifLang, training: Sequence[Photo]) -> np.ndarray:
    """Embeddings of `REFERENCE` training photos, evenly spaced."""
    return embed_photos(model, training[:: max(1, len(training) // REFERENCE)], CROPS)[0]


# ---- the JPEG's header


def signature(data: bytes) -> tuple[int, ...]:
    """What a JPEG's header says of its encoder: chroma sampling, whether it is progressive, and both tables of steps.

    130 numbers; zeros for any other file.
    """
    with Image.open(io.BytesIO(data)) as image:
        if image.format != "JPEG":
            return (0,) * 130
        tables = [tuple(image.quantization[key]) for key in sorted(image.quantization)]
        sampling = JpegImagePlugin.get_sampling(image)
        return (sampling + 1, int("progressive" in image.info), *tables[0], *tables[min(1, len(tables) - 1)])


def header_vectors(signatures: Sequence[tuple[int, ...]]) -> np.ndarray:
    """Signatures as vectors: one number for each sampling, and logarithms of steps: float32 [n, 134]."""
    found = np.array(signatures, np.float32)
    samplings = found[:, :1] == np.arange(5)
    return np.concatenate([2 * samplings, found[:, 1:2], np.log2(np.maximum(found[:, 2:], 1))], 1, dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Header:
    """What training photos teach about signatures: how often each comes with each make, and a space of all tags."""

    makes: Mapping[tuple, int]
    signatures: Mapping[tuple, int]
    of_make: Mapping[str, int]
    space: TagSpace

    @classmethod
    def of(cls, photos: Sequence[Photo], values: Mapping[str, Sequence[str]], shuffled: bool = False) -> "Header":
        """Learned from training photos; `shuffled`: with another photo's tags (control)."""
        found = [signature(read_member(*photo.tiles[0])) for photo in photos]
        if shuffled:
            photos = [photos[i] for i in np.random.default_rng(0).permutation(len(photos))]
        tags = [photo.tags for photo in photos]
        vector = TagVector.of(values, tags)
        cameras = [plain_name(photo.camera) for photo in photos]
        space = TagSpace(vector, *correlate(header_vectors(found), vector(tags), cameras, DIRECTIONS, RIDGES))
        makes = [plain_name(photo.make) for photo in photos]
        return cls(Counter(zip(found, makes, strict=True)), Counter(found), Counter(makes), space)

    def fits(self, photos: Sequence[Photo], pairs: Pairs) -> dict[str, np.ndarray]:
        """{name of a way: fits of the pairs}."""
        found = [signature(read_member(*photo.tiles[0])) for photo in photos]
        makes = [plain_name(photo.make) for photo in photos]
        headers = self.space.place_images(header_vectors(found))
        places = self.space.place_tags([photo.tags for photo in photos])
        by_make = [self.log_ratio(found[i], makes[j]) for i, j in zip(pairs.i, pairs.j, strict=True)]
        return {
            "header, by make": np.array(by_make),
            "header, by all tags": (headers[pairs.i] * places[pairs.j]).sum(-1),
        }

    def log_ratio(self, found: tuple[int, ...], make: str) -> float:
        """The logarithm of P(signature | make) / P(signature), from smoothed counts."""
        share = (self.signatures[found] + 0.5) / (sum(self.signatures.values()) + 1)
        return float(np.log((self.makes[found, make] + share) / (self.of_make[make] + 1) / share))


# ---- all together


def measure(
    models: Mapping[str, tuple[ExifLang, TextBank]],
    headers: Mapping[str, Header],
    training: Sequence[Photo],
    groups: Mapping[str, Sequence[Photo]],
) -> dict[str, Any]:
    """{way: {control or "model": {group: area under the curve and limits}}}; the model comes first in `models`."""
    found: dict[str, Any] = {}
    pairs = {group: Pairs.of([plain_name(photo.camera) for photo in photos]) for group, photos in groups.items()}
    by_header = {
        name: {group: header.fits(photos, pairs[group]) for group, photos in groups.items()}
        for name, header in headers.items()
    }
    for name, (model, text_bank) in models.items():
        reference = reference_images(model, training)
        for group, photos in groups.items():
            ways, pixels = pixel_fits(model, text_bank, reference, photos, pairs[group])
            if name in by_header:
                ways |= by_header[name][group]
                ways["header and pixels"] = pixels + WEIGHT * by_header[name][group]["header, by all tags"]
            for way, fits in ways.items():
                found.setdefault(way, {}).setdefault(name, {})[group] = pairs[group].auc(fits)
    return found


def markdown(figures: Mapping[str, Any]) -> str:
    """The table: a row for each way and control."""
    groups = figures["groups"]
    columns = [f"{GROUPS[name]}: {n['photos']} photos of {n['cameras']} cameras" for name, n in groups.items()]
    rows = []
    for way, models in figures["ways"].items():
        for name, found in models.items():
            cells = [
                f"{found[group]['auc']:.2f} ({found[group]['low']:.2f} to {found[group]['high']:.2f})"
                for group in groups
            ]
            rows.append([way, name, *([f"**{cell}**" for cell in cells] if name == "model" else cells)])
    return table(["EXIF is compared by", "tower", *columns], rows)


def renew(data: Annotated[str, typer.Option(help="Data set of the packaged weights.")] = "data/base") -> None:
    """Update reports/golden/unseen_cameras.json and its table."""
    data_dir = project_path(data)
    models = packaged_with_controls(data_dir)
    values = models["model"][1].values
    training = read_photos(find_shards(data_dir / "train"))[0]
    headers = {
        "model": Header.of(training, values),
        "shuffled EXIF": Header.of(training, values, shuffled=True),
    }
    groups = {"seen": read_photos(find_shards(data_dir / "heldout"))[0][1::2]}
    groups |= {name: read_photos(find_shards(data_dir / name))[0] for name in ("choose", "report")}
    counts = {
        name: {"photos": len(photos), "cameras": len({plain_name(photo.camera) for photo in photos})}
        for name, photos in groups.items()
    }
    protocol = {"crops": CROPS, "offered": OFFERED, "resamplings": RESAMPLINGS, "header weight": WEIGHT}
    ways = measure(models, headers, training, groups)
    figures = {"model": NAME, "protocol": protocol, "groups": counts, "ways": ways}
    publish("unseen_cameras", figures, {"unseen_cameras": markdown(figures)})


#: Command line; returns the exit code, see `run_command`.
main = partial(run_command, renew)

if __name__ == "__main__":
    sys.exit(main())
