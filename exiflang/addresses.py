"""Which addresses of the internet are public, checked where a connection is made: after names and redirects."""

from __future__ import annotations

import errno
import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Any

PRIVATE = "private address"
_TRANSLATED = IPv6Network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address


def is_public(address: str) -> bool:
    """Whether an IPv4 or IPv6 address is reachable by everybody and of one host; an IPv4 address in IPv6 counts too.

    Raises `ValueError` if it is no address.
    """
    found = ip_address(address.partition("%")[0])
    return all(one.is_global and not one.is_multicast for one in [found, *_within(found)])


def _within(address: IPv4Address | IPv6Address) -> list[IPv4Address]:
    """The IPv4 addresses that an IPv6 address leads to."""
    if isinstance(address, IPv4Address):
        return []
    found = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in _TRANSLATED:
        found.append(IPv4Address(int(address) & 0xFFFFFFFF))
    return [one for one in found if one is not None]


def public_socket(info: tuple[Any, ...]) -> socket.socket:
    """A socket for an entry of `getaddrinfo` (aiohttp's `socket_factory`). Raises `PermissionError` if private."""
    family, kind, protocol, _, place = info
    if not is_public(place[0]):
        raise PermissionError(errno.EACCES, PRIVATE)
    return socket.socket(family=family, type=kind, proto=protocol)
