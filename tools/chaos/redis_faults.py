"""Faults of a running Redis: it becomes a replica, rejects writes, loses a record, receives malformed messages."""

import random
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import redis
from celery import Celery
from redis.backoff import NoBackoff
from redis.retry import Retry

#: Deletes the record of a job if it is queued, as an operator or eviction may; not that of a started or ended job.
_DELETE_WAITING: Final = """
if redis.call('HGET', KEYS[1], 'state') ~= 'queued' then return 0 end
return redis.call('DEL', KEYS[1])
"""

GARBAGE: Final = (
    b"not JSON",
    b"\xff\xfe\x00",
    b"[]",
    b"{}",
    b'{"properties": {"delivery_tag": "x", "delivery_info": {}}}',
    (
        b'{"body": "", "headers": {"task": "unknown", "id": "1"}, "content-type": "text/plain", "properties": '
        b'{"delivery_tag": "y", "delivery_info": {"exchange": "", "routing_key": "q"}, "body_encoding": "base64"}}'
    ),
)


class RedisFaults:
    """Causes faults of the Redis at `url`, whose files are in `folder`. A method returns False if it had no effect."""

    def __init__(self, url: str, folder: Path, queue: str) -> None:
        self._client = redis.Redis.from_url(
            url, socket_timeout=3, socket_connect_timeout=3, retry=Retry(NoBackoff(), 0)
        )
        options = {"socket_timeout": 3, "socket_connect_timeout": 3}
        self._celery = Celery(broker=url, set_as_current=False, broker_transport_options=options)
        self._folder = folder
        self._queue = queue
        self._undo: dict[str, tuple[float, Callable[[], object]]] = {}

    def demote(self, seconds: float) -> bool:
        """Make Redis a replica of an unreachable master, and a master again after `seconds`."""
        return self._inject(
            "demote",
            seconds,
            lambda: self._client.execute_command("REPLICAOF", "127.0.0.1", "1"),
            lambda: self._client.execute_command("REPLICAOF", "NO", "ONE"),
        )

    def reject_writes(self, seconds: float) -> bool:
        """Make a snapshot fail, so that Redis rejects writes (MISCONF) for `seconds`."""
        dump = self._folder / "dump.rdb"

        def inject() -> None:
            dump.mkdir(exist_ok=True)
            self._client.config_set("save", "3600 1000000")
            self._client.bgsave()

        def undo() -> None:
            shutil.rmtree(dump, ignore_errors=True)
            self._client.config_set("save", "")

        return self._inject("reject_writes", seconds, inject, undo)

    def send_garbage(self) -> bool:
        """Put malformed messages into Celery's queue."""
        with suppress(redis.RedisError):
            self._client.rpush(self._queue, *random.sample(GARBAGE, len(GARBAGE)))
            return True
        return False

    def delete_record(self, key: str) -> bool:
        """Delete the record of a job if it is queued. True also without a response: a frozen Redis may do it later."""
        try:
            return bool(self._client.eval(_DELETE_WAITING, 1, key))
        except (redis.TimeoutError, redis.ConnectionError):
            return True
        except redis.RedisError:
            return False

    def revoke(self, job_id: str, *, terminate: bool) -> bool:
        """Revoke a job with Celery's command; `terminate` also sends SIGKILL to its process."""
        options = {"terminate": terminate, "signal": "SIGKILL"}
        # Celery waits for a frozen Redis without a limit, and the calling thread is the one that thaws it.
        threading.Thread(target=self._celery.control.revoke, args=(job_id,), kwargs=options, daemon=True).start()
        return True

    def heal(self, *, now: bool = False) -> None:
        """Undo the faults whose time is over, or all of them (`now`); if Redis fails, retry at the next call."""
        for name, (until, undo) in list(self._undo.items()):
            if now or time.monotonic() >= until:
                with suppress(redis.RedisError):
                    undo()
                    del self._undo[name]

    def close(self) -> None:
        """Close the connections."""
        self._celery.close()
        self._client.close()

    def _inject(self, name: str, seconds: float, inject: Callable[[], object], undo: Callable[[], object]) -> bool:
        if name in self._undo:
            return False
        self._undo[name] = (time.monotonic() + seconds, undo)
        with suppress(redis.RedisError):
            inject()
            return True
        return False
