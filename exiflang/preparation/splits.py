"""The split of each photo of a data set, drawn by camera so that test cameras stay out of training."""

import hashlib
import math
from collections import Counter

from exiflang.data.shards import plain_name
from exiflang.preparation.options import Split


class Splitter:
    """Assigns the photos of shard job `job`, in source order, to "train", "heldout", "choose" or "report".

    All photos of a camera whose `camera_group` is "choose" or "report" go there; for every other camera,
    `heldout_share` of the photos, evenly spaced, goes to "heldout". Each shard is split independently, with its own
    `Splitter`. A camera's first photo in a shard always goes to "train", so no held-out photo is of an unseen camera,
    and a camera with a single photo has none held out. The spacing starts at an offset drawn from `seed` and the job
    number; the first job (0) has no offset.
    """

    def __init__(self, job: int, seed: int, split: Split):
        self._job, self._seed, self._split = job, seed, split
        self._of_camera: Counter[str] = Counter()

    def __call__(self, camera: str) -> str:
        """The split of the next photo, taken by `camera`."""
        group = camera_group(camera, self._seed, self._split)
        if group != "train":
            return group
        self._of_camera[camera] += 1
        number, share = self._of_camera[camera], self._split.heldout_share
        start = drawn(f"{self._seed}:{self._job}:{camera}") if self._job else 0.0
        due = math.floor(number * share + start) > math.floor((number - 1) * share + start)
        return "heldout" if due and number > 1 else "train"


def camera_group(camera: str, seed: int, split: Split) -> str:
    """ "train", "choose" or "report": the group of a camera's photos.

    Drawn by a hash of `seed` and the camera's make and model (`Photo.camera`), so a camera stays in its group when
    photos are added to the source. Spellings that differ in case, spaces or punctuation count as one camera. Photos
    that name no model may be of any camera and cannot stand for an unseen one, so they go to "train".
    """
    name = plain_name(camera)
    if name.endswith("unknown"):
        return "train"
    number, report = drawn(f"{seed}:{name}"), split.report_share
    return "report" if number < report else "choose" if number < report + split.choose_share else "train"


def drawn(text: str) -> float:
    """A number in 0..1 that depends only on `text`, uniform over texts."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()) / 2**64
