"""A Redis that answers with errors: workers wait and reconnect, every job ends and every webhook is delivered.

The model is a stand-in, everything else is real.
"""

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

import pytest
import redis
from kombu import Connection

from tools.harness.receiver import receiving
from tools.harness.stack import Stack

ONE_STEP: dict[str, Any] = {"num_inference_steps": 1, "width": 64, "height": 64}
THREE_SECONDS = ONE_STEP | {"num_inference_steps": 30}

#: Seconds for which Redis answers with errors.
TROUBLE = 4


@pytest.fixture
def stack(short_lease_stack: Stack) -> Stack:
    return short_lease_stack


@contextmanager
def demoted(stack: Stack) -> Iterator[str]:
    stack.redis.execute_command("REPLICAOF", "127.0.0.1", "1")
    yield "read only replica"
    stack.redis.execute_command("REPLICAOF", "NO", "ONE")


@contextmanager
def full_disk(stack: Stack) -> Iterator[str]:
    """Make Redis' last snapshot fail, as on a full disk: a folder has the snapshot's name."""
    dump = stack.folder / "redis" / "dump.rdb"
    dump.mkdir()
    stack.redis.config_set("save", "3600 1000000")
    with suppress(redis.ResponseError):
        stack.redis.bgsave()
    stack.wait(lambda: stack.redis.info("persistence")["rdb_last_bgsave_status"] == "err", 20)
    yield "MISCONF"
    shutil.rmtree(dump)
    stack.redis.bgsave()
    stack.wait(lambda: stack.redis.info("persistence")["rdb_last_bgsave_status"] == "ok", 20)
    stack.redis.config_set("save", "")


@contextmanager
def busy(stack: Stack) -> Iterator[str]:
    stack.redis.config_set("busy-reply-threshold", "100")

    def loop() -> None:
        with redis.Redis.from_url(stack.redis_url, socket_timeout=60) as client, suppress(redis.ResponseError):
            client.eval("while true do end", 0)

    thread = threading.Thread(target=loop)
    thread.start()
    time.sleep(0.5)
    yield "BUSY"
    stack.redis.script_kill()
    thread.join()


@contextmanager
def without_replicas(stack: Stack) -> Iterator[str]:
    stack.redis.config_set("min-replicas-to-write", "1")
    yield "NOREPLICAS"
    stack.redis.config_set("min-replicas-to-write", "0")


@contextmanager
def out_of_memory(stack: Stack) -> Iterator[str]:
    stack.redis.config_set("maxmemory", "1")
    yield "maxmemory"
    stack.redis.config_set("maxmemory", "0")


@contextmanager
def without_permission(stack: Stack) -> Iterator[str]:
    stack.redis.execute_command("ACL", "SETUSER", "operator", "on", ">secret", "~*", "&*", "+@all")
    with redis.Redis.from_url(stack.redis_url, username="operator", password="secret") as operator:
        operator.config_set("requirepass", "changed")
        operator.client_kill_filter(_type="normal", skipme=True)
        yield "authenticated"
        operator.config_set("requirepass", "")
        operator.execute_command("ACL", "SETUSER", "default", "nopass")


FAULTS = [
    demoted,
    pytest.param(out_of_memory, marks=pytest.mark.thorough),
    *(
        pytest.param(fault, marks=pytest.mark.thorough)
        for fault in (full_disk, busy, without_replicas, without_permission)
    ),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_workers_survive_errors_from_redis(
    stack: Stack, photo: bytes, fault: Callable[[Stack], AbstractContextManager[str]]
):
    worker, webhooks = stack.start_stand_in(), stack.start_webhook_worker()
    stack.wait(lambda: len(stack.workers()) == 1, 60)
    stack.wait(lambda: " ready." in (stack.folder / "webhooks.log").read_text(), 60)
    with receiving() as receiver:
        jobs = [stack.submit(photo, webhook_url=receiver.url, **fields) for fields in (THREE_SECONDS, ONE_STEP)]
        stack.wait_until_started(jobs[0])
        with fault(stack) as error:
            time.sleep(TROUBLE)
        for job_id in jobs:
            stack.wait_for(job_id, "finished")
        assert stack.wait_for(stack.submit(photo, **ONE_STEP), "finished")["attempt"] == 1
        stack.wait(lambda: len({request.headers["webhook-id"] for request in receiver.requests}) == len(jobs), 60)
    assert (worker.poll(), webhooks.poll()) == (None, None)
    assert error in (stack.folder / "worker.log").read_text()


@pytest.mark.thorough
def test_a_starting_worker_waits_while_redis_rejects_writes(stack: Stack, photo: bytes):
    with demoted(stack):
        worker = stack.start_stand_in("early")
        time.sleep(TROUBLE + 4)
    stack.wait(lambda: len(stack.workers()) == 1, 60)
    stack.wait_for(stack.submit(photo, **ONE_STEP), "finished")
    assert worker.poll() is None


def test_malformed_messages_in_a_queue_are_dropped_and_counted(stack: Stack, photo: bytes):
    worker, webhooks = stack.start_stand_in(), stack.start_webhook_worker()
    stack.wait(lambda: len(stack.workers()) == 1, 60)
    stack.wait(lambda: " ready." in (stack.folder / "webhooks.log").read_text(), 60)
    malformed = [b"not JSON", b"\xff\xfe", b"[]", b"{}", b'{"properties": {"delivery_tag": "x", "delivery_info": {}}}']
    for queue in ("svd.nano", "svd-webhooks"):
        for each in malformed:
            stack.redis.lpush(queue, each)
        for headers, content_type in (
            ({"task": "unknown", "id": "1"}, "application/json"),
            ({"task": "svd_service.generate"}, "application/json"),
            ({"task": ["svd_service.generate"], "id": "1"}, "application/json"),
            ({}, "application/x-python-serialize"),
            (None, "application/json"),
        ):
            with Connection(stack.redis_url) as connection, connection.Producer() as producer:
                producer.publish(b"gASu", queue, content_type=content_type, content_encoding="binary", headers=headers)
    assert stack.wait_for(stack.submit(photo, **ONE_STEP), "finished")["attempt"] == 1
    stack.wait(lambda: dropped(stack) == 20, 20)
    assert (worker.poll(), webhooks.poll()) == (None, None)
    assert stack.redis.hlen("unacked") == 0


def dropped(stack: Stack) -> int:
    lines = stack.http.get("/metrics").text.splitlines()
    return int(next(float(line.split()[-1]) for line in lines if line.startswith("svd_messages_dropped_total")))
