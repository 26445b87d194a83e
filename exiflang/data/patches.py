"""Photos in shards → the patches and sentences for training."""

import hashlib
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from exiflang.data.shards import DataError, Photo, TileLocation, read_member, read_photos, warn_of_reencoding
from exiflang.exif.text import TagVocabulary, exif_to_text
from exiflang.utils.images import ImageError, load_image
from exiflang.utils.raw_files import raw_reason
from exiflang.utils.storage import Store

TAG_STREAM = 0x7A65  # separates the random numbers of tags from those of crops


def decode_tile(photo: Photo, location: TileLocation) -> np.ndarray:
    """The pixels of a tile of `photo`: uint8 [H, W, 3]. Raises `DataError` if it is broken."""
    tile = read_member(*location)
    try:
        if reason := raw_reason(io.BytesIO(tile)):
            raise ImageError(f"{reason}, whose pixels depend on who develops it")
        return load_image(tile)
    except ImageError as error:
        raise DataError(f"{location[0]}: a tile of photo {photo.id} cannot be decoded ({error})") from error


def decode_patch(photo: Photo, patch_size: int, rng: np.random.Generator) -> Tensor:
    """A random crop of a random tile of `photo`: uint8 [3, P, P]. Raises `DataError` naming a tile that is broken."""
    return decode_views(photo, patch_size, 1, rng)[0]  # [1, 3, P, P] -> [3, P, P]


def decode_views(
    photo: Photo,
    patch_size: int,
    views: int,
    rng: np.random.Generator,
    decode: Callable[[Photo, TileLocation], np.ndarray] = decode_tile,
) -> Tensor:
    """`views` random crops of `photo`: uint8 [V, 3, P, P], the first of them the one that `decode_patch` draws.

    No tile repeats before each has been drawn once, which minimizes the scene content that views share; each view's
    position in its tile is drawn independently. A tile is decoded once, however many views use it. Raises `DataError`
    naming a tile that is broken or smaller than a patch.
    """
    pixels: dict[TileLocation, np.ndarray] = {}
    waiting: list[TileLocation] = []
    patches = []
    for _ in range(views):
        waiting = waiting or list(photo.tiles)
        location = waiting.pop(rng.integers(len(waiting)))
        if location not in pixels:
            pixels[location] = decode(photo, location)
        height, width = pixels[location].shape[:2]
        if min(height, width) < patch_size:
            raise DataError(
                f"{location[0]}: a tile of photo {photo.id} is {width} x {height} pixels, smaller than a patch of "
                f"{patch_size}: choose a smaller patch_size"
            )
        y, x = rng.integers(height - patch_size + 1), rng.integers(width - patch_size + 1)
        patches.append(pixels[location][y : y + patch_size, x : x + patch_size])
    stacked = np.stack(patches).transpose(0, 3, 1, 2)  # [V, P, P, 3] -> [V, 3, P, P]
    return torch.from_numpy(np.ascontiguousarray(stacked))


def sentence_of(photo: Photo, vocabulary: TagVocabulary | None) -> str:
    """The complete sentence of a photo, limited to the tags that `vocabulary` keeps, if given."""
    return exif_to_text(vocabulary.transform(photo.tags) if vocabulary else photo.tags)


def read_vocabulary(root: str, min_share: float) -> TagVocabulary:
    """The vocabulary in a data set's `tags.json`, cut at `min_share`. Raises `DataError` if it is missing."""
    try:
        state = json.loads(Store(root).read("tags.json"))
        del state["kept"]
        return TagVocabulary.from_dict(state | {"min_share": min_share})
    except (OSError, ValueError, LookupError, TypeError) as error:
        advice = "set min_share to 0, or prepare the data again with 01_prepare_data"
        raise DataError(f"{root}/tags.json: cannot be read, so rare tags cannot be dropped: {advice}") from error


def draw_tags(sentence: str, rng: np.random.Generator, tag_dropout: float, shuffle_tags: bool) -> str:
    """`sentence` with some tags dropped, but never all, or in random order (see `PatchDataset`)."""
    if not tag_dropout and not shuffle_tags:
        return sentence
    words = np.array(sentence.split(", "), dtype=object)  # no value holds ", ": see `exif_to_text`
    stays = rng.random(len(words)) >= tag_dropout
    stays[rng.integers(len(words))] |= not stays.any()
    words = words[stays]
    return ", ".join(rng.permutation(words) if shuffle_tags else words)


def check_drawing(patch_size: int, views: int, tag_dropout: float) -> None:
    """Raises `ValueError` for a number out of range (see `PatchDataset`)."""
    if patch_size < 1:
        raise ValueError(f"patch_size is {patch_size}: it must be at least 1 pixel")
    if not isinstance(views, int) or views < 1:
        raise ValueError(f"views is {views!r}: it must be a whole number of at least 1")
    if not 0 <= tag_dropout < 1:
        raise ValueError(f"tag_dropout is {tag_dropout}: it must be at least 0 and below 1")


class PatchDataset(Dataset):
    """Random patches of each photo with the photo's EXIF sentence: item i is `(uint8 [3, P, P], str)`.

    Patch and sentence depend only on `(seed, epoch, i)`, so runs repeat and resume exactly with any number of workers.

    Args:
        shards: paths of the shards, e.g. `find_shards(folder)`.
        patch_size: side of the crop in pixels.
        seed: determines crops, dropped tags and their order, and the permutation of `exif="shuffled"`.
        exif: "own", or "shuffled": the control in which each photo permanently gets a different photo's sentence.
        views: patches per photo. With more than one, an item's patches are uint8 [V, 3, P, P], from different tiles as
            far as the photo has them (see `decode_views`); the first does not depend on how many follow.
        tag_dropout: probability that a tag is dropped from an item's sentence: at least 0 and below 1. One tag is
            always kept.
        shuffle_tags: whether the tags of an item's sentence come in random order.
        vocabulary: drops its rare tags from the sentences.
        cache: decode all tiles up front and keep them in memory: 3 bytes per pixel, 1.8 GB for 9,309 tiles of 256 px.
            An item then takes a tenth of the time. Forked worker processes share the cache, spawned ones copy it.

    `photos` and `sentences` (complete ones) are in the order of the items; `left_out` counts unusable tiles by reason.

    Raises:
        DataError: a shard cannot be used (see `read_photos`); on access, a tile that is broken or smaller than a patch
            (with `cache`, a broken one immediately).
        ValueError: an unknown value of `exif`, or a number out of range.
    """

    def __init__(
        self,
        shards: Sequence[Path],
        patch_size: int,
        seed: int = 0,
        exif: str = "own",
        *,
        views: int = 1,
        tag_dropout: float = 0.0,
        shuffle_tags: bool = False,
        vocabulary: TagVocabulary | None = None,
        cache: bool = False,
    ):
        if exif not in ("own", "shuffled"):
            raise ValueError(f"exif is {exif!r}: choose 'own' or 'shuffled'")
        check_drawing(patch_size, views, tag_dropout)
        self.photos, self.left_out = read_photos(shards)
        warn_of_reencoding(shards)
        self.sentences = [sentence_of(photo, vocabulary) for photo in self.photos]
        if exif == "shuffled":
            order = np.random.default_rng([seed, 0x5EED]).permutation(len(self.photos))
            giver = dict(zip(order, np.roll(order, 1), strict=True))  # one cycle: no photo keeps its own sentence
            self.sentences = [self.sentences[giver[i]] for i in range(len(order))]
        self.patch_size, self.seed, self.epoch = patch_size, seed, 0
        self.views, self.tag_dropout, self.shuffle_tags = views, tag_dropout, shuffle_tags
        kept = [(photo, location) for photo in self.photos for location in photo.tiles] if cache else []
        self._decoded = {location: decode_tile(photo, location) for photo, location in kept}

    @property
    def fingerprint(self) -> str:
        """A hash of the photos, tiles, sentences and drawing options; independent of the folder."""
        tiles = [[photo.id, [(shard.name, *location) for shard, *location in photo.tiles]] for photo in self.photos]
        what = [self.patch_size, self.seed, tiles, self.sentences]
        drawn = [self.views, float(self.tag_dropout), bool(self.shuffle_tags)]
        if drawn != [1, 0.0, False]:  # the defaults keep the fingerprint of runs that predate these options
            what.append(drawn)
        return hashlib.sha256(json.dumps(what).encode()).hexdigest()

    @property
    def summary(self) -> str:
        """A description for display."""
        different = len(set(self.sentences))
        return f"{len(self)} photos, {different} different sentences, left out: {dict(self.left_out)}"

    def set_epoch(self, epoch: int) -> None:
        """Draw different items from now on."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, index: int) -> tuple[Tensor, str]:
        rng = np.random.default_rng([self.seed, self.epoch, index])
        patches = decode_views(self.photos[index], self.patch_size, self.views, rng, self._pixels)
        rng = np.random.default_rng([self.seed, self.epoch, index, TAG_STREAM])  # separate, so that crops do not change
        sentence = draw_tags(self.sentences[index], rng, self.tag_dropout, self.shuffle_tags)
        return patches if self.views > 1 else patches[0], sentence

    def _pixels(self, photo: Photo, location: TileLocation) -> np.ndarray:
        return self._decoded[location] if self._decoded else decode_tile(photo, location)
