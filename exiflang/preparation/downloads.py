"""URLs → bytes: politely, within limits, and from no private address unless that is allowed."""

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
    """Whether an IPv4 or IPv6 address, and each IPv4 address that it leads to, is of one host and open to everybody.

    Raises `ValueError` if it is no address.
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


IN_ALL = 32  # files at a time
TIMEOUT = 60.0  # seconds that an attempt may take
MAX_BYTES, TOO_LARGE = 300_000_000, "larger than {:g} MB"  # of a file
ATTEMPTS = 4  # how often a file is asked for, if the server is busy or breaks off; it goes on where it was
AHEAD = 4  # URLs that wait for each one that is fetched, so that a slow host does not keep others waiting
IN_MEMORY = 1 << 20  # bytes of a file that are held in memory until it is its turn; the rest on disk
LONGEST_PAUSE = 120  # seconds that a server may ask to wait
REDIRECTS = 5
AGAIN = {408, 425, 429, 500, 502, 503, 504}  # answers that may be another one later
# Begin of JPEG, PNG, TIFF, WebP, HEIF and AVIF, GIF, BMP, JPEG 2000 and PPM: what `load_image` reads, or says why not.
PICTURE = re.compile(
    rb"\xff\xd8|\x89PNG|II[*+]\0|MM\0[*+]|RIFF....WEBP|....ftyp|GIF8|BM|....jP  |\xff\x4f\xff\x51|P[1-7Ff]\s", re.DOTALL
)
UNAVAILABLE = re.compile(r"/photo_(unavailable|not_found)\w*\.\w+$")  # Flickr's picture instead of one that is gone


@dataclass(frozen=True)
class Fetched:
    """A file's bytes, or None and the reason: one of a few, without the URL. `later`: whether it may come yet."""

    name: str
    data: bytes | None
    reason: str = ""
    later: bool = False


def fetch(urls: Iterable[tuple[str, str]], limits: Limits) -> Iterator[Fetched]:
    """Fetch (name, URL) pairs, some ahead of others: one `Fetched` each, in their order, whatever goes wrong.

    Only http and https. A host that answers 429 or 503 is left alone for as long as it asks for, at most two minutes.
    Pictures whose `X-Robots-Tag` refuses machine learning are not taken. Environment variables for proxies are ignored:
    through a proxy no address could be checked.
    """
    waiting: deque[tuple[str, Any]] = deque()
    loop = get_loop()  # in a thread of its own: that of a notebook runs already
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
        limit_per_host=limits.per_host,  # of redirects too
        ttl_dns_cache=300,
        socket_factory=None if limits.allow_private else public_socket,
    )
    session = aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": f"exiflang/{__version__}", "Accept": "image/*", "Accept-Encoding": "identity"},
        auto_decompress=False,  # else a few bytes might become many
        timeout=aiohttp.ClientTimeout(total=None),  # `asyncio.timeout` counts all of an attempt
    )
    return _Downloads(session, limits)


class _Refused(Exception):
    """The answer is no, with the reason; asked again it would be the same."""


class _Later(Exception):
    """The answer is no for now; `pause`: seconds to leave the whole host alone."""

    def __init__(self, reason: str, pause: float = 0.0):
        super().__init__(reason)
        self.pause = pause


class _Body:
    """A file as far as it came, and what it is known by, so that the rest can be asked for."""

    def __init__(self):
        self.file: IO[bytes] = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115, closed by who reads it
        self.size, self.tag = 0, ""

    def rest(self) -> dict[str, str]:
        """The headers that ask for what is missing, if it is still the same file."""
        return {"Range": f"bytes={self.size}-", "If-Range": self.tag} if self.size and self.tag else {}

    def begin(self, answer: aiohttp.ClientResponse) -> None:
        """Go on after what is there, or anew. Raises `_Later` if the answer is another piece."""
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
    """A session and what is known of each host. Lives in the event loop."""

    def __init__(self, session: aiohttp.ClientSession, limits: Limits):
        self._session = session
        self._slots = asyncio.Semaphore(IN_ALL)
        self._hosts: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(limits.per_host))
        self._not_before: defaultdict[str, float] = defaultdict(float)
        self._tasks: WeakSet[asyncio.Task] = WeakSet()
        self._bodies: WeakSet[IO[bytes]] = WeakSet()  # not yet read

    async def get(self, url: str) -> tuple[IO[bytes] | None, str, bool]:
        """The file, or None, the reason and whether it may come later."""
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
        """Stop whatever is still going on."""
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
            raise _Refused("no http or https URL")
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
                if answer.status == 416:  # it is no longer as long as it was
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
            raise _Refused("no answer that can be read") from error
        except OSError as error:  # of this machine's disk
            raise _Later(f"cannot be kept: {error.strerror}") from error
        body.file.seek(0)
        if not PICTURE.match(body.file.read(12)):
            raise _Refused("no picture" if body.size else "empty")


def _check(answer: aiohttp.ClientResponse) -> None:
    """Raise `_Refused` or `_Later` unless the answer is a picture that may be taken."""
    if answer.status in AGAIN:
        raise _Later(f"HTTP {answer.status}", _pause(answer) if answer.status in (429, 503) else 0.0)
    if answer.status not in (200, 206):
        raise _Refused(f"HTTP {answer.status}")
    if UNAVAILABLE.search(answer.url.path):
        raise _Refused("HTTP 404")  # in other words
    if re.search(r"\bno(image)?ai\b", ",".join(answer.headers.getall("X-Robots-Tag", [])), re.IGNORECASE):
        raise _Refused("not to be used for machine learning (X-Robots-Tag)")
    if (answer.content_length or 0) > MAX_BYTES:
        raise _Refused(TOO_LARGE.format(MAX_BYTES / 1e6))


def _pause(answer: aiohttp.ClientResponse) -> float:
    """Seconds that the server asks to wait, as a number or as a date; 1 if it does not say."""
    asked = answer.headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d{1,9}", asked):
        return float(asked)
    try:
        return max(0.0, (parsedate_to_datetime(asked) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 1.0
