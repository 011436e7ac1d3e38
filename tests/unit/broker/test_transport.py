"""kombu over a real Redis: garbage in a queue is dropped and counted, and an error of the server is a lost connection.

The same through whole workers: tests/integration/faults/test_faults.py.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from kombu import Connection, Consumer, Queue

from svd_service.broker import transport
from svd_service.broker.dropped import DROPPED

ENVELOPE = {
    "body": "W10=",
    "content-type": "application/json",
    "content-encoding": "utf-8",
    "headers": {"task": "svd_service.generate", "id": "1"},
    "properties": {
        "delivery_tag": "one",
        "delivery_info": {"exchange": "", "routing_key": "q"},
        "body_encoding": "base64",
    },
}


@pytest.fixture
def connection(redis_url: str) -> Iterator[Connection]:
    transport.register()
    DROPPED.take()
    with Connection(redis_url) as connection:
        yield connection


def without(*path: str) -> dict[str, Any]:
    envelope: dict[str, Any] = json.loads(json.dumps(ENVELOPE))
    inner = envelope
    for name in path[:-1]:
        inner = inner[name]
    del inner[path[-1]]
    return envelope


GARBAGE = [
    b"not JSON",
    b"\xff\xfe\x00",
    b"",
    b"null",
    b"[]",
    b"7",
    b'"text"',
    b"{}",
    json.dumps(without("properties")).encode(),
    json.dumps(without("properties", "delivery_tag")).encode(),
    json.dumps(without("properties", "delivery_info")).encode(),
    json.dumps(without("properties", "delivery_info", "routing_key")).encode(),
    json.dumps({**ENVELOPE, "headers": []}).encode(),
    json.dumps({**ENVELOPE, "body": 7}).encode(),
    json.dumps({**ENVELOPE, "body": "A"}).encode(),
    json.dumps({**ENVELOPE, "properties": {**ENVELOPE["properties"], "body_encoding": "rot13"}}).encode(),  # type: ignore[dict-item]
]


@pytest.mark.parametrize("garbage", GARBAGE, ids=lambda garbage: repr(garbage)[:40])
def test_garbage_is_dropped_and_counted_and_the_next_message_arrives(
    connection: Connection, redis_client: redis.Redis, garbage: bytes
):
    received: list[Any] = []
    with Consumer(connection, Queue("q"), on_message=received.append):
        redis_client.rpush("q", garbage)
        connection.drain_events(timeout=5)
        assert DROPPED.take() == 1
        redis_client.lpush("q", json.dumps(ENVELOPE))
        connection.drain_events(timeout=5)
    assert [message.headers["id"] for message in received] == ["1"]
    received[0].ack()
    assert redis_client.hlen("unacked") == 0
    assert DROPPED.take() == 0


def test_a_message_whose_handler_raises_is_dropped_and_not_redelivered(
    connection: Connection, redis_client: redis.Redis
):
    def handle(_: object) -> None:
        raise KeyError("id")

    with Consumer(connection, Queue("q"), on_message=handle):
        redis_client.lpush("q", json.dumps(ENVELOPE))
        connection.drain_events(timeout=5)
    assert DROPPED.take() == 1
    assert redis_client.hlen("unacked") == 0


def test_redis_errors_in_a_handler_do_not_count_as_garbage(connection: Connection, redis_client: redis.Redis):
    def handle(_: object) -> None:
        raise redis.ReadOnlyError("READONLY")

    with Consumer(connection, Queue("q"), on_message=handle):
        redis_client.lpush("q", json.dumps(ENVELOPE))
        with pytest.raises(redis.ReadOnlyError):
            connection.drain_events(timeout=5)
    assert DROPPED.take() == 0


@pytest.mark.parametrize("scheme", ["redis", "rediss", "redis+socket", "sentinel"])
def test_every_redis_error_causes_a_reconnect(scheme: str):
    transport.register()
    url = {"redis+socket": "redis+socket:///nowhere"}.get(scheme, f"{scheme}://localhost")
    for error in (redis.ReadOnlyError, redis.ResponseError, redis.OutOfMemoryError, redis.exceptions.NoPermissionError):
        assert issubclass(error, Connection(url).connection_errors)
