"""What each photo of a data set is for: drawn by its camera, so that test cameras stay out of training."""

import hashlib
import math
from collections import Counter

from exiflang.data.shards import plain_name
from exiflang.preparation.options import Split


class Splitter:
    """Sends the photos of shard job `job`, in the order of the source, to "train", "heldout", "choose" or "report".

    All photos of a camera whose `camera_group` is "choose" or "report" go there; of each other camera `heldout_share`
    of the photos, evenly spaced, to "heldout". Each shard is split by itself, with a `Splitter` of its own. In each the
    first photo of a camera is trained on, so that no held-out photo is of an unseen camera, and of cameras with one
    photo there none is held out. Where the spacing of a camera begins is drawn by `seed` and the number of the job, but
    in the first one (0), in which it ends at the share.
    """

    def __init__(self, job: int, seed: int, split: Split):
        self._job, self._seed, self._split = job, seed, split
        self._of_camera: Counter[str] = Counter()

    def __call__(self, camera: str) -> str:
        """The split of the next photo, which `camera` took."""
        group = camera_group(camera, self._seed, self._split)
        if group != "train":
            return group
        self._of_camera[camera] += 1
        number, share = self._of_camera[camera], self._split.heldout_share
        start = drawn(f"{self._seed}:{self._job}:{camera}") if self._job else 0.0
        due = math.floor(number * share + start) > math.floor((number - 1) * share + start)
        return "heldout" if due and number > 1 else "train"


def camera_group(camera: str, seed: int, split: Split) -> str:
    """ "train", "choose" or "report": what the photos of a camera are for.

    Drawn by a hash of `seed` and the camera's make and model (`Photo.camera`), so that a camera stays in its group when
    photos are added to the source. Spellings that differ by case, spaces or punctuation are one camera. Photos that
    name no model may be of any camera, so that they are no evidence of an unseen one: "train".
    """
    name = plain_name(camera)
    if name.endswith("unknown"):
        return "train"
    number, report = drawn(f"{seed}:{name}"), split.report_share
    return "report" if number < report else "choose" if number < report + split.choose_share else "train"


def drawn(text: str) -> float:
    """A number in 0..1 that depends on `text` alone, uniform over texts."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()) / 2**64
