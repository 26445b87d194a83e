"""What the rules look at: the tags of a picture file as they are stored and, unless tags are all there is, the file."""

import contextlib
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property

import numpy as np

from exiflang.exif.reader import read_exif_block
from exiflang.exif.tags import NAMES, ExifError, clean, read_numbers
from exiflang.headers.blocks import JpegBlocks, read_blocks
from exiflang.headers.containers import maker_note, profile_description, read_xmp_packets, turn_of
from exiflang.headers.credentials import Credentials, read_credentials
from exiflang.headers.thumbnail import Match, decode_thumbnail, match_thumbnail
from exiflang.headers.xmp import Xmp, parse_xmp
from exiflang.utils.images import DAMAGE
from exiflang.utils.raw_files import raw_reason

_FOLDERS = ("Image", "EXIF", "Interoperability", "GPS", "Thumbnail")
_DATE = re.compile(r"(\d{4})[:/.-](\d\d)[:/.-](\d\d)[ T](\d\d):(\d\d):(\d\d)")


@dataclass(frozen=True, eq=False)
class Facts:
    """A file's metadata; all that cannot be read is as if it were absent.

    Attributes:
        tags: canonical name, or exifread's for tags without one, -> value as printed; "Thumbnail Orientation" for those
            of the thumbnail.
        size: (width, height) in pixels of the picture, upright; None if unknown.
        photo: the file; empty if only tags are known.
        small: uint8 [h, w, 3], the upright picture, made smaller; None if only tags are known.
        thumbnail_file: the JPEG file in the EXIF.
        private: whether sentences may quote private data.
    """

    tags: Mapping[str, str] = field(repr=False)
    size: tuple[int, int] | None = None
    photo: bytes = field(default=b"", repr=False)
    small: np.ndarray | None = field(default=None, repr=False)
    thumbnail_file: bytes | None = field(default=None, repr=False)
    private: bool = False

    @classmethod
    def of_tags(cls, printed: Mapping[str, object], size: tuple[int, int] | None = None) -> "Facts":
        """The facts of exifread's output, e.g. the parsed `exif` of a shard's JSON."""
        return cls(named_tags(printed), size)

    @classmethod
    def of_file(cls, photo: bytes, pixels: np.ndarray, private: bool = False) -> "Facts":
        """The facts of a picture file with its upright pixels, uint8 [H, W, 3]."""
        printed: Mapping[str, object] = {}
        thumbnail = None
        with contextlib.suppress(ExifError, *DAMAGE):
            block = read_exif_block(photo)
            printed, thumbnail = {name: str(value) for name, value in block.printed.items()}, block.thumbnail
        height, width = pixels.shape[:2]
        # What a developed raw file shows may differ from its EXIF by a few pixels.
        size = None if raw_reason(io.BytesIO(photo)) else (width, height)
        step = max(1, min(height, width) // 400)
        return cls(named_tags(printed), size, photo, pixels[::step, ::step], thumbnail, private)

    def text(self, name: str) -> str:
        """A value in one printable line, "" if it is absent."""
        return clean(self.tags.get(name, ""))

    def numbers(self, name: str) -> list[float | None]:
        """The numbers of a value, None for unknown ones; [] if it is absent or anything else."""
        found = read_numbers(self.tags.get(name, "")[:200])
        return [None if n is None or abs(n) >= 2**32 - 1 else float(n) for n in found]

    def number(self, name: str) -> float | None:
        """The first number of a value, None if it is unknown."""
        return next(iter(self.numbers(name)), None)

    def positive(self, *names: str) -> tuple[float, ...] | None:
        """The first number of each value; None unless all are known and positive."""
        found = tuple(self.number(name) or 0.0 for name in names)
        return found if all(number > 0 for number in found) else None

    def date(self, name: str) -> datetime | None:
        """A date; None if it is absent, blank or impossible."""
        match = _DATE.fullmatch(self.text(name)[:19])
        with contextlib.suppress(ValueError):
            return datetime.fromisoformat("{}-{}-{} {}:{}:{}".format(*match.groups())) if match else None
        return None

    def offset(self, name: str) -> timedelta | None:
        """The difference of local time from UTC, "+02:00"; None if it is absent or anything else."""
        match = re.fullmatch(r"([+-])(\d\d):?(\d\d)", self.text(name))
        return match and timedelta(minutes=int(match[1] + "1") * (60 * int(match[2]) + int(match[3])))

    @cached_property
    def blocks(self) -> JpegBlocks | None:
        """The segments of a JPEG file; None for any other."""
        return read_blocks(self.photo)

    @cached_property
    def xmp(self) -> Xmp | None:
        """None if there is none that can be read."""
        return parse_xmp(read_xmp_packets(self.photo, self.blocks))

    @cached_property
    def credentials(self) -> Credentials | None:
        """Content Credentials; None if there are none."""
        return read_credentials(self.photo, self.blocks)

    @cached_property
    def profile(self) -> str | None:
        """Description of the ICC profile, "" without one; None if it cannot be read."""
        return profile_description(self.photo) if self.photo else None

    @cached_property
    def maker_note(self) -> bytes | None:
        """The EXIF's maker note; None if there is none that can be read."""
        return maker_note(self.photo) if self.photo else None

    @cached_property
    def thumbnail(self) -> np.ndarray | None:
        """The EXIF's thumbnail, turned like the picture, uint8 [h, w, 3]; None if there is none that can be read."""
        return decode_thumbnail(self.thumbnail_file, turn_of(self.photo)) if self.thumbnail_file else None

    @cached_property
    def match(self) -> Match | None:
        """What the thumbnail shows of the picture; None if that cannot be said."""
        if self.thumbnail is None or self.small is None:
            return None
        return match_thumbnail(self.thumbnail, self.small)


def named_tags(printed: Mapping[str, object]) -> dict[str, str]:
    """`Facts.tags` from exifread's output; the directory that the standard gives a tag wins over others."""
    found: dict[str, tuple[int, str]] = {}
    for key, value in printed.items():
        folder, _, name = key.partition(" ")
        if folder not in _FOLDERS or not name:
            continue
        tag = NAMES.get(name)
        rank = 0 if tag is None or folder == tag.folder else 1 + _FOLDERS.index(folder)
        name = f"{folder} {name}" if folder == "Thumbnail" else tag.name if tag else name
        if name not in found or rank < found[name][0]:
            found[name] = (rank, str(value)[:4096])
    return {name: text for name, (_, text) in found.items()}
