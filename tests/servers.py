"""An HTTP server on this machine that serves a folder, honestly or in a hostile way."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ENDLESS_BYTES = 1 << 30  # an endless answer gives up after this many, which is a failure of a test


class Request(BaseHTTPRequestHandler):
    """A request, and what an honest server would answer.

    Attributes:
        content: The file that the request names, None if there is none.
        span: The first byte that is asked for and the one after the last.
    """

    protocol_version = "HTTP/1.1"
    content: bytes | None
    span: tuple[int, int]

    def handle(self) -> None:
        # A client that has had enough may close the connection between two requests, too.
        with suppress(ConnectionResetError):
            super().handle()

    def handle_request(self) -> None:
        server = self.server
        assert isinstance(server, Server)
        path = server.folder / self.path.lstrip("/")
        self.content = path.read_bytes() if path.is_file() else None
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        size = len(self.content or b"")
        self.span = (int(asked[1]), min(int(asked[2]) + 1, size)) if asked else (0, size)
        try:
            server.way(self)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the client has had enough

    do_GET = do_HEAD = handle_request

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""

    def head(self, status: int, **headers: object) -> None:
        """Send the status and headers; an underscore stands for a hyphen."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def body(self, data: bytes) -> None:
        if self.command == "GET":
            self.wfile.write(data)


Way = Callable[[Request], None]


class Server(ThreadingHTTPServer):
    daemon_threads = True  # those that hang

    def __init__(self, folder: Path, way: Way) -> None:
        super().__init__(("127.0.0.1", 0), Request)
        self.folder, self.way = folder, way
        self.ended = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"


@contextmanager
def served(folder: Path, way: Way) -> Iterator[Server]:
    server = Server(folder, way)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.ended.set()
        server.shutdown()
        server.server_close()


def honest(request: Request) -> None:
    if request.content is None:
        request.head(404, Content_Length=0)
        return
    begin, end = request.span
    data = request.content[begin:end]
    if "Range" in request.headers:
        span = f"bytes {begin}-{end - 1}/{len(request.content)}"
        request.head(206, Content_Length=len(data), Content_Range=span)
    else:
        request.head(200, Content_Length=len(data))
    request.body(data)


def hangs(request: Request) -> None:
    wait(request)


def hangs_in_the_body(request: Request) -> None:
    request.head(200, Content_Length=1000)
    request.body(b"{")
    if request.command == "GET":
        wait(request)


def trickles(request: Request) -> None:
    request.head(200, Content_Length=1000)
    server = request.server
    assert isinstance(server, Server)
    while request.command == "GET" and not server.ended.wait(0.05):
        request.body(b" ")


def endless(request: Request) -> None:
    request.head(200, Connection="close")
    for _ in range(0, ENDLESS_BYTES, 1 << 16):
        request.body(b" " * (1 << 16))
    request.close_connection = True


def fails(request: Request) -> None:
    request.head(500, Content_Length=0)


def fails_with_a_page(request: Request) -> None:
    page = b"<p>Come again later.</p>" * 10_000
    request.head(503, Content_Length=len(page))
    request.body(page)


def redirects_in_a_circle(request: Request) -> None:
    request.head(302, Location=request.path, Content_Length=0)


def redirects_to_the_files_of_this_machine(request: Request) -> None:
    server = request.server
    assert isinstance(server, Server)
    request.head(302, Location=f"file://{server.folder}{request.path}", Content_Length=0)


def promises_more(request: Request) -> None:
    request.head(200, Content_Length=10**6)
    request.body(b"{}")
    request.close_connection = True


def no_http(request: Request) -> None:
    request.wfile.write(b"SSH-2.0-OpenSSH_9.2\r\n")
    request.close_connection = True


def lies_about_sizes(request: Request) -> None:
    if request.command == "HEAD":
        request.head(200, Content_Length=12345)
    else:
        honest(request)


def for_ranges(way: Way) -> Way:
    """A server that is honest until images are read."""

    def only_ranges(request: Request) -> None:
        small = request.path.endswith(("manifest.json", "mean.npy", "index.npz"))
        (honest if small or request.command == "HEAD" else way)(request)

    return only_ranges


def short(request: Request) -> None:
    begin, end = request.span
    request.span = begin, (begin + end) // 2
    honest(request)


def long(request: Request) -> None:
    begin, end = request.span
    request.head(206, Content_Length=end - begin + 10, Content_Range=f"bytes {begin}-{end}/*")
    request.body(b" " * (end - begin + 10))


def without_ranges(request: Request) -> None:
    assert request.content is not None
    request.head(200, Content_Length=len(request.content))
    request.body(request.content)


def another_range(request: Request) -> None:
    assert request.content is not None
    begin, end = request.span
    request.span = begin - 1, end - 1
    honest(request)


def wait(request: Request) -> None:
    server = request.server
    assert isinstance(server, Server)
    server.ended.wait(60)
    request.close_connection = True
