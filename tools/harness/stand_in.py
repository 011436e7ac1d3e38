"""A stand-in for the service on a real socket, which sends prepared answers and records the requests."""

import json
import threading
from collections import deque
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

JOB = "00000000-0000-4000-8000-000000000001"


@dataclass
class ReceivedRequest:
    """One request as it was received."""

    method: str
    path: str
    headers: Message
    body: bytes


@dataclass
class Answer:
    """One answer. `cut` closes the connection after so many bytes of the body; if negative, before any answer."""

    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None


def job_answer(status: str, **more: Any) -> Answer:
    """An answer with a job's status."""
    return Answer(json.dumps({"task_id": JOB, "status": status, **more}).encode())


def stream(*jobs: dict[str, Any]) -> Answer:
    """Server-sent events of a job; each has the arguments of `job_answer`."""
    events = (
        f"id: {number}\ndata: {json.dumps({'task_id': JOB, **job})}\n\n" for number, job in enumerate(jobs, start=1)
    )
    body = "retry: 2000\n\n: a comment\n\n" + "".join(events)
    return Answer(body.encode(), headers={"Content-Type": "text/event-stream"})


def error_answer(http_status: int, code: str, message: str, state: str | None = None, **more: str) -> Answer:
    """An error in the service's shape."""
    body: dict[str, Any] = {"error": {"code": code, "message": message, **more}}
    return Answer(json.dumps(body | ({"status": state} if state else {})).encode(), http_status)


class StandIn(ThreadingHTTPServer):
    """Answers the requests of each path with its prepared answers in order, and further ones with the last.

    `requests` lists the received requests.
    """

    def __init__(self, port: int = 0, answers: dict[str, Answer] | None = None) -> None:
        self.requests: list[ReceivedRequest] = []
        healthy = Answer(b'{"status": "ok", "workers": []}')
        self._answers = {
            request: deque([answer]) for request, answer in {"GET /health": healthy, **(answers or {})}.items()
        }
        super().__init__(("127.0.0.1", port), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,))
        self._thread.start()

    def answer(self, request: str, *answers: Answer) -> None:
        """Set the answers to `request` ("GET /health")."""
        self._answers[request] = deque(answers)

    def next_answer(self, request: str) -> Answer:
        """Return the next answer to `request`."""
        answers = self._answers.get(request)
        if answers is None:
            return error_answer(404, "unknown", f"no {request}")
        return answers.popleft() if len(answers) > 1 else answers[0]

    def count(self, request: str) -> int:
        """Number of received requests of this method and path ("GET /health")."""
        return sum(f"{each.method} {each.path}" == request for each in self.requests)

    def stop(self) -> None:
        """Stop the server and free the port."""
        self.shutdown()
        self._thread.join()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: StandIn
    protocol_version = "HTTP/1.1"

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests.append(ReceivedRequest(self.command, self.path, self.headers, body))
        answer = self.server.next_answer(f"{self.command} {self.path}")
        if answer.cut is None:
            self._send(answer, answer.body)
            return
        self.close_connection = True
        if answer.cut >= 0:
            self._send(answer, answer.body[: answer.cut])

    def _send(self, answer: Answer, body: bytes) -> None:
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815 - http.server requires these names

    def log_message(self, *_: object) -> None:
        pass
