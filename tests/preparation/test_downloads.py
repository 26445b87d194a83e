"""Downloads respect their limits, arrive in order and report what went wrong, whatever a server does."""

import asyncio
import io
import time

import pytest
from fsspec.asyn import get_loop
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from exiflang.preparation import downloads
from exiflang.preparation.downloads import Fetched, Limits, fetch, is_public, public_socket
from exiflang.utils import images
from tests.hostile_server import JPEG, serving


@pytest.fixture
def server():
    with serving() as found:
        yield found


@pytest.fixture(autouse=True)
def tight(monkeypatch):
    monkeypatch.setattr(downloads, "TIMEOUT", 5)
    monkeypatch.setattr(downloads, "MAX_BYTES", 1_000_000)


def limits(**changes):
    return Limits(**{"allow_private": True} | changes)


def one(url, **changes):
    (found,) = fetch([("it", url)], limits(**changes))
    assert found.name == "it"
    return found


def test_any_number_of_files_arrives_in_order(server):
    urls = [(str(number), f"{server.url}/ok/{number}") for number in range(150)]
    found = list(fetch(urls, limits(per_host=8)))
    assert [one.name for one in found] == [name for name, _ in urls]
    assert all(one.data.endswith(f"/ok/{one.name}".encode()) for one in found)
    assert list(fetch([], limits())) == []


def test_connections_per_host_are_limited(server):
    list(fetch([(str(number), f"{server.url}/ok/{number}") for number in range(30)], limits(per_host=3)))
    assert server.most == 3


def test_connections_to_all_hosts_are_limited(server, monkeypatch):
    monkeypatch.setattr(downloads, "IN_ALL", 4)
    other = server.url.replace("127.0.0.1", "localhost")
    urls = [(str(number), f"{(server.url, other)[number % 2]}/ok/{number}") for number in range(30)]
    list(fetch(urls, limits(per_host=3)))
    assert 3 < server.most <= 4


@pytest.mark.parametrize(
    ("kind", "reason", "asked"),
    [
        ("missing", "HTTP 404", 1),
        ("page", "no picture", 1),
        ("empty", "empty", 1),
        ("bomb", "no picture", 1),
        ("announced", "larger than 1 MB", 1),
        ("endless", "larger than 1 MB", 1),
        ("noai", "not to be used for machine learning (X-Robots-Tag)", 1),
        ("loop", "more than 5 redirects", 6),
        ("gone", "HTTP 404", 1),
        ("to_file", "unreadable response", 1),
        ("garbage", "unreadable response", 1),
        ("headers_without_end", "unreadable response", 1),
    ],
)
def test_permanent_failures_are_not_retried(server, kind, reason, asked):
    assert one(f"{server.url}/{kind}") == Fetched("it", None, reason)
    assert server.seen[f"/{kind}"] == asked


@pytest.mark.parametrize(("kind", "reason"), [("failing", "HTTP 500"), ("always_breaks", "broke off")])
def test_temporary_failures_are_retried_a_few_times(server, kind, reason, monkeypatch):
    monkeypatch.setattr(downloads, "ATTEMPTS", 3)
    assert one(f"{server.url}/{kind}") == Fetched("it", None, reason, later=True)
    first, second, third = server.times[f"/{kind}"]
    assert second - first >= 0.5
    assert third - second >= 1  # with increasing intervals


def test_retry_after_of_a_busy_host_is_respected(server):
    list(fetch([("a", f"{server.url}/busy/1"), ("b", f"{server.url}/ok/2")], limits(per_host=1)))
    refused, served = server.times["/busy/1"]
    assert served - refused >= 1
    assert server.times["/ok/2"][0] - refused >= 1  # the other file on that host, too
    assert one(f"{server.url}/nonsense").data == JPEG


def test_a_retry_after_of_a_day_is_not_waited_for(server):
    assert one(f"{server.url}/never") == Fetched("it", None, "HTTP 503", later=True)  # otherwise this takes a day


def test_an_interrupted_download_is_resumed(server):
    assert one(f"{server.url}/breaks").data == JPEG
    assert server.ranges["/breaks"] == [None, f"bytes={len(JPEG) // 2}-"]


def test_versions_of_a_changed_file_are_not_mixed(server):
    assert one(f"{server.url}/changes").data == JPEG
    assert one(f"{server.url}/unruly").data == JPEG
    assert one(f"{server.url}/shrinks").data == JPEG[:4000]


def test_a_slow_download_times_out(server, monkeypatch):
    monkeypatch.setattr(downloads, "TIMEOUT", 1)
    monkeypatch.setattr(downloads, "ATTEMPTS", 1)
    before = time.monotonic()
    assert one(f"{server.url}/slow") == Fetched("it", None, "took longer than 1 s", later=True)
    assert time.monotonic() - before < 60  # the whole file takes 100 s


def test_a_redirect_is_followed(server):
    assert one(f"{server.url}/moved").data.endswith(b"/ok/moved")


def test_an_unreachable_server_is_reported(monkeypatch):
    monkeypatch.setattr(downloads, "ATTEMPTS", 1)
    assert one("http://127.0.0.1:9/a.jpg") == Fetched("it", None, "no connection", later=True)


@pytest.mark.parametrize("url", ["", "a.jpg", "ftp://a/b.jpg", "file:///etc/passwd", "http://", "http://[", "data:,a"])
def test_urls_that_are_not_web_addresses_are_refused(url):
    assert one(url) == Fetched("it", None, "not an http or https URL")


@pytest.mark.parametrize("url", ["http://a b/c", "http://a:99999/c", "http://\udcff/c", "http://" + "a" * 300])
def test_invalid_addresses_are_refused(url, monkeypatch):
    monkeypatch.setattr(downloads, "ATTEMPTS", 1)
    assert one(url).data is None


def test_private_addresses_are_refused_by_number_name_and_after_redirects(server, monkeypatch):
    port = server.server_port
    for host in ("127.0.0.1", "localhost", "0.0.0.0", "[::1]", "[::ffff:127.0.0.1]"):
        found = one(f"http://{host}:{port}/ok/1", allow_private=False)
        assert found == Fetched("it", None, "private address"), host
    for host in ("2130706433", "0x7f.1", "127.1"):  # names of 127.0.0.1 that not every resolver knows
        assert one(f"http://{host}:{port}/ok/1", allow_private=False).data is None
    # one public address, which redirects to a private one
    monkeypatch.setattr("exiflang.preparation.downloads.is_public", lambda address: address == "127.0.0.1")
    assert one(f"{server.url}/ok/2", allow_private=False).data
    monkeypatch.setattr("socket.getaddrinfo", _elsewhere)
    assert one(f"{server.url}/to_name", allow_private=False).reason == "private address"
    assert set(server.seen) == {"/ok/2", "/to_name"}


def _elsewhere(host, port, *_, **__):
    import socket

    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.2" if host == "localhost" else host, port))]


@pytest.mark.parametrize(
    "address",
    "127.0.0.1 10.1.2.3 172.16.0.1 192.168.1.1 169.254.169.254 100.64.0.1 0.0.0.0 255.255.255.255 224.0.0.1 "
    "192.0.2.1 198.18.0.1 240.0.0.1 ::1 :: fe80::1 fe80::1%eth0 fc00::1 ff02::1 ::ffff:10.0.0.1 2002:7f00:1::1 "
    "64:ff9b::7f00:1 64:ff9b::a00:1 2001:db8::1".split(),
)
def test_non_public_addresses_are_recognized(address):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "151.101.1.1", "2606:4700::1111", "64:ff9b::808:808"])
def test_public_addresses_are_recognized(address):
    assert is_public(address)


@given(st.ip_addresses(network="10.0.0.0/8") | st.ip_addresses(network="fc00::/7"))
def test_sockets_to_private_networks_are_refused(address):
    with pytest.raises(OSError, match="private address"):
        public_socket((2, 1, 6, "", (str(address), 80)))


def test_stopping_early_leaves_nothing_behind(server, monkeypatch):
    monkeypatch.setattr(downloads, "TIMEOUT", 60)
    urls = ((str(number), f"{server.url}/{'ok' if number < 3 else 'slow'}/{number}") for number in range(100))
    found = fetch(urls, limits(per_host=2))
    assert next(found).name == "0"
    found.close()
    assert not asyncio.all_tasks(get_loop())


def test_fetch_works_inside_a_running_event_loop(server):
    async def notebook():
        return one(f"{server.url}/ok/1").data

    assert asyncio.run(notebook())


def test_requests_reveal_nothing_about_the_machine(server, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    assert one(f"{server.url}/ok/1").data
    assert {name.lower() for name in server.headers} <= {"host", "user-agent", "accept", "accept-encoding"}
    assert server.headers["User-Agent"].startswith("exiflang/")


def test_limits_below_one_are_refused():
    with pytest.raises(ValueError, match="per_host is 0: it must be at least 1"):
        Limits(per_host=0)


@pytest.mark.parametrize("kind", images._FORMATS)
def test_every_readable_format_is_recognized_as_a_picture(kind):
    file = io.BytesIO()
    Image.new("RGB", (48, 48)).save(file, kind)
    assert downloads.PICTURE.match(file.getvalue()[:12])
