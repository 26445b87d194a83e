"""A camera's raw file → upright RGB, by LibRaw in a process of its own.

LibRaw parses many formats in C++, and crafted files have crashed it before. In a process of its own, a crash, a hang or
a runaway allocation costs only that file, never the gallery or the notebook that asked.
"""

import contextlib
import os
import resource
import signal
import struct
import subprocess
import sys
from importlib.util import find_spec
from io import BufferedReader
from pathlib import Path
from typing import cast

import numpy as np

from exiflang.utils.extras import extra

#: Of the process: seconds of CPU and bytes of memory. 24 million pixels take about 2 s and 0.3 GB.
MOST_SECONDS, MOST_BYTES = 300, 6 << 30

_MODULE = "exiflang.utils.develop_raw"
_ANSWER = struct.Struct("<cII")  # a kind, and its two numbers
_PIXELS, _TOO_LARGE, _REFUSED = b"P", b"L", b"R"  # height and width; height and width; length of the reason, 0
_LONGEST_REASON = 200


class RawError(ValueError):
    """LibRaw cannot develop a file; the message says why."""


class RawSizeError(ValueError):
    """A file declares too many pixels; `height` and `width` tell how many."""

    def __init__(self, height: int, width: int):
        super().__init__(f"{width} x {height}")
        self.height, self.width = height, width


def can_develop() -> bool:
    """Whether rawpy, which brings LibRaw, is installed."""
    return find_spec("rawpy") is not None


def developer() -> str:
    """LibRaw and its version. Raises `ModuleNotFoundError`, which names the extra, if rawpy is missing."""
    with extra("raw"):
        import rawpy
    return f"LibRaw {'.'.join(map(str, rawpy.libraw_version))}"


def develop(source: Path | bytes, most_pixels: int) -> np.ndarray:
    """Develop a raw file with its camera's white balance, at full size, without automatic brightness.

    Returns uint8 [H, W, 3], sRGB, turned upright. Raises `RawError`; `RawSizeError` before pixels are read, for more
    than `most_pixels`; `OSError` for a file that cannot be opened; `ModuleNotFoundError` if rawpy is missing.
    """
    developer()
    limits = [str(number) for number in (most_pixels, MOST_SECONDS, MOST_BYTES)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    opened = source.open("rb") if isinstance(source, Path) else contextlib.nullcontext(subprocess.PIPE)
    with (
        opened as file,
        subprocess.Popen(
            [sys.executable, "-P", "-m", _MODULE, *limits],
            env=environment,
            stdin=file,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as process,
    ):
        try:
            if process.stdin and isinstance(source, bytes):
                with contextlib.suppress(BrokenPipeError), process.stdin:
                    process.stdin.write(source)
            return _received(process, most_pixels)
        finally:
            process.kill()


def _received(process: subprocess.Popen[bytes], most_pixels: int) -> np.ndarray:
    """What the process answers. Raises `RawError`, `RawSizeError`."""
    answered = cast(BufferedReader, process.stdout)
    answer = answered.read(_ANSWER.size)
    if len(answer) == _ANSWER.size:
        kind, first, second = _ANSWER.unpack(answer)
        if kind == _REFUSED:
            raise RawError(answered.read(min(first, _LONGEST_REASON)).decode("utf-8", "replace"))
        if kind == _TOO_LARGE or first * second > most_pixels:
            raise RawSizeError(first, second)
        pixels = np.empty((first, second, 3), np.uint8)
        if answered.readinto(pixels.data.cast("B")) == pixels.nbytes:
            return pixels
    code = -process.wait()
    if code in (signal.SIGXCPU, signal.SIGKILL):
        raise RawError(f"stopped: more than {MOST_SECONDS} seconds, or too little memory")
    raise RawError("crashed: damaged, or made to do harm")


# ------------------------------------- in the process of its own --------------------------------------
def _main(most_pixels: int, most_seconds: int, most_bytes: int) -> None:
    """Develop standard input to standard output. The limits hold even when the process that asked has ended."""
    resource.setrlimit(resource.RLIMIT_CPU, (most_seconds, most_seconds))
    resource.setrlimit(resource.RLIMIT_DATA, (most_bytes, most_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        kind, first, second, rest = _developed(most_pixels)
    except MemoryError:
        kind, (first, second, rest) = _REFUSED, _reason("too little memory")
    sys.stdout.buffer.write(_ANSWER.pack(kind, first, second))
    sys.stdout.buffer.write(rest)


def _developed(most_pixels: int) -> tuple[bytes, int, int, memoryview | bytes]:
    """An answer: its kind, its two numbers, and what follows them."""
    with extra("raw"):
        import rawpy
    try:
        with rawpy.imread(sys.stdin.buffer) as raw:
            sizes = raw.sizes
            stretch = max(sizes.pixel_aspect, 1 / max(sizes.pixel_aspect, 1e-3))  # LibRaw makes pixels square
            if max(sizes.height * sizes.width * stretch, sizes.raw_height * sizes.raw_width) > most_pixels:
                return _TOO_LARGE, sizes.raw_height, sizes.raw_width, b""
            srgb = (2.4, 12.92)  # IEC 61966-2-1; LibRaw's own default is the curve of BT.709
            pixels = raw.postprocess(use_camera_wb=True, no_auto_bright=True, output_bps=8, gamma=srgb)
    except (rawpy.LibRawError, rawpy.NotSupportedError, ValueError, OSError) as error:
        said = error.args[0] if error.args else ""
        text = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
        return _REFUSED, *_reason(text or type(error).__name__)
    rgb = np.repeat(pixels, 3, 2) if pixels.shape[2] == 1 else np.ascontiguousarray(pixels)  # 1: no color filters
    return _PIXELS, *rgb.shape[:2], rgb.data.cast("B")


def _reason(text: str) -> tuple[int, int, bytes]:
    encoded = text.encode()[:_LONGEST_REASON]
    return len(encoded), 0, encoded


if __name__ == "__main__":
    _main(*map(int, sys.argv[1:]))
