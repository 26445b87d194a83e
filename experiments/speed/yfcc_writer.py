"""Writes dumps in YFCC100M's format, with their ground truth, without using the reader's code."""

import bz2
import random
import re
from dataclasses import dataclass, field

SAFE = set(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.*")
MAKES = ["Canon", "NIKON CORPORATION", "Panasonic", "Müller, Söhne & Co: Optik", 'Say "cheese"', "100% kamera"]
TAGS = [f"Exif SubIFD.Tag {number}" for number in range(20)]


def encode(text: str) -> str:
    """application/x-www-form-urlencoded, byte by byte."""
    return "".join(
        "+" if byte == 32 else chr(byte) if byte in SAFE else f"%{byte:02X}" for byte in text.encode("utf-8")
    )


@dataclass
class Truth:
    """Tags, URL and license of each photo that has EXIF, and the number of unusable rows by reason."""

    exif: dict[str, dict[str, str]] = field(default_factory=dict)
    url: dict[str, str] = field(default_factory=dict)
    licence: dict[str, str] = field(default_factory=dict)
    videos: int = 0
    bare: int = 0


def write(dataset, exif, rows: int, columns: int = 23, seed: int = 0) -> Truth:
    """Write `rows` rows each, in different orders, compressed if the name ends in .bz2. For small dumps only."""
    rng = random.Random(seed)
    truth, listed, told = Truth(), [], []
    for number in range(rows):
        photo = str(10**9 + 7 * number)
        kind = rng.choices(["photo", "video", "bare", "no secret"], [85, 5, 5, 5])[0]
        secret, server = f"{rng.getrandbits(40):010x}", str(rng.randint(1, 9999))
        download = f"http://farm3.staticflickr.com/{server}/{photo}_abcdef.jpg"
        licence = f"http://creativecommons.org/licenses/by/{rng.randint(1, 4)}.0/"
        fields = [photo, "1@N00", encode("jané doe"), "2010-01-01 00:00:00.0", "1262304000", encode("Canon, EOS")]
        fields += [encode("A title: with, all"), "", encode("tag one") + "," + encode("b"), "", "11.5", "48.1", "16"]
        fields += [f"http://www.flickr.com/photos/1@N00/{photo}/", download, "Attribution License", licence, server]
        fields += ["3", "abcdef", "" if kind == "no secret" else secret, "jpg", "1" if kind == "video" else "0"]
        assert len(fields) == 23
        if columns == 25:
            fields = [str(number), photo, "0123456789abcdef"] + fields[1:]
        listed.append("\t".join(fields))
        tags = {} if kind == "bare" else _tags(rng)
        told.append((photo, _field(tags, rng)))
        if kind == "video":
            truth.videos += 1
        elif kind == "bare":
            truth.bare += 1
        else:
            truth.exif[photo], truth.licence[photo] = tags, licence
            original = f"https://live.staticflickr.com/{server}/{photo}_{secret}_o.jpg"
            truth.url[photo] = download if kind == "no secret" else original
    rng.shuffle(told)
    _save(dataset, "".join(line + "\n" for line in listed))
    _save(exif, "".join(f"{photo}\t{text}\n" for photo, text in told))
    return truth


def write_many(dataset, exif, rows: int, columns: int = 23) -> None:
    """Like `write`, for millions of rows: a few thousand rows repeated with unique ids."""
    kinds = 4000
    write(dataset, exif, kinds, columns)
    listed = dataset.read_text().splitlines(keepends=True)
    told = exif.read_text().splitlines(keepends=True)
    for path, lines in ((dataset, listed), (exif, told)):
        ids = [re.search(r"1\d{9}", line)[0] for line in lines]
        with path.open("w") as file:
            for start in range(0, rows, kinds):
                pairs = zip(lines[: rows - start], ids, strict=False)
                file.writelines(line.replace(old, str(int(old) + 7 * start)) for line, old in pairs)


def _tags(rng: random.Random) -> dict[str, str]:
    tags = {"Exif IFD0.Make": rng.choice(MAKES), "Exif SubIFD.Exposure Time": "1/125 sec"}
    return tags | {tag: f"{rng.random():.3f}, a:b" for tag in rng.sample(TAGS, rng.randint(0, len(TAGS)))}


def _field(tags: dict[str, str], rng: random.Random) -> str:
    """An EXIF field with repeated tags (with a different second value), tags without a name, and without a value."""
    pairs = [f"{encode(name)}:{encode(value)}" for name, value in tags.items()]
    if pairs and rng.random() < 0.5:
        pairs += [f"{encode(next(iter(tags)))}:again", ":nameless", "Exif+IFD0.Software:"]
    return ",".join(pairs)


def _save(path, text: str) -> None:
    data = text.encode()
    path.write_bytes(bz2.compress(data) if path.suffix == ".bz2" else data)
