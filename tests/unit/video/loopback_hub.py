"""The part of the Hugging Face hub that its client needs to fetch one model, on the loopback interface."""

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Serves the files of `folder` as any requested model.

    With an `error_status`, requests whose path contains `failing` get that status and `reason`. With a `delay`, a file
    is sent in two halves that many seconds apart.
    """

    def __init__(
        self, folder: Path, error_status: int | None = None, reason: str = "", failing: str = "", delay: float = 0
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.error_status = error_status
        self.reason = reason
        self.failing = failing
        self.delay = delay
        self.requests: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def names(self) -> list[str]:
        paths = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return [path.relative_to(self.folder).as_posix() for path in paths]

    @contextmanager
    def running(self) -> Iterator["Hub"]:
        thread = threading.Thread(target=self.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield self
        finally:
            self.shutdown()
            thread.join()
            self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append(f"{self.command} {path}")
        if self.server.error_status is not None and self.server.failing in path:
            self._answer(self.server.error_status, b"{}", {"X-Error-Code": self.server.reason})
        elif path.startswith("/api/models/"):
            listing = self._tree() if "/tree/" in path else self._description()
            self._answer(200, json.dumps(listing).encode(), {"Content-Type": "application/json"})
        else:
            self._file(path.partition("/resolve/")[2].partition("/")[2])

    def _description(self) -> object:
        siblings = [{"rfilename": name} for name in self.server.names]
        return {"id": "someone/svd", "modelId": "someone/svd", "sha": COMMIT, "siblings": siblings}

    def _tree(self) -> object:
        sizes = {name: (self.server.folder / name).stat().st_size for name in self.server.names}
        return [{"type": "file", "path": name, "size": size, "oid": "0" * 40} for name, size in sizes.items()]

    def _file(self, name: str) -> None:
        if name not in self.server.names:
            self._answer(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        content = (self.server.folder / name).read_bytes()
        etag = hashlib.sha256(content).hexdigest()
        self._answer(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})

    def _answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            half = len(content) // 2 if self.server.delay and len(content) > 10_000 else 0
            self.wfile.write(content[:half])
            if half:
                time.sleep(self.server.delay)
            self.wfile.write(content[half:])

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the name that is overridden
        pass
