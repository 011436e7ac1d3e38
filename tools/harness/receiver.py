"""A receiver of webhooks on loopback, for tests: a real HTTP server with prepared answers."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Heard:
    """One request."""

    path: str
    headers: dict[str, str]
    body: bytes


class Receiver(ThreadingHTTPServer):
    """Answers the n-th request with `answers[n]` (the last one again and again); one that is callable is called first
    and gives the status. `heard` has the received requests; `host` is where it listens, `headers` go with every answer.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(
        self, *answers: int | Callable[[], int], port: int = 0, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.answers = answers or (204,)
        self.headers = headers or {}
        self.heard: list[Heard] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        """Where webhooks may be sent."""
        return f"http://127.0.0.1:{self.server_port}/hook"

    def handle_error(self, request: object, client_address: object) -> None:
        """The other side may be killed."""


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with self.server.lock:
            answer = self.server.answers[min(len(self.server.heard), len(self.server.answers) - 1)]
            self.server.heard.append(Heard(self.path, dict(self.headers), body))
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
    """A receiver for as long as the block lasts."""
    with Receiver(*answers, port=port, headers=headers) as receiver:
        thread = threading.Thread(target=receiver.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield receiver
        finally:
            receiver.shutdown()
            thread.join()
