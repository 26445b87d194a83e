"""Mutated pictures through everything that reads a file: each must give a result, or an error that says why.

`make fuzz` runs it at length and writes reports/golden/fuzz.json. Each file is read in a child process, which is
watched from outside: a crash of the interpreter, a hang and memory that runs away are found too.

The verdict must not depend on the process that asks. So the child is forked from a fresh server, not from pytest, and
counts what a file adds: its own CPU seconds, and memory above what the child held before its first file.
"""

import argparse
import io
import json
import multiprocessing
import os
import resource
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, PngImagePlugin, TiffImagePlugin
from tqdm.auto import tqdm

from exiflang.exif.reader import read_exif
from exiflang.exif.tags import ExifError
from exiflang.exif.text import exif_to_text
from exiflang.inspection.picture import open_picture
from exiflang.preparation.tiles import cut_tiles
from exiflang.simulation.cameras import CAMERAS
from exiflang.simulation.exposure import draw_settings, photo_exif
from exiflang.utils.files import write_json
from exiflang.utils.images import ImageError
from exiflang.utils.processes import worker_pool

MOST_SECONDS, MOST_BYTES = 5.0, 1 << 30  # of CPU and of memory, for one file
PATIENCE = 60.0  # seconds of the clock: a busy machine is slow, but does not hang
PART = 1000
ROOT = Path(__file__).parents[1]
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "AVIF", *(["HEIF"] if find_spec("pillow_heif") else []))
WORDS = [
    bytes(4),
    b"\xff" * 4,
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\x80\0\0\0",
    b"\0\0\0\x80",
    b"\0\1\0\0",
    b"\xff\xd8\xff\xe1",
]


#: Start and end of bytes that hold no pixels: the EXIF, or everything besides the pixels.
Place = tuple[int, int]
Seed = tuple[str, bytes, Place | None]


def seeds(kind: str, shared: Path | None = None) -> list[Seed]:
    """Small whole pictures of a format in its layouts; with `shared` also real JPEG files and real EXIF blocks."""
    pixels = Image.fromarray(np.random.default_rng(0).integers(0, 256, (160, 192, 3)).astype(np.uint8))
    exif = [
        photo_exif(camera, draw_settings(camera, np.random.default_rng(i)), 192, 160).tobytes()
        for i, camera in enumerate(CAMERAS[:6])
    ]
    found = []
    for i, (mode, layout) in enumerate(LAYOUTS[kind]):
        own = b"" if kind == "TIFF" and "compression" in layout else exif[i % len(exif)]  # libtiff writes no EXIF
        data = encoded(pixels.convert(mode), kind, exif=own, **layout)
        found.append((f"{kind} {mode} {', '.join(layout)}", data, exif_place(data) if own else None))
    if shared and kind == "JPEG":
        small = encoded(pixels, kind)
        for path in sorted((shared / "camera_photos").iterdir()):
            data = path.read_bytes()
            if begin := exif_segment(data):
                block = data[slice(*begin)]
                found.append((path.name, small[:2] + block + small[2:], (12, 2 + len(block))))
        found += [
            (path.name, path.read_bytes(), None)
            for path in sorted((shared / "badfiles").iterdir())
            if path.stat().st_size < 200_000
        ]
    return found


_FRAMES = {"save_all": True, "append_images": [Image.new("RGB", (192, 160), color) for color in ("red", "blue")]}
_TEXT = PngImagePlugin.PngInfo()
_TEXT.add_text("Comment", "nothing " * 40, zip=True)
_TEXT.add_itxt("XML:com.adobe.xmp", '<x:xmpmeta tiff:Orientation="6"/>')
_TEXT.add_text("Raw profile type exif", "\nexif\n       8\n49492a0008000000\n")
#: For each format: the mode of the pixels and the options of Pillow's encoder.
LAYOUTS: dict[str, list[tuple[str, dict]]] = {
    "JPEG": [
        *[("RGB", {"subsampling": s, "progressive": p}) for s in (0, 1, 2) for p in (False, True)],
        ("L", {}),
        ("CMYK", {}),
    ],
    "PNG": [("RGB", {}), ("RGBA", {"pnginfo": _TEXT}), ("P", {"transparency": bytes(99)}), ("I;16", {}), ("1", {})]
    + [("RGB", _FRAMES)],
    "WEBP": [("RGB", {}), ("RGBA", {"lossless": True}), ("RGB", _FRAMES)],
    "TIFF": [("RGB", {}), ("RGB", {"big_tiff": True}), ("CMYK", {"compression": "tiff_adobe_deflate"})]
    + [("RGB", {"compression": "tiff_lzw"}), ("RGB", {"compression": "jpeg"}), ("I;16", {}), ("RGB", _FRAMES)],
    "AVIF": [("RGB", {}), ("RGBA", {}), ("RGB", _FRAMES)],
    "HEIF": [("RGB", {}), ("RGBA", {}), ("L", {}), ("RGB", _FRAMES)],
}


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    if kind == "HEIF":
        import pillow_heif

        pillow_heif.register_heif_opener()
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def exif_place(data: bytes) -> Place:
    """Where the EXIF of a seed lies; in a TIFF, which is EXIF throughout, its Exif IFD."""
    with Image.open(io.BytesIO(data)) as image:
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            begin, strips = image.tag_v2[ExifTags.IFD.Exif], min(image.tag_v2[TiffImagePlugin.STRIPOFFSETS])
            return begin, strips if strips > begin else len(data)
        block = image.info["exif"].removeprefix(b"Exif\0\0")
    begin = data.index(block)
    return begin, begin + len(block)


def exif_segment(data: bytes) -> Place | None:
    """Where the EXIF segment of a JPEG begins and ends."""
    offset = 2
    while data[:2] == b"\xff\xd8" and data[offset : offset + 1] == b"\xff" and data[offset + 1] not in (0xDA, 0xD9):
        end = offset + 2 + int.from_bytes(data[offset + 2 : offset + 4], "big")
        if data[offset + 1] == 0xE1 and data[offset + 4 : offset + 10] == b"Exif\0\0":
            return offset, end
        offset = end
    return None


def mutated(data: bytes, rng: np.random.Generator, start: int = 0, end: int | None = None) -> bytes:
    """One to a dozen changes between two offsets; none changes the length."""
    copy = bytearray(data)
    end = len(copy) if end is None else end
    for _ in range(rng.integers(1, 13)):
        place = int(rng.integers(start, max(end - 4, start + 1)))
        match rng.integers(4):
            case 0:
                copy[place] ^= 1 << rng.integers(8)
            case 1:
                copy[place] = rng.integers(256)
            case 2:
                word = WORDS[rng.integers(len(WORDS))][: len(copy) - place]
                copy[place : place + len(word)] = word
            case 3:
                length = int(rng.integers(1, max(2, min(64, end - place))))
                other = int(rng.integers(start, max(end - length, start + 1)))
                copy[place : place + length] = (copy[other : other + length] + bytes(length))[:length]
    return bytes(copy[: len(data)])


def reshaped(data: bytes, rng: np.random.Generator) -> bytes:
    """Cut short, or with a piece taken out or doubled, then changed anywhere."""
    head = data.find(b"IDAT") - 4 if data.startswith(b"\x89PNG") else 1200  # where most can go wrong
    within = len(data) if rng.integers(2) else min(len(data), head)
    place, length = int(rng.integers(within)), int(rng.integers(1, 400))
    match rng.integers(4):
        case 0:
            data = data[: max(place, 1)]
        case 1:
            data = data[:place] + data[place + length :]
        case 2:
            data = data[: place + length] + data[place:]
    return mutated(data, rng, end=min(len(data), within)) if len(data) > 8 else data


def with_checksums(data: bytes) -> bytes:
    """A PNG with its chunks' checksums corrected: Pillow reads no further than a wrong one."""
    copy, offset = bytearray(data), 8
    while offset + 12 <= len(copy):
        end = offset + 8 + int.from_bytes(copy[offset : offset + 4], "big")
        if end + 4 <= len(copy):
            copy[end : end + 4] = zlib.crc32(copy[offset + 4 : end]).to_bytes(4, "big")
        offset = end + 4
    return bytes(copy)


def files(kind: str, number: int, seed: int, shared: Path | None) -> Iterator[tuple[str, bool, bytes]]:
    """(name, whether only its EXIF was changed, bytes) of mutated files; that is so in every other one."""
    known = seeds(kind, shared)
    with_exif = [(name, data, place) for name, data, place in known if place]
    for i in range(number):
        rng = np.random.default_rng([seed, i, *kind.encode()])
        if i % 2:
            name, data, place = with_exif[rng.integers(len(with_exif))]
            changed = mutated(data, rng, *place)
        else:
            name, data, _ = known[rng.integers(len(known))]
            changed = reshaped(data, rng)
        if kind == "PNG" and rng.integers(8):
            changed = with_checksums(changed)
        yield f"{i} {name}", bool(i % 2), changed


Reader = Callable[[bytes], None]


def read_tags(data: bytes) -> None:
    tags = read_exif(data)
    for name, value in tags.items():
        if not (0 < len(value) <= 100 and value.isprintable() and name.isprintable()):
            raise RuntimeError(f"the value of {name} is {value!r}")
    exif_to_text(tags)


def cut(data: bytes) -> None:
    cut_tiles(data, count=2, size=64, rng=np.random.default_rng(0))


def look(data: bytes) -> None:
    if not all(note.isprintable() for note in open_picture(data).notes):
        raise RuntimeError("a note is not printable")


READERS: dict[str, Reader] = {"picture": look, "EXIF": read_tags, "tiles": cut}


def judge(data: bytes, readers: dict[str, Reader]) -> str:
    """How each reader ended; "crash ..." for an error that it must not raise."""
    outcome = []
    for what, read in readers.items():
        try:
            read(data)
            outcome.append(f"{what} fine")
        except (ExifError, ImageError):
            outcome.append(f"{what} refused")
        except Exception as error:
            return f"crash {type(error).__name__}: {error}"
    return ", ".join(outcome)


def _child(pipe, readers: dict[str, Reader]) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))  # a runaway must not take the machine with it
    held = _peak()
    pipe.send("ready")
    while (data := pipe.recv()) is not None:
        before = time.process_time()
        outcome = judge(data, readers)
        pipe.send((outcome, time.process_time() - before, _peak() - held))


def _peak() -> int:
    """The largest memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


class Watched:
    """A child process that judges files, replaced when it dies, hangs or has grown too large."""

    def __init__(self, readers: dict[str, Reader], patience: float):
        self.readers, self.patience = readers, patience
        self._start()

    def _start(self) -> None:
        # Neither fork nor spawn: ru_maxrss of the first, and through exec of the second too, begins at the parent's.
        context = multiprocessing.get_context("forkserver")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_child, args=(theirs, self.readers), daemon=True)
        self._process.start()
        theirs.close()
        self._pipe.recv()

    def judge(self, data: bytes) -> tuple[str, float, int]:
        """Outcome, CPU seconds, and by how many bytes the files so far have made the child grow."""
        try:
            self._pipe.send(data)
            if not self._pipe.poll(self.patience):
                return self._replace("hang")
            outcome, seconds, grown = self._pipe.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self._process.join()
            return self._replace(f"crash of the process, exit code {self._process.exitcode}")
        if seconds > MOST_SECONDS or grown > MOST_BYTES:
            self._replace("")  # what this file took must not be held against the next
            outcome = f"too much: {seconds:.1f} s, {grown >> 20} MB"
        return outcome, seconds, grown

    def _replace(self, outcome: str) -> tuple[str, float, int]:
        self.close()
        self._start()
        return outcome, 0.0, 0

    def close(self) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()


def fuzz(
    number: int,
    seed: int = 0,
    shared: Path | None = None,
    keep: Path | None = None,
    readers: dict[str, Reader] = READERS,
    patience: float = PATIENCE,
    formats: tuple[str, ...] = FORMATS,
) -> dict:
    """Judge `number` files of each format; files that fail are written into the folder `keep`."""
    problems, slowest, largest, counted = [], 0.0, 0, {}
    watched = Watched(readers, patience)
    for kind in formats:
        outcomes: Counter[str] = Counter()
        decoding, exif_only = 0, 0
        for name, inside_exif, data in tqdm(
            files(kind, number, seed, shared), kind, number, unit=" files", leave=False
        ):
            outcome, seconds, grown = watched.judge(data)
            slowest, largest = max(slowest, seconds), max(largest, grown)
            decoding += "picture fine" in outcome
            exif_only += inside_exif and "picture fine" in outcome
            if outcome.startswith(("crash", "hang", "too much")):
                problems.append(f"{name}: {outcome}")
                if keep:
                    keep.mkdir(parents=True, exist_ok=True)
                    (keep / name.replace("/", "_")).write_bytes(data)
            else:
                outcomes[outcome] += 1
        counted[kind] = {
            "files": number,
            "still decoding": decoding,
            "changed in their EXIF alone, still decoding": exif_only,
            "outcomes": dict(outcomes.most_common()),
        }
    watched.close()
    return {
        "files": number * len(formats),
        "seed": seed,
        "formats": counted,
        "problems": problems,
        "slowest_cpu_seconds": round(slowest, 2),
        "largest_memory_added_mb": largest >> 20,
    }


def fuzz_all(number: int, seed: int, shared: Path | None, keep: Path | None) -> dict:
    """`fuzz` of all formats in parts of at most `PART` files, as many parts at a time as there are cores.

    Each part has a seed of its own, counted from `seed`.
    """
    sizes = [min(PART, number - start) for start in range(0, number, PART)]
    with worker_pool(os.cpu_count()) as pool:
        waiting = [
            pool.submit(fuzz, size, seed + i, shared, keep, formats=(kind,))
            for i, size in enumerate(sizes)
            for kind in FORMATS
        ]
        return merged([part.result() for part in tqdm(waiting, unit=" parts")]) | {"seed": seed}


def merged(parts: Sequence[dict]) -> dict:
    """The counts of several results of `fuzz`, summed, and their largest costs."""
    formats: dict[str, dict] = {}
    for kind, counts in (item for part in parts for item in part["formats"].items()):
        total = formats.setdefault(kind, {"outcomes": Counter()})
        total["outcomes"].update(counts["outcomes"])
        for name in counts.keys() - {"outcomes"}:
            total[name] = total.get(name, 0) + counts[name]
    for total in formats.values():
        total["outcomes"] = dict(total["outcomes"].most_common())
    return {
        "files": sum(part["files"] for part in parts),
        "seed": parts[0]["seed"],
        "formats": formats,
        "problems": [problem for part in parts for problem in part["problems"]],
        **{key: max(part[key] for part in parts) for key in ("slowest_cpu_seconds", "largest_memory_added_mb")},
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=20_000, help="of each format")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    shared = ROOT.parent / "shared"
    shared_or_none, keep = shared if shared.is_dir() else None, ROOT / "reports" / "runs" / "fuzz"
    found = fuzz_all(options.files, options.seed, shared_or_none, keep)
    write_json(ROOT / "reports" / "golden" / "fuzz.json", found)
    print(json.dumps(found, indent=1))
    raise SystemExit(bool(found["problems"]))
