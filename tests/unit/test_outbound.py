"""Requests to addresses that callers choose: what their threads do when time or threads run out."""

import socket
import threading
import time

import pytest

from svd_service.outbound import Exchange, TLSConnection, within


def test_a_connection_that_is_open_after_the_deadline_is_closed(monkeypatch: pytest.MonkeyPatch):
    class Context:
        def wrap_socket(self, raw: socket.socket, **_: object) -> socket.socket:
            time.sleep(0.2)  # the handshake takes as long as it may
            return raw

    monkeypatch.setattr("ssl.create_default_context", Context)
    with socket.create_server(("127.0.0.1", 0)) as server:
        connection = TLSConnection("127.0.0.1", server.getsockname()[1], ["127.0.0.1"], 0.1, 0.1)
        with pytest.raises(TimeoutError):
            connection.connect()
        accepted, _ = server.accept()
        with accepted:
            accepted.settimeout(10)
            assert accepted.recv(1) == b""


def test_a_thread_that_cannot_be_started_is_an_error_of_the_request(monkeypatch: pytest.MonkeyPatch):
    def no_more(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    ended: list[None] = []
    monkeypatch.setattr(threading.Thread, "start", no_more)
    with pytest.raises(OSError, match="can't start new thread"):
        within(1.0, Exchange.left, afterwards=lambda: ended.append(None))
    assert len(ended) == 1
