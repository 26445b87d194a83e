"""The signature reference: how often cameras write which JPEG header, and how well a file's header fits its EXIF.

The encoding of a file (quantization tables and sampling) is compared with the camera that its EXIF claims. Cameras
whose EXIF has nearly the same tags tend to encode alike, so a claim can be checked for cameras outside the reference:

    P(e | EXIF) = sum of w over the photos with encoding e / sum of w over all photos,
    w = exp(20 (J - 1)) x 3 if the make is the same x 10 if the model is the same / photos of the photo's model,

with J the Jaccard index of the two sets of tags, shrunk toward P(e). The result is log10 of P(e | EXIF) / P(e).
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from transformers.utils import cached_file

from exiflang.data.shards import plain_name
from exiflang.exif.tags import clean
from exiflang.headers.jpeg_header import JpegHeader
from exiflang.utils.files import read_json, write_whole

FILE = "signatures.json"
#: A reference file must be smaller than this many bytes.
MOST_BYTES = 64 << 20
#: Weight of photos of the claimed make and model; exponent of the similarity of tag sets; photos of P(e) mixed in.
MAKE, MODEL, SHARP, PRIOR = 3.0, 10.0, 20.0, 0.5
_FLOOR = 1e-5
_FORMAT = 1
#: Fields of a header besides its encoding and tags that are compared with photos of the same model, in words.
COMPARED = {
    "size": "size in pixels", "progressive": "progressive or not", "huffman": "Huffman tables",
    "restart": "restart interval", "markers": "order of segments", "thumbnail": "thumbnail",
    "byte_order": "byte order of the EXIF", "maker_note": "maker note",
}  # fmt: skip


class SignatureError(ValueError):
    """A signature reference cannot be read; the message names the file and says what to do."""


class Signature(NamedTuple):
    """A photo in the reference: the camera by its EXIF, the key of its encoding, `JpegHeader.tags`, other fields."""

    make: str
    model: str
    software: str
    encoding: str
    tags: tuple[str, ...] | None
    fields: Mapping[str, Any]

    @classmethod
    def of(cls, header: JpegHeader, exif: Mapping[str, str]) -> Signature:
        """The signature of a photo by its header and canonical EXIF."""
        fields = {name: getattr(header, name) for name in COMPARED}
        make, model, software = (clean(exif.get(tag, ""), 40) for tag in ("Make", "Model", "Software"))
        known = {name: value for name, value in fields.items() if value is not None}
        return cls(make, model, software, header.encoding, header.tags, known)

    @property
    def make_key(self) -> str:
        """The first word of the make: "NIKON CORPORATION" and "Nikon" are one."""
        return plain_name((self.make.split() or [""])[0])

    @property
    def camera_key(self) -> str:
        return f"{self.make_key} {plain_name(self.model)}"


@dataclass(frozen=True)
class HeaderFit:
    """How well a JPEG header fits the camera that the file's EXIF claims.

    Attributes:
        ratio: log10 of the encoding's probability given the EXIF against its probability in any photo; NaN if the
            encoding is in no photo of the reference.
        percentile: fraction of authentic photos with a lower ratio, 0..1, among photos of other models if the claimed
            model is not in the reference; NaN if unknown.
        known_camera: whether the reference has photos of the claimed model.
        never_seen: fraction of authentic photos whose encoding no other photo has, or, if the claimed model is not in
            the reference, no photo of another model.
        photos, cameras: photos and models of the reference.
        of_model, of_make, of_any: photos with the encoding, and all photos, of the claimed model, of its make, of any.
        makes: the makes that have photos with this encoding, most photos first.
        rotated: whether the encoding is in no photo, but that of the picture rotated by 90 degrees is.
        unlike: {field: value} of the header, see `COMPARED`, that no photo of the claimed model has; only where known.
    """

    ratio: float
    percentile: float
    known_camera: bool
    never_seen: float
    photos: int
    cameras: int
    of_model: tuple[int, int]
    of_make: tuple[int, int]
    of_any: tuple[int, int]
    makes: tuple[str, ...]
    rotated: bool
    unlike: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class SignatureReference:
    """Signatures of N authentic photos.

    Attributes:
        photos: {8 hexadecimal digits of the photo's SHA-256: its signature}; no pixels, no values but make, model and
            software.
        ranks: {"known" or "new" (model left out): the percentiles 1 to 99 of the ratios of its photos}.
    """

    photos: Mapping[str, Signature] = field(repr=False)
    ranks: Mapping[str, Sequence[float]] = field(default_factory=dict, repr=False)

    @property
    def cameras(self) -> int:
        """Number of camera models."""
        return len(self._table.cameras)

    def fit(self, header: JpegHeader, exif: Mapping[str, str]) -> HeaderFit | None:
        """Compare a file's header with the camera of its canonical EXIF; None if that has no make."""
        claimed = Signature.of(header, exif)
        if not claimed.make_key or not self.photos:
            return None
        table, encoding = self._table, claimed.encoding
        rotated = False
        if encoding not in table.encodings and (turned := _transposed(header).encoding) in table.encodings:
            encoding, rotated = turned, True
        same = table.encoding == table.encodings.get(encoding, -1)
        made, model = table.make == table.makes.get(claimed.make_key, -1), table.cameras.get(claimed.camera_key, -1)
        own = table.camera == model
        ratio = self.ratio(claimed, encoding) if same.any() else math.nan
        makes = Counter(photo.make for photo, has in zip(self.photos.values(), same, strict=True) if has)
        return HeaderFit(
            ratio=ratio,
            percentile=self._percentile(ratio, bool(own.any())),
            known_camera=bool(own.any()),
            never_seen=self.never_seen(bool(own.any())),
            photos=len(self.photos),
            cameras=self.cameras,
            of_model=(int((same & own).sum()), int(own.sum())),
            of_make=(int((same & made).sum()), int(made.sum())),
            of_any=(int(same.sum()), len(same)),
            makes=tuple(make for make, _ in makes.most_common()),
            rotated=rotated,
            unlike=self._unlike(claimed, own),
        )

    def _unlike(self, claimed: Signature, own: np.ndarray) -> dict[str, Any]:
        photos = [photo.fields for photo, is_own in zip(self.photos.values(), own, strict=True) if is_own]
        found = {}
        for name, value in claimed.fields.items():
            known = [fields[name] for fields in photos if name in fields]
            if known and value not in known:
                found[name] = value
        return found

    def ratio(self, claimed: Signature, encoding: str, left_out: np.ndarray | None = None) -> float:
        """The ratio for an encoding in the reference; `left_out`: bool [N], photos to leave out."""
        table = self._table
        weights = table.weights if left_out is None else np.where(left_out, 0.0, table.weights)
        same = table.encoding == table.encodings[encoding]
        total = weights.sum()
        base = weights[same].sum() / total if total else 0.0
        alike = weights * np.exp(SHARP * (table.similarity(claimed) - 1))
        alike[table.make == table.makes.get(claimed.make_key, -1)] *= MAKE
        alike[table.camera == table.cameras.get(claimed.camera_key, -1)] *= MODEL
        given = (alike[same].sum() + PRIOR * base) / (alike.sum() + PRIOR)
        return math.log10((given + _FLOOR) / (base + _FLOOR))

    def never_seen(self, known: bool) -> float:
        """`HeaderFit.never_seen` for a model in the reference, or for another; every model counts the same."""
        table = self._table
        pairs = np.unique(np.stack([table.encoding, table.camera]), axis=1)
        owners = table.encoding if known else pairs[0]  # photos of each encoding, or models
        alone = np.bincount(owners)[table.encoding] == 1
        return float(np.average(alone, weights=table.weights))

    def _percentile(self, ratio: float, known: bool) -> float:
        ranks = self.ranks.get("known" if known else "new")
        if not ranks or math.isnan(ratio):
            return math.nan
        return float(np.searchsorted(ranks, ratio, "left") + np.searchsorted(ranks, ratio, "right")) / 2 / len(ranks)

    def calibrated(self) -> SignatureReference:
        """The same photos with the percentiles of their ratios: each photo left out, and each model left out.

        Every model counts the same, however many photos it has. An encoding that only the photo has does not count.
        """
        table, photos = self._table, list(self.photos.values())
        ratios: dict[str, list[float]] = {"known": [], "new": []}
        weights: dict[str, list[float]] = {"known": [], "new": []}
        for number, photo in enumerate(photos):
            own = table.camera == table.camera[number]
            itself = np.arange(len(photos)) == number
            same = table.encoding == table.encoding[number]
            for kind, left_out in {"known": itself, "new": own}.items():
                if (same & ~left_out).any() and (kind == "new" or own.sum() > 1):
                    ratios[kind].append(self.ratio(photo, photo.encoding, left_out))
                    weights[kind].append(float(table.weights[number]))
        shares = np.arange(1, 100) / 100
        ranks = {
            kind: np.quantile(values, shares, weights=weights[kind], method="inverted_cdf").round(4).tolist()
            for kind, values in ratios.items()
            if values
        }
        return SignatureReference(self.photos, ranks)

    @cached_property
    def _table(self) -> _Table:
        return _Table.of(list(self.photos.values()))

    def merged(self, other: SignatureReference) -> SignatureReference:
        """The photos of both, each once, calibrated."""
        return SignatureReference({**self.photos, **other.photos}).calibrated()

    def save(self, path: str | Path) -> None:
        """Write the reference as JSON, atomically. Raises `OSError`."""
        place: dict[tuple[str, ...] | None, int | None] = {None: None}
        for photo in self.photos.values():
            place.setdefault(photo.tags, len(place) - 1)
        sets = [tags for tags in place if tags is not None]
        names = sorted({name for tags in sets for name in tags})
        number = {name: at for at, name in enumerate(names)}
        photos = {key: [*photo[:4], place[photo.tags], photo.fields] for key, photo in sorted(self.photos.items())}
        known = {"format": _FORMAT, "tag_names": names, "tag_sets": [[number[name] for name in tags] for tags in sets]}
        known |= {"ranks": dict(self.ranks), "photos": photos}
        write_whole(path, json.dumps(known, separators=(",", ":")) + "\n")

    @classmethod
    def of_model(cls, name: str | Path) -> SignatureReference | None:
        """The reference in a model's folder or at its hub id; None if it has none."""
        path = cached_file(str(name), FILE, _raise_exceptions_for_missing_entries=False)
        return None if path is None else cls.load(path)

    @classmethod
    def load(cls, path: str | os.PathLike) -> SignatureReference:
        """Read a reference. Raises `SignatureError` for a missing, too large or damaged file."""
        path = Path(path)
        try:
            if path.stat().st_size > MOST_BYTES:
                raise SignatureError(f"{path}: larger than {MOST_BYTES >> 20} MB, so not a signature reference")
            known = read_json(path)
            if known["format"] != _FORMAT:
                raise SignatureError(f"{path}: a signature reference of another version: create it again")
            names = known["tag_names"]
            sets = [tuple(names[number] for number in tags) for tags in known["tag_sets"]]
            photos = {key: _signature(row, sets) for key, row in known["photos"].items()}
            ranks = {kind: [float(value) for value in values] for kind, values in known["ranks"].items()}
            return cls(photos, ranks)
        except OSError as error:
            raise SignatureError(f"{path}: cannot be read ({error.strerror}); check the path") from error
        except SignatureError:
            raise
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise SignatureError(
                f"{path}: not a signature reference, or damaged ({error!r}): create it again"
            ) from error


def _signature(row: Sequence[Any], sets: Sequence[tuple[str, ...]]) -> Signature:
    make, model, software, encoding, tags, stored = row
    fields = {name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()}
    return Signature(make, model, software, encoding, None if tags is None else sets[tags], fields)


@dataclass(frozen=True, eq=False)
class _Table:
    """Signatures as arrays of N numbers: the places of their values in `makes`, `cameras`, `encodings`, `tag_sets`."""

    make: np.ndarray
    camera: np.ndarray
    encoding: np.ndarray
    tag_set: np.ndarray
    weights: np.ndarray
    makes: Mapping[str, int]
    cameras: Mapping[str, int]
    encodings: Mapping[str, int]
    tag_sets: Sequence[frozenset[str]]

    @classmethod
    def of(cls, photos: Sequence[Signature]) -> _Table:
        make, makes = _numbered(photo.make_key for photo in photos)
        camera, cameras = _numbered(photo.camera_key for photo in photos)
        encoding, encodings = _numbered(photo.encoding for photo in photos)
        tag_set, tag_sets = _numbered(frozenset(photo.tags or ()) for photo in photos)
        weights = 1 / np.bincount(camera)[camera] if photos else np.zeros(0)
        return cls(make, camera, encoding, tag_set, weights, makes, cameras, encodings, list(tag_sets))

    def similarity(self, claimed: Signature) -> np.ndarray:
        """Jaccard index of the claimed tags with those of each photo, float [N]; 1 if the claim's are unknown."""
        if claimed.tags is None:
            return np.ones(len(self.tag_set))
        own = frozenset(claimed.tags)
        return np.array([len(own & other) / max(len(own | other), 1) for other in self.tag_sets])[self.tag_set]


def _numbered(values: Iterable[Any]) -> tuple[np.ndarray, dict[Any, int]]:
    places: dict[Any, int] = {}
    numbers = [places.setdefault(value, len(places)) for value in values]
    return np.array(numbers, int), places


def _transposed(header: JpegHeader) -> JpegHeader:
    """The header of the same picture rotated by 90 degrees without recompression."""
    layers = (part.split(":") for part in header.sampling.split())
    sampling = " ".join(f"{'x'.join(reversed(factors.split('x')))}:{table}" for factors, table in layers)
    tables = tuple(tuple(np.reshape(table, (8, 8)).T.ravel().tolist()) for table in header.tables)
    return JpegHeader(tables, sampling, header.height, header.width)
