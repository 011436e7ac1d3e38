"""What goes wrong in Redis while it runs: it becomes a replica, takes no writes, loses a record, is sent garbage."""

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

#: Deletes the record of a job that waits, as an operator or eviction may. One that has ended or runs stays.
_DELETE_WAITING: Final = """
if redis.call('HGET', KEYS[1], 'state') ~= 'queued' then return 0 end
return redis.call('DEL', KEYS[1])
"""

GARBAGE: Final = (
    b"no JSON",
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
    """Faults of the Redis at `url`, whose files are in `folder`. Each method returns False if Redis cannot be hit."""

    def __init__(self, url: str, folder: Path, queue: str) -> None:
        self._client = redis.Redis.from_url(
            url, socket_timeout=3, socket_connect_timeout=3, retry=Retry(NoBackoff(), 0)
        )
        options = {"socket_timeout": 3, "socket_connect_timeout": 3}
        self._celery = Celery(broker=url, set_as_current=False, broker_transport_options=options)
        self._folder = folder
        self._queue = queue
        self._cures: dict[str, tuple[float, Callable[[], object]]] = {}

    def demote(self, seconds: float) -> bool:
        """Make it a replica of an unreachable master, and a master again after `seconds`."""
        return self._strike(
            "demote",
            seconds,
            lambda: self._client.execute_command("REPLICAOF", "127.0.0.1", "1"),
            lambda: self._client.execute_command("REPLICAOF", "NO", "ONE"),
        )

    def refuse_writes(self, seconds: float) -> bool:
        """Have a snapshot fail, so that Redis takes no writes (MISCONF) for `seconds`."""
        dump = self._folder / "dump.rdb"

        def strike() -> None:
            dump.mkdir(exist_ok=True)
            self._client.config_set("save", "3600 1000000")
            self._client.bgsave()

        def cure() -> None:
            shutil.rmtree(dump, ignore_errors=True)
            self._client.config_set("save", "")

        return self._strike("refuse_writes", seconds, strike, cure)

    def send_garbage(self) -> bool:
        """Put what is no message of ours into Celery's queue."""
        with suppress(redis.RedisError):
            self._client.rpush(self._queue, *random.sample(GARBAGE, len(GARBAGE)))
            return True
        return False

    def delete_record(self, key: str) -> bool:
        """Delete the record of a job if it waits. True also without an answer: a frozen Redis does it later."""
        try:
            return bool(self._client.eval(_DELETE_WAITING, 1, key))
        except (redis.TimeoutError, redis.ConnectionError):
            return True
        except redis.RedisError:
            return False

    def revoke(self, job_id: str, *, terminate: bool) -> bool:
        """Revoke a job with Celery's own command; `terminate`: with SIGKILL, too."""
        options = {"terminate": terminate, "signal": "SIGKILL"}
        # Celery waits for a frozen Redis for as long as it takes, and it is this thread that thaws it.
        threading.Thread(target=self._celery.control.revoke, args=(job_id,), kwargs=options, daemon=True).start()
        return True

    def heal(self, *, now: bool = False) -> None:
        """Undo the faults whose time is over; `now`: all of them. What Redis does not take is undone later."""
        for name, (until, cure) in list(self._cures.items()):
            if now or time.monotonic() >= until:
                with suppress(redis.RedisError):
                    cure()
                    del self._cures[name]

    def close(self) -> None:
        """Close the connections."""
        self._celery.close()
        self._client.close()

    def _strike(self, name: str, seconds: float, strike: Callable[[], object], cure: Callable[[], object]) -> bool:
        if name in self._cures:
            return False
        self._cures[name] = (time.monotonic() + seconds, cure)
        with suppress(redis.RedisError):
            strike()
            return True
        return False
