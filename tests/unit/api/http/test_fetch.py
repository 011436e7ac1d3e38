import ipaddress
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from svd_service import __version__
from svd_service.api.http.fetch import fetch
from svd_service.errors import ImageTooLargeError, InvalidParameterError
from svd_service.outbound import is_public

CONTENT = bytes(range(256)) * 10

pytestmark = pytest.mark.enable_socket


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        port = self.server.server_port  # type: ignore[attr-defined]
        self.server.requests.append((self.path, self.headers["Host"]))  # type: ignore[attr-defined]
        self.server.agents.add(self.headers["User-Agent"])  # type: ignore[attr-defined]
        locations = {
            "/moved": "/cat.png",
            "/moved-utf-8": "/Zürich 1.jpg?é".encode().decode("latin-1"),
            "/moved-latin-1": "/Zürich%201.jpg",
            "/loop": "/loop",
            "/elsewhere": f"http://127.0.0.2:{port}/cat.png",
            "/file": "file:///etc/passwd",
        }
        self.send_response(302 if self.path in locations else 200 if self.path != "/gone" else 404)
        if location := locations.get(self.path):
            self.send_header("Location", location)
        if self.path == "/cut":
            self.send_header("Content-Length", str(len(CONTENT) + 1))
        elif self.path == "/cut-chunks":
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if self.path == "/cut-chunks":
            self.wfile.write(b"a00\r\n")
        if self.path == "/drip":
            while not self.server.stopped.wait(0.05):  # type: ignore[attr-defined]
                self.wfile.write(b"x")
        elif not location:
            self.wfile.write(CONTENT)

    def log_message(self, *_: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("0.0.0.0", 0), _Handler)
        self.requests: list[tuple[str, str]] = []
        self.agents: set[str] = set()
        self.stopped = threading.Event()

    def handle_error(self, request: object, client_address: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[_Server]:
    with _Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.stopped.set()
        server.shutdown()
        thread.join()


def one(address: object) -> bool:
    return str(address) == "127.0.0.1"


def get(server: _Server, path: str, *, max_bytes: int = 10_000, deadline: float = 10.0) -> bytes:
    url = path if ":" in path else f"http://127.0.0.1:{server.server_port}{path}"
    return fetch(url, parameter="image", max_bytes=max_bytes, deadline=deadline, permitted=one)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.8.8.8", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
        "192.0.0.1", "192.0.2.1", "198.18.0.1", "224.0.0.1", "224.0.1.1", "239.1.1.1", "240.0.0.1", "255.255.255.255",
        "::", "::1", "fe80::1", "fc00::1", "fd12::1", "fec0::1", "ff02::1", "ff0e::1", "2001:db8::1",
        "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "2001:0:1::1",
    ],
)  # fmt: skip
def test_private_and_local_addresses_are_not_public(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


def test_addresses_of_the_internet_are_public() -> None:
    for address in ("8.8.8.8", "93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"):
        assert is_public(ipaddress.ip_address(address))


def test_an_image_is_fetched_from_a_permitted_address(server: _Server) -> None:
    assert get(server, "/cat.png?x=1") == get(server, "/moved") == CONTENT
    assert server.requests[0] == ("/cat.png?x=1", f"127.0.0.1:{server.server_port}")


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("/Zürich.jpg", "/Z%C3%BCrich.jpg"),
        ("/日本.png?q=é", "/%E6%97%A5%E6%9C%AC.png?q=%C3%A9"),
        ("/a b.jpg?c d", "/a%20b.jpg?c%20d"),
        ("/%C3%BC%20.jpg?a=%2F", "/%C3%BC%20.jpg?a=%2F"),
        ("/100%.jpg", "/100%.jpg"),
        ("/a/(b)_[c],'d'!~@e:1;f=g&h+i$*.jpg?x={'|'}/?[&=]", "/a/(b)_[c],'d'!~@e:1;f=g&h+i$*.jpg?x={%27|%27}/?[&=]"),
        ('/<"^`{}>.jpg#fragment', "/%3C%22%5E%60%7B%7D%3E.jpg"),
        (" /a\n.jpg ", "/a.jpg"),
        ("/moved-utf-8", "/Z%C3%BCrich%201.jpg?%C3%A9"),
        ("/moved-latin-1", "/Z%FCrich%201.jpg"),
    ],
)
def test_a_url_is_percent_encoded_once_as_browsers_do(server: _Server, path: str, target: str) -> None:
    url = f" http://127.0.0.1:{server.server_port}{path.strip()} "
    assert fetch(url, parameter="image", max_bytes=10_000, permitted=one) == CONTENT
    assert server.requests[-1][0] == target


def test_the_service_says_who_it_is(server: _Server) -> None:
    get(server, "/cat.png")
    assert server.agents == {f"svd-service/{__version__}"}


@pytest.mark.parametrize("path", ["/cut", "/cut-chunks"])
def test_a_transfer_that_breaks_is_no_image(server: _Server, path: str) -> None:
    with pytest.raises(InvalidParameterError, match="connection broke before the end"):
        get(server, path)


@pytest.mark.parametrize("url", ["http://127.0.0.1/\ud800", "http://\udcfc.invalid/"])
def test_a_url_with_surrogates_cannot_be_fetched(url: str) -> None:
    with pytest.raises(InvalidParameterError, match="no connection"):
        fetch(url, parameter="image", max_bytes=10_000, permitted=one)


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:{port}/", "http://127.0.0.1:{port}/", "http://127.1:{port}/", "http://2130706433:{port}/",
        "http://0x7f000001:{port}/", "http://0:{port}/", "http://[::ffff:127.0.0.1]:{port}/", "HTTP://127.0.0.1:{port}",
    ],
)  # fmt: skip
def test_loopback_is_rejected_in_every_notation(server: _Server, url: str) -> None:
    with pytest.raises(InvalidParameterError, match=r"not on the public Internet|no connection"):
        fetch(url.format(port=server.server_port), parameter="image", max_bytes=10_000)
    assert server.requests == []


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/elsewhere", "public"), ("/file", "not an http"), ("/loop", "too many redirects"), ("/gone", "404"),
        ("http://user:pass@127.0.0.1/", "not an http"), ("http://127.0.0.1:x/", "no connection"),
        ("http:///x", "not an http"),
        ("http://127.0.0.1:1/", "no connection"), ("http://no-such-host.invalid/", "no connection"),
        ("ftp://127.0.0.1/", "not an http"),
        ("http://127.0.0.1/\r\nX: y", "no connection"), (f"http://{'x' * 70}.invalid/", "no connection"),
    ],
)  # fmt: skip
def test_a_url_that_cannot_be_fetched_is_an_invalid_parameter(server: _Server, path: str, words: str) -> None:
    with pytest.raises(InvalidParameterError, match=words) as raised:
        get(server, path)
    assert raised.value.parameter == "image"
    assert not [host for _, host in server.requests if "127.0.0.2" in host]


def test_a_name_is_resolved_once_and_the_checked_address_is_used(
    server: _Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter(["127.0.0.1", "127.0.0.2", "127.0.0.2"])

    def rebinding(host: str, port: int, *_: object, **__: object) -> list:
        address = next(answers) if host == "cat.example" else host
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    assert get(server, f"http://cat.example:{server.server_port}/cat.png") == CONTENT
    assert server.requests == [("/cat.png", f"cat.example:{server.server_port}")]
    with pytest.raises(InvalidParameterError, match="public"):
        get(server, f"http://cat.example:{server.server_port}/cat.png")


def test_an_address_that_does_not_answer_leaves_time_for_the_next(
    server: _Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect, seconds = socket.create_connection, []

    def resolving(host: str, port: int, *_: object, **__: object) -> list:
        addresses = ("127.0.0.2", "127.0.0.3", "127.0.0.1") if host == "cat.example" else (host,)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in addresses]

    def swallowing(address: tuple[str, int], timeout: float) -> socket.socket:
        seconds.append(timeout)
        if address[0] != "127.0.0.1":
            raise TimeoutError  # without waiting for it
        return connect(address, timeout)

    monkeypatch.setattr(socket, "getaddrinfo", resolving)
    monkeypatch.setattr(socket, "create_connection", swallowing)
    url = f"http://cat.example:{server.server_port}/cat.png"
    assert fetch(url, parameter="image", max_bytes=10_000, deadline=30, permitted=lambda _: True) == CONTENT
    assert seconds[0] <= 10
    assert seconds[1] <= 15


def test_the_number_of_bytes_is_limited(server: _Server) -> None:
    assert get(server, "/cat.png", max_bytes=len(CONTENT)) == CONTENT
    with pytest.raises(ImageTooLargeError):
        get(server, "/cat.png", max_bytes=len(CONTENT) - 1)


def test_the_time_is_limited_although_bytes_keep_arriving(server: _Server) -> None:
    began = time.monotonic()
    with pytest.raises(InvalidParameterError, match="timed out"):
        get(server, "/drip", deadline=1.0)
    assert time.monotonic() - began < 30


def test_enabled_urls_are_fetched_but_never_from_local_addresses(http, change_settings, server) -> None:
    change_settings(fetch_urls=True)
    url = f"http://127.0.0.1:{server.server_port}/cat.png"
    for reference in (url, {"image_url": url}):
        answer = http.post("/v1/videos", json={"prompt": "x", "input_reference": reference})
        assert answer.status_code == 422
        assert "public Internet" in answer.text
    assert server.requests == []
