"""The thumbnail that a camera stores in the EXIF, and what it shows of the picture."""

import contextlib
import io
import warnings
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from scipy.ndimage import uniform_filter
from skimage.feature import match_template

from exiflang.exif.reader import read_exif_block
from exiflang.exif.tags import ExifError
from exiflang.headers.containers import turn_of
from exiflang.utils.images import DAMAGE

#: A thumbnail of more pixels is not decoded; one of less than this many on a side is not compared.
MOST_PIXELS, LEAST_SIDE = 4_000_000, 16
#: Longer side in pixels at which pictures are compared, and at which a part is looked for.
SIDE, SEARCH_SIDE = 48, 96
#: Correlation with the picture: 29 of 31 thumbnails of real cameras are above 0.97, and none of an unrelated picture
#: above 0.65. A part is chosen among thousands of places.
ALIKE, ALIKE_PART = 0.9, 0.93
#: The same for the best three quarters of the pixels: above 0.989 in these photos, below 0.94 for unrelated ones.
ALIKE_MOSTLY = 0.97
#: Mean difference of gray values in 5 x 5 of those pixels: at most 23 in these photos.
CHANGED = 45.0
#: Deviation of gray values, below which a picture is too uniform to be compared.
UNIFORM = 5.0
_BAR = 40.0


class Match(NamedTuple):
    """What a thumbnail shows of the picture.

    Attributes:
        kind: "same"; "changed" in one place; "part": the picture is a part of the thumbnail; "other" content.
        turn: degrees by which the picture is turned in the thumbnail, counterclockwise.
        across, down: fractions of the thumbnail's width and height that the picture fills.
    """

    kind: Literal["same", "changed", "part", "other"]
    turn: int = 0
    across: float = 1.0
    down: float = 1.0


def read_thumbnail(photo: bytes) -> np.ndarray | None:
    """The thumbnail, uint8 [h, w, 3], turned like the picture; None if there is none that can be read."""
    with contextlib.suppress(ExifError):
        stored = read_exif_block(photo).thumbnail
        return decode_thumbnail(stored, turn_of(photo)) if stored else None
    return None


def decode_thumbnail(stored: bytes, turn: Image.Transpose | None = None) -> np.ndarray | None:
    """A thumbnail's JPEG file as uint8 [h, w, 3]; None if it cannot be read or is too large."""
    with warnings.catch_warnings(action="ignore"), contextlib.suppress(*DAMAGE):
        with JpegImageFile(io.BytesIO(stored)) as image:
            if image.width * image.height <= MOST_PIXELS:
                pixels = image.convert("RGB")
                return np.array(pixels if turn is None else pixels.transpose(turn))
    return None


def match_thumbnail(thumbnail: np.ndarray, picture: np.ndarray) -> Match | None:
    """Compare uint8 [h, w, 3] with uint8 [H, W, 3]; None if one is too small or uniform.

    Crops that leave more than about 95 % of width and height are not noticed.
    """
    if min(*thumbnail.shape[:2], *picture.shape[:2]) < LEAST_SIDE:
        return None
    thumbnail, picture = (np.asarray(Image.fromarray(pixels).convert("L")) for pixels in (thumbnail, picture))
    if min(_scaled(thumbnail, SIDE).std(), _scaled(picture, SIDE).std()) < UNIFORM:
        return None
    turns = [np.ascontiguousarray(np.rot90(picture, quarter)) for quarter in range(4)]
    for quarter, turned in enumerate(turns):
        for view, part in _views(thumbnail, turned):
            mine = _scaled(view, SIDE)
            theirs = _scaled(part, SIDE, mine.shape)
            if _correlation(mine, theirs) >= ALIKE or _mostly_alike(mine, theirs):
                return Match("changed" if _difference(mine, theirs) > CHANGED else "same", 90 * quarter)
    parts = [(*_find_part(thumbnail, turned), 90 * quarter) for quarter, turned in enumerate(turns)]
    found, across, down, turn = max(parts)
    if found < ALIKE_PART:
        return Match("other")
    # Cameras fill a thumbnail of another shape than the picture's with more of the scene on two sides.
    filled = max(across, down) > 0.98 and min(across, down) > 0.7
    return Match("same", turn) if filled else Match("part", turn, across, down)


def _views(thumbnail: np.ndarray, picture: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Ways in which cameras fit a picture into a thumbnail: stretched, between dark bars, or its middle."""
    (h, w), (height, width) = thumbnail.shape[:2], picture.shape[:2]
    views = [(thumbnail, picture)]
    if abs(w * height / (h * width) - 1) < 0.03:
        return views
    bar, side = max(0, round((h - w * height / width) / 2)), max(0, round((w - h * width / height) / 2))
    bars = [thumbnail[: max(bar - 1, 0)], thumbnail[h - max(bar - 1, 0) :]]
    bars += [thumbnail[:, : max(side - 1, 0)], thumbnail[:, w - max(side - 1, 0) :]]
    if all(part.mean() < _BAR for part in bars if part.size):
        views = [(thumbnail[bar : h - bar, side : w - side], picture)]
    down, across = min(height, round(width * h / w)), min(width, round(height * w / h))
    top, left = (height - down) // 2, (width - across) // 2
    return [*views, (thumbnail, picture[top : top + down, left : left + across])]


def _find_part(thumbnail: np.ndarray, picture: np.ndarray) -> tuple[float, float, float]:
    """Best correlation of the picture with a part of the thumbnail, and which fractions of it that part fills."""
    whole = _scaled(thumbnail, SEARCH_SIDE)
    h, w = whole.shape
    widest = min(1.0, h / w * picture.shape[1] / picture.shape[0])
    best = (-1.0, 1.0, 1.0)
    for scale in widest * np.linspace(0.35, 1, 27):
        size = (min(h, round(scale * w * picture.shape[0] / picture.shape[1])), round(scale * w))
        if min(size) < LEAST_SIDE:
            continue
        found = float(match_template(whole, _scaled(picture, SEARCH_SIDE, size)).max())
        best = max(best, (found, size[1] / w, size[0] / h))
    return best


def _scaled(gray: np.ndarray, side: int, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """A gray picture, uint8 [h, w], scaled to `shape`, by default with a longer side of `side` pixels, float."""
    h, w = gray.shape
    height, width = shape or (max(1, round(side * h / max(h, w))), max(1, round(side * w / max(h, w))))
    image = Image.fromarray(np.ascontiguousarray(gray))
    return np.asarray(image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3), float)


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    first, second = first - first.mean(), second - second.mean()
    norm = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float((first * second).sum()) / norm if norm > 0 else 0.0


def _mostly_alike(thumbnail: np.ndarray, picture: np.ndarray) -> bool:
    """Whether the three quarters of the pixels that fit each other best are the same."""
    first, second = thumbnail.ravel(), picture.ravel()
    best = np.ones(first.size, bool)
    for _ in range(5):
        line = np.polyfit(second[best], first[best], 1)
        off = np.abs(first - np.polyval(line, second))
        best = off <= np.quantile(off, 0.75)
        if second[best].std() < UNIFORM:
            return False
    return line[0] > 0.4 and _correlation(first[best], second[best]) >= ALIKE_MOSTLY


def _difference(thumbnail: np.ndarray, picture: np.ndarray) -> float:
    """Largest local difference of gray values, apart from brightness and contrast of the whole."""
    line = np.polyfit(picture.ravel(), thumbnail.ravel(), 1)
    return float(uniform_filter(np.abs(thumbnail - np.polyval(line, picture)), 5).max())
