"""A receiver of webhooks on loopback, for tests: a real HTTP server with prepared answers."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class ReceivedRequest:
    """One request as it was received."""

    path: str
    headers: dict[str, str]
    body: bytes


class Receiver(ThreadingHTTPServer):
    """Answers the n-th request with status `answers[n]` (a callable is called for it), and further requests with the
    last one. `headers` are sent with every answer; `requests` lists the received requests.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(
        self, *answers: int | Callable[[], int], port: int = 0, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.answers = answers or (204,)
        self.headers = headers or {}
        self.requests: list[ReceivedRequest] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        """The URL to send webhooks to."""
        return f"http://127.0.0.1:{self.server_port}/hook"

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore the error: a test may kill the sender."""


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with self.server.lock:
            answer = self.server.answers[min(len(self.server.requests), len(self.server.answers) - 1)]
            self.server.requests.append(ReceivedRequest(self.path, dict(self.headers), body))
        self.send_response(answer() if callable(answer) else answer)
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def receiving(
    *answers: int | Callable[[], int], port: int = 0, headers: Mapping[str, str] | None = None
) -> Iterator[Receiver]:
    """Run a receiver in a thread until the block ends."""
    with Receiver(*answers, port=port, headers=headers) as receiver:
        thread = threading.Thread(target=receiver.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield receiver
        finally:
            receiver.shutdown()
            thread.join()
