"""Mutated pictures through the EXIF reader and the tile cutter: each must give a result, or an error that says why.

`make fuzz` runs it at length and writes reports/golden/fuzz.json. Each file is read in a child process, which is
watched from outside: a crash of the interpreter, a hang and memory that runs away are found too.

The verdict must not depend on the process that asks. So the child is forked from a fresh server, not from pytest, and
counts what a file adds: its own CPU seconds, and memory above what the child held before its first file.
"""

import argparse
import io
import json
import multiprocessing
import resource
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from exiflang.exif.reader import read_exif
from exiflang.exif.tags import ExifError
from exiflang.exif.text import exif_to_text
from exiflang.preparation.tiles import cut_tiles
from exiflang.simulation.cameras import CAMERAS
from exiflang.simulation.exposure import draw_settings, photo_exif
from exiflang.utils.files import write_json
from exiflang.utils.images import ImageError, load_image

MOST_SECONDS, MOST_BYTES = 5.0, 1 << 30  # of CPU and of memory, for one file
PATIENCE = 60.0  # seconds of the clock: a busy machine is slow, but does not hang
ROOT = Path(__file__).parents[1]
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


def seeds(shared: Path | None = None) -> list[tuple[str, bytes]]:
    """Small whole pictures of each format and JPEG layout; with `shared` also real files and real EXIF blocks."""
    found = []
    pixels = Image.fromarray(np.random.default_rng(0).integers(0, 256, (160, 192, 3)).astype(np.uint8))
    exif = [
        photo_exif(camera, draw_settings(camera, np.random.default_rng(i)), 192, 160)
        for i, camera in enumerate(CAMERAS[:6])
    ]
    layouts = [{"subsampling": s, "progressive": p} for s in (0, 1, 2) for p in (False, True)]
    for i, layout in enumerate(layouts):
        found.append((f"jpeg {layout}", encoded(pixels, "JPEG", exif=exif[i], **layout)))
    for mode in ("L", "CMYK"):
        found.append((f"jpeg {mode}", encoded(pixels.convert(mode), "JPEG", exif=exif[0])))
    for kind in ("PNG", "WEBP", "TIFF"):
        found.append((kind.lower(), encoded(pixels, kind, exif=exif[0])))
    if shared:
        small = encoded(pixels, "JPEG")
        for path in sorted((shared / "camera_photos").iterdir()):
            if block := exif_segment(data := path.read_bytes()):
                found.append((path.name, small[:2] + data[slice(*block)] + small[2:]))
        found += [
            (path.name, path.read_bytes())
            for path in sorted((shared / "badfiles").iterdir())
            if path.stat().st_size < 200_000
        ]
    return found


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def exif_segment(data: bytes) -> tuple[int, int] | None:
    """Where the EXIF segment of a JPEG begins and ends."""
    offset = 2
    while data[:2] == b"\xff\xd8" and data[offset : offset + 1] == b"\xff" and data[offset + 1] not in (0xDA, 0xD9):
        end = offset + 2 + int.from_bytes(data[offset + 2 : offset + 4], "big")
        if data[offset + 1] == 0xE1 and data[offset + 4 : offset + 10] == b"Exif\0\0":
            return offset, end
        offset = end
    return None


def mutated(data: bytes, rng: np.random.Generator, start: int = 0, end: int | None = None) -> bytes:
    """One to a dozen changes between two offsets, of which none changes the length."""
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
    place, length = int(rng.integers(len(data))), int(rng.integers(1, 400))
    match rng.integers(4):
        case 0:
            data = data[: max(place, 1)]
        case 1:
            data = data[:place] + data[place + length :]
        case 2:
            data = data[: place + length] + data[place:]
    return mutated(data, rng) if len(data) > 8 else data


def files(number: int, seed: int, shared: Path | None) -> Iterator[tuple[str, bool, bytes]]:
    """(name, whether its EXIF alone was changed, bytes) of mutated files, every other one by its EXIF alone."""
    known = seeds(shared)
    with_exif = [(name, data, block) for name, data in known if (block := exif_segment(data)) and decodes(data)]
    for i in range(number):
        rng = np.random.default_rng([seed, i])
        if i % 2:
            name, data, (start, end) = with_exif[rng.integers(len(with_exif))]
            yield f"{i} {name}", True, mutated(data, rng, start + 10, end)
        else:
            name, data = known[rng.integers(len(known))]
            yield f"{i} {name}", False, reshaped(data, rng)


def decodes(data: bytes) -> bool:
    try:
        load_image(data)
    except ImageError:
        return False
    return True


Reader = Callable[[bytes], None]


def read_tags(data: bytes) -> None:
    tags = read_exif(data)
    for name, value in tags.items():
        if not (0 < len(value) <= 100 and value.isprintable() and name.isprintable()):
            raise RuntimeError(f"the value of {name} is {value!r}")
    exif_to_text(tags)


def cut(data: bytes) -> None:
    cut_tiles(data, count=2, size=64, rng=np.random.default_rng(0))


READERS: dict[str, Reader] = {"EXIF": read_tags, "tiles": cut}


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
) -> dict:
    """Judge `number` files; files that fail are written into the folder `keep`."""
    outcomes: Counter[str] = Counter()
    problems, slowest, largest, exif_only = [], 0.0, 0, 0
    watched = Watched(readers, patience)
    for name, inside_exif, data in tqdm(files(number, seed, shared), total=number, unit=" files"):
        outcome, seconds, grown = watched.judge(data)
        exif_only += inside_exif and decodes(data)
        slowest, largest = max(slowest, seconds), max(largest, grown)
        if outcome.startswith(("crash", "hang", "too much")):
            problems.append(f"{name}: {outcome}")
            if keep:
                keep.mkdir(parents=True, exist_ok=True)
                (keep / name.replace("/", "_")).write_bytes(data)
        else:
            outcomes[outcome] += 1
    watched.close()
    return {
        "files": number,
        "seed": seed,
        "changed in their EXIF alone, still decoding": exif_only,
        "outcomes": dict(outcomes.most_common()),
        "problems": problems,
        "slowest_cpu_seconds": round(slowest, 2),
        "largest_memory_added_mb": largest >> 20,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=20_100)  # a few of those changed in their EXIF cease to decode
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    shared = ROOT.parent / "shared"
    found = fuzz(options.files, options.seed, shared if shared.is_dir() else None, ROOT / "reports" / "runs" / "fuzz")
    write_json(ROOT / "reports" / "golden" / "fuzz.json", found)
    print(json.dumps(found, indent=1))
    raise SystemExit(bool(found["problems"]))
