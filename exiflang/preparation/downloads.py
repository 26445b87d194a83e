"""URLs → bytes, with limits on rate and size, and without private addresses unless they are allowed."""

from __future__ import annotations

import asyncio
import errno
import random
import re
import socket
import tempfile
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import IO, Any
from urllib.parse import urlsplit
from weakref import WeakSet

from fsspec.asyn import get_loop, sync

from exiflang import __version__
from exiflang.preparation.options import Limits
from exiflang.utils.extras import extra

with extra("data"):
    import aiohttp

PRIVATE = "private address"
_TRANSLATED = IPv6Network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address


def is_public(address: str) -> bool:
    """Whether an IPv4 or IPv6 address, and each IPv4 address embedded in it, is public and unicast.

    Raises `ValueError` if it is not an address.
    """
    found = ip_address(address.partition("%")[0])
    places: list[IPv4Address | IPv6Address | None] = [found]
    if isinstance(found, IPv6Address):
        places += [found.ipv4_mapped, found.sixtofour, *(found.teredo or ())]
        places += [IPv4Address(int(found) & 0xFFFFFFFF)] if found in _TRANSLATED else []
    return all(place.is_global and not place.is_multicast for place in places if place is not None)


def public_socket(info: tuple[Any, ...]) -> socket.socket:
    """A socket for an entry of `getaddrinfo` (aiohttp's `socket_factory`). Raises `PermissionError` if private."""
    family, kind, protocol, _, place = info
    if not is_public(place[0]):
        raise PermissionError(errno.EACCES, PRIVATE)
    return socket.socket(family=family, type=kind, proto=protocol)


IN_ALL = 32  # simultaneous downloads
TIMEOUT = 60.0  # seconds per attempt
MAX_BYTES, TOO_LARGE = 300_000_000, "larger than {:g} MB"  # per file
ATTEMPTS = 4  # per file, if the server is busy or the connection drops; downloads resume where they stopped
AHEAD = 4  # queued URLs per active download, so that a slow host does not delay others
IN_MEMORY = 1 << 20  # bytes of a file kept in memory until its turn; the rest goes to disk
LONGEST_PAUSE = 120  # seconds; servers that request a longer wait are not retried
REDIRECTS = 5
AGAIN = {408, 425, 429, 500, 502, 503, 504}  # statuses worth a retry
# Signatures of JPEG, PNG, TIFF, WebP, HEIF and AVIF, GIF, BMP, JPEG 2000 and PPM, which `load_image` reads or rejects
# with a reason.
PICTURE = re.compile(
    rb"\xff\xd8|\x89PNG|II[*+]\0|MM\0[*+]|RIFF....WEBP|....ftyp|GIF8|BM|....jP  |\xff\x4f\xff\x51|P[1-7Ff]\s", re.DOTALL
)
UNAVAILABLE = re.compile(r"/photo_(unavailable|not_found)\w*\.\w+$")  # Flickr's placeholder for a deleted picture


@dataclass(frozen=True)
class Fetched:
    """A file's bytes, or None and a reason from a short list, without the URL. `later`: whether a retry may succeed."""

    name: str
    data: bytes | None
    reason: str = ""
    later: bool = False


def fetch(urls: Iterable[tuple[str, str]], limits: Limits) -> Iterator[Fetched]:
    """Fetch (name, URL) pairs concurrently: one `Fetched` each, in order, whatever goes wrong.

    Only http and https. A host that answers 429 or 503 is left alone for as long as it requests, at most two minutes.
    Pictures whose `X-Robots-Tag` forbids machine learning are skipped. Environment variables for proxies are ignored,
    because addresses cannot be checked through a proxy.
    """
    waiting: deque[tuple[str, Any]] = deque()
    loop = get_loop()  # in a separate thread: a notebook's own loop is already running
    downloads = sync(loop, _open, limits)
    try:
        for name, url in urls:
            waiting.append((name, asyncio.run_coroutine_threadsafe(downloads.get(url), loop)))
            if len(waiting) >= AHEAD * IN_ALL:
                yield _result(*waiting.popleft())
        while waiting:
            yield _result(*waiting.popleft())
    finally:
        sync(loop, downloads.close)


def _result(name: str, future: Any) -> Fetched:
    body, reason, later = future.result()
    if body is None:
        return Fetched(name, None, reason, later)
    with body:
        body.seek(0)
        return Fetched(name, body.read())


async def _open(limits: Limits) -> _Downloads:
    connector = aiohttp.TCPConnector(
        limit=0,
        limit_per_host=limits.per_host,  # including redirects
        ttl_dns_cache=300,
        socket_factory=None if limits.allow_private else public_socket,
    )
    session = aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": f"exiflang/{__version__}", "Accept": "image/*", "Accept-Encoding": "identity"},
        auto_decompress=False,  # against decompression bombs
        timeout=aiohttp.ClientTimeout(total=None),  # `asyncio.timeout` covers the whole attempt
    )
    return _Downloads(session, limits)


class _Refused(Exception):
    """A permanent failure, with the reason; a retry would not help."""


class _Later(Exception):
    """A temporary failure; `pause`: seconds to leave the whole host alone."""

    def __init__(self, reason: str, pause: float = 0.0):
        super().__init__(reason)
        self.pause = pause


class _Body:
    """A partial download, and the validator needed to request the rest."""

    def __init__(self):
        self.file: IO[bytes] = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115, closed by the reader
        self.size, self.tag = 0, ""

    def rest(self) -> dict[str, str]:
        """Headers that request the missing bytes, provided that the file has not changed."""
        return {"Range": f"bytes={self.size}-", "If-Range": self.tag} if self.size and self.tag else {}

    def begin(self, answer: aiohttp.ClientResponse) -> None:
        """Continue the partial download, or start over. Raises `_Later` if the response is a different range."""
        if answer.status != 206:
            self.file.seek(0)
            self.file.truncate()
            self.size = 0
        elif not re.match(rf"bytes {self.size}-", answer.headers.get("Content-Range", "")):
            self.tag = ""
            raise _Later("broke off")
        tag = answer.headers.get("ETag", "")
        self.tag = "" if tag.startswith("W/") else tag or answer.headers.get("Last-Modified", "")


class _Downloads:
    """A session and the state of each host. Lives in the event loop."""

    def __init__(self, session: aiohttp.ClientSession, limits: Limits):
        self._session = session
        self._slots = asyncio.Semaphore(IN_ALL)
        self._hosts: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(limits.per_host))
        self._not_before: defaultdict[str, float] = defaultdict(float)
        self._tasks: WeakSet[asyncio.Task] = WeakSet()
        self._bodies: WeakSet[IO[bytes]] = WeakSet()  # not yet read

    async def get(self, url: str) -> tuple[IO[bytes] | None, str, bool]:
        """The file, or None, the reason and whether a retry may succeed."""
        if task := asyncio.current_task():
            self._tasks.add(task)
        body = _Body()
        self._bodies.add(body.file)
        try:
            await self._get(url, body)
        except (_Refused, _Later) as error:
            body.file.close()
            return None, str(error), isinstance(error, _Later)
        return body.file, "", False

    async def close(self) -> None:
        """Cancel pending downloads."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._session.close()
        for file in self._bodies:
            file.close()

    async def _get(self, url: str, body: _Body) -> None:
        try:
            parts = urlsplit(url)
            host = parts.hostname if parts.scheme in ("http", "https") else ""
        except ValueError:
            host = ""
        if not host:
            raise _Refused("not an http or https URL")
        for attempt in range(1, ATTEMPTS + 1):
            try:
                async with self._hosts[host]:
                    await asyncio.sleep(self._not_before[host] - time.monotonic())
                    async with self._slots:
                        return await self._attempt(url, body)
            except _Later as error:
                if error.pause > LONGEST_PAUSE:
                    raise
                self._not_before[host] = max(self._not_before[host], time.monotonic() + error.pause)
                if attempt == ATTEMPTS:
                    raise
                await asyncio.sleep(random.uniform(0.5, 1) * 2 ** (attempt - 1))  # noqa: S311, to spread requests

    async def _attempt(self, url: str, body: _Body) -> None:
        try:
            async with (
                asyncio.timeout(TIMEOUT),
                self._session.get(url, headers=body.rest(), max_redirects=REDIRECTS + 1) as answer,
            ):
                if answer.status == 416:  # the file has become shorter
                    body.tag = ""
                    raise _Later("broke off")
                _check(answer)
                body.begin(answer)
                async for block in answer.content.iter_any():
                    body.size += len(block)
                    if body.size > MAX_BYTES:
                        raise _Refused(TOO_LARGE.format(MAX_BYTES / 1e6))
                    body.file.write(block)
        except TimeoutError as error:
            raise _Later(f"took longer than {TIMEOUT:g} s") from error
        except (aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError, ConnectionResetError) as error:
            raise _Later("broke off") from error
        except aiohttp.TooManyRedirects as error:
            raise _Refused(f"more than {REDIRECTS} redirects") from error
        except aiohttp.ClientSSLError as error:
            raise _Refused("certificate refused") from error
        except aiohttp.ClientConnectorError as error:
            if PRIVATE in str(error):
                raise _Refused(PRIVATE) from error
            raise _Later("no connection") from error
        except (aiohttp.ClientError, ValueError) as error:
            raise _Refused("unreadable response") from error
        except OSError as error:  # from the local disk
            raise _Later(f"cannot be stored: {error.strerror}") from error
        body.file.seek(0)
        if not PICTURE.match(body.file.read(12)):
            raise _Refused("no picture" if body.size else "empty")


def _check(answer: aiohttp.ClientResponse) -> None:
    """Raise `_Refused` or `_Later` unless the response is a picture that may be used."""
    if answer.status in AGAIN:
        raise _Later(f"HTTP {answer.status}", _pause(answer) if answer.status in (429, 503) else 0.0)
    if answer.status not in (200, 206):
        raise _Refused(f"HTTP {answer.status}")
    if UNAVAILABLE.search(answer.url.path):
        raise _Refused("HTTP 404")  # the placeholder's meaning
    if re.search(r"\bno(image)?ai\b", ",".join(answer.headers.getall("X-Robots-Tag", [])), re.IGNORECASE):
        raise _Refused("not to be used for machine learning (X-Robots-Tag)")
    if (answer.content_length or 0) > MAX_BYTES:
        raise _Refused(TOO_LARGE.format(MAX_BYTES / 1e6))


def _pause(answer: aiohttp.ClientResponse) -> float:
    """Seconds to wait, which Retry-After gives as a number or as a date; 1 without it."""
    asked = answer.headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d{1,9}", asked):
        return float(asked)
    try:
        return max(0.0, (parsedate_to_datetime(asked) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 1.0
