"""A local server that does what picture servers on the web do: serve, stall, hang up, redirect, refuse, flood."""

import gzip
import threading
import time
from collections import Counter, defaultdict
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

JPEG = b"\xff\xd8" + bytes(range(256)) * 400


class Handler(BaseHTTPRequestHandler):
    """Dispatches on the first part of the path: /ok/3 and /ok/4 are two files of the kind "ok"."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        server, kind = self.server, self.path.split("/")[1].partition("?")[0]
        with server.lock:
            server.seen[self.path] += 1
            server.times[self.path].append(time.monotonic())
            server.ranges[self.path].append(self.headers.get("Range"))
            server.headers = dict(self.headers)
        try:
            getattr(self, kind)()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def answer(self, status=200, body=b"", length=None, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def first(self):
        return self.server.seen[self.path] == 1

    def ok(self):
        with self.server.lock:
            self.server.active += 1
            self.server.most = max(self.server.most, self.server.active)
        time.sleep(0.02)
        with self.server.lock:
            self.server.active -= 1
        self.answer(body=JPEG + self.path.encode())

    def page(self):
        self.answer(body=b"<html>not here</html>", Content_Type="image/jpeg")

    def empty(self):
        self.answer()

    def missing(self):
        self.answer(404)

    def busy(self):
        self.answer(429, Retry_After="1") if self.first() else self.answer(body=JPEG)

    def never(self):
        self.answer(503, Retry_After="86400")

    def failing(self):
        self.answer(500)

    def nonsense(self):
        self.answer(429, Retry_After="soon") if self.first() else self.answer(body=JPEG)

    def breaks(self):
        """Sends half of the file, then closes the connection; sends the rest if asked for it."""
        half = len(JPEG) // 2
        if self.first():
            self.answer(body=JPEG[:half], length=len(JPEG), ETag='"one"')
            self.close_connection = True
        elif self.headers.get("Range") == f"bytes={half}-" and self.headers.get("If-Range") == '"one"':
            self.answer(206, JPEG[half:], Content_Range=f"bytes {half}-{len(JPEG) - 1}/{len(JPEG)}")
        else:
            self.answer(body=b"the rest was not asked for")

    def changes(self):
        """As `breaks`, but the file has changed by then."""
        if self.first():
            self.answer(body=b"\xff\xd8 old", length=len(JPEG), ETag='"old"')
            self.close_connection = True
        else:
            self.answer(body=JPEG, ETag='"new"')

    def unruly(self):
        """Answers with a range that was not asked for."""
        if self.first():
            self.answer(body=b"\xff\xd8 old", length=len(JPEG), ETag='"old"')
            self.close_connection = True
        elif self.headers.get("Range"):
            self.answer(206, JPEG, Content_Range=f"bytes 0-{len(JPEG) - 1}/{len(JPEG)}")
        else:
            self.answer(body=JPEG)

    def shrinks(self):
        if self.first():
            self.answer(body=JPEG[:5000], length=len(JPEG), ETag='"old"')
            self.close_connection = True
        elif self.headers.get("Range"):
            self.answer(416)
        else:
            self.answer(body=JPEG[:4000])

    def always_breaks(self):
        self.answer(body=JPEG[:9], length=len(JPEG))
        self.close_connection = True

    def slow(self):
        self.answer(length=1000)
        for _ in range(1000):
            if self.server.stopping.wait(0.1):
                return
            self.wfile.write(b"\xff")

    def endless(self):
        """Declares no length, and never ends."""
        self.send_response(200)
        self.end_headers()
        self.close_connection = True
        while not self.server.stopping.is_set():
            self.wfile.write(b"\xff\xd8" * 50_000)

    def announced(self):
        self.answer(body=b"\xff\xd8", length=10**12)
        self.close_connection = True

    def bomb(self):
        self.answer(body=gzip.compress(bytes(10**8)), Content_Encoding="gzip", Content_Type="image/jpeg")

    def noai(self):
        self.answer(body=JPEG, X_Robots_Tag="noindex, noai")

    def loop(self):
        self.answer(302, Location=self.path)

    def moved(self):
        self.answer(302, Location="/ok/moved")

    def gone(self):
        self.answer(302, Location="/ok/photo_unavailable.png")

    def to_file(self):
        self.answer(302, Location="file:///etc/passwd")

    def to_name(self):
        """Redirects to this machine under another name."""
        self.answer(302, Location=f"http://localhost:{self.server.server_port}/ok/inside")

    def garbage(self):
        self.wfile.write(b"\0\1\2 this is no HTTP\r\n\r\n")
        self.close_connection = True

    def headers_without_end(self):
        self.wfile.write(b"HTTP/1.1 200 OK\r\n")
        for number in range(10**6):
            if self.server.stopping.is_set():
                return
            self.wfile.write(b"X-%d: %s\r\n" % (number, b"x" * 5000))


@contextmanager
def serving():
    """The server: `url` is its root; `seen`, `times` and `ranges` record requests; `most` is how many ran at once."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.lock, server.stopping = threading.Lock(), threading.Event()
    server.seen, server.times, server.ranges = Counter(), defaultdict(list), defaultdict(list)
    server.active = server.most = 0
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stopping.set()
        server.shutdown()
        thread.join()
        server.server_close()
