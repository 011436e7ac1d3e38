"""A real gunicorn with our worker, an application of a few lines, and clients on raw sockets."""

import errno
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from contextlib import ExitStack, suppress
from typing import Any

import httpx2
import pytest
from gunicorn.http.body import Body, LengthReader

from svd_service.server.connection import Inbox
from svd_service.server.pacing import SlowReaders
from svd_service.server.worker import BufferingWorker
from tools.harness.local import ROOT, free_port

CONFIGURATION = """
import os
from svd_service.server.pacing import ClientLimits
from svd_service.server.worker import BufferingWorker

class Worker(BufferingWorker):
    limits = ClientLimits(timeout=1.0, min_rate=1_000, head=20_000, body=1_000_000, spool=3_000_000)
    uploads = 2
    waits = 2
    slow_readers = 2
    upload_wait = 1.0

worker_class, threads, worker_connections, keepalive = Worker, 4, 60, 1
graceful_timeout, control_socket_disable, forwarder_headers = 3, True, ""
"""

APPLICATION = """
import os
import time

def broken(start_response):
    start_response("200 OK", [("Content-Length", "100")])
    yield b"x" * 50
    raise ValueError("broken on purpose")

def application(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/broken":
        return broken(start_response)
    if path == "/large":
        start_response("200 OK", [("Content-Length", "40000000")])
        return [b"x" * 40_000_000]
    if path == "/ignore":
        body = b""
    else:
        body = environ["wsgi.input"].read()
    preferred = environ.get("HTTP_PREFER", "")
    if preferred.startswith("wait="):
        time.sleep(2)
    if path == "/preferred":
        body = preferred.encode()
    if path == "/pid":
        body = str(os.getpid()).encode()
    if path == "/slow":
        time.sleep(float(body))
    answer = b"%s %d %s" % (path.encode(), len(body), body[:20])
    start_response("200 OK", [("Content-Length", str(len(answer)))])
    return [answer]
"""


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gunicorn")
    (folder / "conf.py").write_text(CONFIGURATION)
    (folder / "app.py").write_text(APPLICATION)
    port = free_port()
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "-c", "conf.py", "-b", f"127.0.0.1:{port}", "app:application"],
            cwd=folder,
            env={"PYTHONPATH": f"{ROOT}", "PATH": ""},
            stdout=log,
            stderr=log,
        )
    deadline = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            break
        except OSError:
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.05)
    yield port
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 0
    log = (folder / "log").read_text()
    assert log.count("Traceback") == log.count("ValueError: broken on purpose"), log


@pytest.fixture
def connect(port):
    opened = []

    def make(sent=b""):
        client = socket.create_connection(("127.0.0.1", port), timeout=10)
        opened.append(client)
        client.sendall(sent)
        return client

    yield make
    for client in opened:
        client.close()


def everything(client):
    """All that the server sends until it closes the connection."""
    received = b""
    while piece := client.recv(65_536):
        received += piece
    return received


def is_quick(port):
    began = time.monotonic()
    assert httpx2.get(f"http://127.0.0.1:{port}/quick", timeout=5).text.startswith("/quick")
    return time.monotonic() - began < 3  # a machine may be busy; without a free thread it would be forever


def head(method=b"POST", path=b"/", *fields):
    return b"\r\n".join([method + b" " + path + b" HTTP/1.1", b"Host: x", *fields, b"", b""])


def test_slow_clients_of_every_kind_do_not_delay_others(port, connect):
    for kind in (b"", b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ", head(b"POST", b"/", b"Content-Length: 1000") + b"xx"):
        for _ in range(45):
            connect(kind)
        assert is_quick(port)


def test_an_upload_that_waits_too_long_for_a_thread_is_answered_with_503(connect):
    request = head(b"POST", b"/slow", b"Content-Length: 3", b"Connection: close")
    answers = [everything(client) for client in [connect(request + b"1.5") for _ in range(4)]]
    assert sorted(answer.split()[1] for answer in answers) == [b"200", b"200", b"503", b"503"]
    rejected = next(answer for answer in answers if b" 503 " in answer)
    assert b"\r\nRetry-After: 5\r\n" in rejected
    assert b"too many uploads are waiting" in rejected


def process_id(port):
    return int(httpx2.get(f"http://127.0.0.1:{port}/pid").text.split()[-1])


def test_a_failure_in_the_middle_of_a_response_ends_only_its_connection(port, connect):
    process = process_id(port)
    with connect(head(b"GET", b"/broken")) as client:
        assert everything(client).endswith(b"\r\n\r\n" + b"x" * 50)
    for _ in range(20):  # the server notices that the client has closed the connection
        assert process_id(port) == process
        time.sleep(0.05)


def test_a_new_connection_takes_the_place_of_one_whose_next_request_arrives_at_that_moment(port, connect):
    process = process_id(port)
    idle = [connect(head(b"GET", b"/")) for _ in range(10)]
    for client in idle:
        client.recv(1_000)
    os.kill(process, signal.SIGSTOP)
    try:
        # When it continues, it sees both at once: the new connections, and requests on those that it closes for them.
        new = [connect(head(b"GET", b"/", b"Connection: close")) for _ in range(70)]
        for client in idle:
            client.sendall(head(b"GET", b"/"))
    finally:
        os.kill(process, signal.SIGCONT)
    for client in new[:10]:
        with suppress(ConnectionError):
            everything(client)
    assert process_id(port) == process


@pytest.mark.parametrize(
    "before", [0, 20, 70, 120], ids=["nothing", "part of the head", "the head", "part of the body"]
)
def test_a_request_that_arrives_while_the_process_stands_still_is_answered(port, connect, before):
    request = head(b"POST", b"/", b"Content-Length: 100", b"Connection: close") + b"x" * 100
    client = connect(request[:before])
    # The worker accepts connections in order, so it has accepted ours when it answers this one.
    worker = process_id(port)
    os.kill(worker, signal.SIGSTOP)
    try:
        client.sendall(request[before:])
        time.sleep(1.5)  # more than `timeout`
    finally:
        os.kill(worker, signal.SIGCONT)
    assert everything(client).endswith(b"/ 100 " + b"x" * 20)


def test_a_client_that_expects_100_continue_without_a_body_gets_only_the_answer(connect):
    client = connect(head(b"GET", b"/", b"Expect: 100-continue", b"Connection: close"))
    answer = everything(client)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b" 100 " not in answer


def test_clients_that_never_read_do_not_end_the_download_of_another(connect):
    idle = [connect(head(b"GET", b"/large")) for _ in range(3)]  # more than `slow_readers`
    time.sleep(0.3)
    client = connect(head(b"GET", b"/large", b"Connection: close"))
    received = 0
    for _ in range(5):
        received += len(client.recv(1_000_000))
        time.sleep(0.05)
    received += len(everything(client))
    assert received > 40_000_000
    for each in idle:
        each.close()


def test_a_connection_that_the_system_cannot_accept_ends_nothing():
    class Listener:
        def accept(self):
            raise OSError(errno.ENOBUFS, "no buffer space available")

    warnings = []
    worker = types.SimpleNamespace(log=types.SimpleNamespace(warning=lambda *words: warnings.append(words)), nr_conns=0)
    accept: Any = BufferingWorker.accept
    accept(worker, Listener())
    assert (len(warnings), worker.nr_conns) == (1, 0)


def test_a_body_whose_file_cannot_be_written_can_be_dropped():
    def close():
        raise OSError(errno.ENOSPC, "no space left on device")

    inbox = Inbox()
    body: Any = types.SimpleNamespace(close=close)
    inbox._body = body
    inbox.drop_body()
    assert inbox.chunk() == b""


def test_too_many_slow_readers_cut_off_the_one_that_has_been_waiting_longest():
    readers = SlowReaders(2)
    pairs = [socket.socketpair() for _ in range(3)]
    with ExitStack() as stack:
        for ours, theirs in pairs:
            stack.enter_context(ours)
            stack.enter_context(theirs)
            theirs.settimeout(0)
            stack.enter_context(readers.waiting(ours))
        assert pairs[0][1].recv(1) == b""
        for _, theirs in pairs[1:]:
            with pytest.raises(BlockingIOError):
                theirs.recv(1)


def test_a_silent_connection_is_closed_and_a_half_sent_request_answered_with_408(connect):
    silent, half = connect(), connect(b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ")
    began = time.monotonic()
    assert everything(silent) == b""
    assert everything(half).startswith(b"HTTP/1.1 408 ")
    assert 0.5 < time.monotonic() - began < 3


def test_a_head_sent_byte_by_byte_has_the_same_time_limit_as_a_silent_connection(connect):
    client = connect(b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ")
    began = time.monotonic()
    with suppress(OSError):
        while time.monotonic() < began + 8:
            client.sendall(b"x")
            time.sleep(0.1)
    assert time.monotonic() - began < 5


def test_a_body_must_keep_up_the_minimum_rate(connect):
    client = connect(head(b"POST", b"/", b"Content-Length: 5000"))
    began = time.monotonic()
    for _ in range(10):  # 1,500 bytes a second for two seconds: longer than the head's time limit, and fast enough
        client.sendall(b"x" * 300)
        time.sleep(0.2)
    client.sendall(b"x" * 2_000)
    answer = b""
    while b"/ 5000 " not in answer and (part := client.recv(1_000)):  # head and body may arrive separately
        answer += part
    assert b"/ 5000 " in answer
    assert time.monotonic() - began > 1.5
    slow = connect(head(b"POST", b"/", b"Content-Length: 5000") + b"x" * 100)
    assert everything(slow).startswith(b"HTTP/1.1 408 ")


def test_bodies_arrive_complete_in_any_framing(port):
    for size in (0, 1, 70_000, 900_000):
        content = b"y" * size
        for body in (content, iter([content[: size // 3], content[size // 3 :]])):
            answer = httpx2.post(f"http://127.0.0.1:{port}/echo", content=body)
            assert answer.text.split()[1] == str(size)


def test_requests_on_one_connection_do_not_mix(connect):
    requests = [
        head(b"GET", b"/a"),
        head(b"POST", b"/b", b"Content-Length: 3") + b"one",
        head(b"POST", b"/ignore", b"Content-Length: 70000") + b"z" * 70_000,
        head(b"POST", b"/c", b"Transfer-Encoding: chunked") + b"3\r\ntwo\r\n0\r\n\r\n",
        head(b"GET", b"/d", b"Connection: close"),
    ]
    answers = everything(connect(b"".join(requests)))
    assert [line for line in answers.split(b"\r\n") if line.startswith(b"/")][-1] == b"/d 0 "
    for part in (b"/a 0 ", b"/b 3 one", b"/ignore 0 ", b"/c 3 two", b"/d 0 "):
        assert part in answers
    assert answers.count(b"HTTP/1.1 200") == 5


def test_reading_a_large_body_in_small_pieces_takes_linear_time():
    inbox = Inbox()
    inbox.store(b"y" * 20_000_000)
    inbox.rewind()
    body, began = Body(LengthReader(inbox, 20_000_000)), time.process_time()
    assert sum(len(piece) for piece in iter(lambda: body.read(4_096), b"")) == 20_000_000
    assert time.process_time() - began < 10  # half a second; minutes if each read copied the rest
    inbox.drop_body()


def test_a_client_that_expects_100_continue_gets_it_once(connect):
    client = connect(head(b"POST", b"/", b"Expect: 100-continue", b"Content-Length: 5", b"Connection: close"))
    assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.sendall(b"hello")
    answer = everything(client)
    assert b"100 Continue" not in answer
    assert answer.endswith(b"/ 5 hello")


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (head(b"POST", b"/", b"Transfer-Encoding: chunked") + b"zz\r\n", 400),
        (head(b"POST", b"/", b"Transfer-Encoding: chunked") + b"5\r\nhelloXX", 400),
        (head(b"POST", b"/", b"Content-Length: x"), 400),
        (b"GET / HTTP/1.1\nHost: x\n\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 30_000, 431),
        (b"GET /" + b"x" * 5_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (head(b"POST", b"/", b"Transfer-Encoding: nonsense"), 501),
        (head(b"POST", b"/", b"Content-Length: 1", b"Expect: tea"), 417),
        (b"\x16\x03\x01 hello\r\n\r\n", 400),
    ],
)
def test_an_invalid_request_is_rejected_at_once_in_json(connect, request_bytes, status):
    began = time.monotonic()
    answer = everything(connect(request_bytes))
    assert time.monotonic() - began < 0.9
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"X-Content-Type-Options: nosniff" in head
    assert "not valid HTTP" in json.loads(body)["error"]["message"]


def test_a_body_above_the_limit_reaches_the_application_before_it_is_received(connect):
    client = connect(head(b"POST", b"/ignore", b"Content-Length: 2000000") + b"x" * 10)
    assert everything(client).startswith(b"HTTP/1.1 200 ")


def test_uploads_in_progress_use_bounded_space(connect, port):
    clients = [connect(head(b"POST", b"/", b"Content-Length: 990000") + b"x" * 900_000) for _ in range(5)]
    time.sleep(1.5)
    answered, _, _ = select.select(clients, [], [], 0)
    assert 1 <= len(answered) <= 3
    assert {client.recv(13) for client in answered} == {b"HTTP/1.1 503 "}


def test_idle_connections_above_the_limit_do_not_block_a_new_one(port, connect):
    for _ in range(150):
        connect()
    assert is_quick(port)


def test_uploads_being_processed_leave_threads_to_other_requests(port, connect):
    request = head(b"POST", b"/slow", b"Content-Length: 1", b"Connection: close") + b"1"
    uploads = [connect(request) for _ in range(6)]
    assert is_quick(port)
    for upload in uploads:
        everything(upload)  # the next test's uploads must find the threads free


def test_waiting_requests_leave_threads_to_other_uploads_and_are_limited(connect):
    post = [b"Content-Length: 1", b"Connection: close"]
    began = time.monotonic()
    waiting = [connect(head(b"POST", b"/preferred", *post, b"Prefer: wait=9, strict") + b"x") for _ in range(4)]
    time.sleep(0.3)
    uploads = [connect(head(b"POST", b"/upload", *post) + b"x") for _ in range(4)]
    assert all(everything(client).startswith(b"HTTP/1.1 200 ") for client in uploads)
    answers = sorted(everything(client).rpartition(b"/preferred ")[2] for client in waiting[2:])
    assert answers == [b"17 ignored=9, strict"] * 2
    assert time.monotonic() - began < 1.8
    assert all(everything(client).endswith(b"14 wait=9, strict") for client in waiting[:2])
    assert time.monotonic() - began >= 2
    again = connect(head(b"POST", b"/preferred", *post, b"Prefer: wait=9") + b"x")
    assert everything(again).endswith(b" wait=9")


def test_clients_that_do_not_read_leave_threads_to_other_requests(port, connect):
    for _ in range(8):
        connect(head(b"GET", b"/large"))
    time.sleep(0.2)
    assert is_quick(port)


def test_a_client_that_reads_gets_a_large_answer_completely(port):
    sizes = []

    def read():
        sizes.append(len(httpx2.get(f"http://127.0.0.1:{port}/large", timeout=30).content))

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert sizes == [40_000_000] * 2


def test_a_client_cannot_bypass_a_proxys_path_rules(connect):
    answer = everything(connect(head(b"GET", b"/public/x", b"SCRIPT_NAME: /public", b"Connection: close")))
    assert answer.endswith(b"/public/x 0 ")
