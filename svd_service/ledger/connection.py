"""Connections to Redis: direct or through Sentinels, with TLS where the URL asks for it."""

import re
from typing import Any, Final

import redis
from redis import sentinel
from redis.backoff import NoBackoff
from redis.retry import Retry

from svd_service.config import Settings
from svd_service.errors import RedisDeniedError, UnavailableError, WriteRefusedError

# BusyLoadingError (Redis reads its append-only file) is a ConnectionError; so is a failed or lost connection.
_AWAY: Final = (redis.ConnectionError, redis.TimeoutError)

# Redis answers, but accepts no writes: its memory or its disk is full, it is a replica, or its own replicas are gone.
# In a transaction, redis-py puts the command before the error.
_NO_WRITES: Final = (redis.OutOfMemoryError, redis.ReadOnlyError)
_REFUSING: Final = re.compile(r"(^|caused error: )(OOM|MISCONF|NOREPLICAS) ")

# Neither goes away by itself: the database's number is too large, or the user has too few rights.
_DENYING: Final = re.compile(r"^DB index is out of range|^ACL failure in script: ")

# A long script runs, or a replica waits for its master. EXECABORT only reports that there was such an error.
_BUSY: Final = re.compile(r"(^|caused error: )(BUSY|MASTERDOWN|EXECABORT) ")


#: Beyond it, redis-py raises an error instead of waiting (by default at 100). The number of threads is a limit already.
_MAX_CONNECTIONS: Final = 1_000_000


class reachable:  # noqa: N801  (a context manager, used as a statement)
    """Turns Redis' connection errors into `UnavailableError`, rejected writes into `WriteRefusedError`, and a rejected
    database or command into `RedisDeniedError`.
    """

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        message = str(error) if isinstance(error, redis.ResponseError) else ""
        if isinstance(error, _NO_WRITES) or _REFUSING.search(message):
            raise WriteRefusedError(f"Redis takes no writes: {error}") from error
        if isinstance(error, redis.exceptions.NoPermissionError) or _DENYING.search(message):
            raise RedisDeniedError(f"Redis rejects the database or the user of REDIS_URL: {error}") from error
        if isinstance(error, _AWAY) or _BUSY.search(message):
            raise UnavailableError(f"Redis cannot be reached: {error}") from error


def connect(settings: Settings, *, timeout: float = 1.0) -> "redis.Redis":
    """A client of Redis whose operations take at most `timeout` seconds.

    A connection that Redis closed in the meantime (a restart, a failover) is opened again once, and so is one to a
    Redis that has become a replica: its address may lead to the new master. A timeout is not retried.
    """
    return open_client(
        settings,
        decode_responses=True,
        max_connections=_MAX_CONNECTIONS,
        socket_connect_timeout=timeout,
        socket_timeout=timeout,
        socket_keepalive=True,
        retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError, redis.ReadOnlyError)),
    )


def open_client(settings: Settings, **options: Any) -> "redis.Redis":
    """A client of Redis, with redis-py's own `options`.

    With Sentinels configured, each new connection asks them for the master's address; the first answer is used.
    """
    if not settings.sentinels:
        return redis.Redis.from_url(settings.redis, **options, **(settings.redis_address.tls or {}))
    # Half, so that one unresponsive Sentinel leaves time for the next.
    asking = sentinel_options(settings, timeout=options["socket_timeout"] / 2)
    manager: Any = sentinel.Sentinel  # which is untyped
    found = manager(settings.sentinels, sentinel_kwargs=asking)
    master: redis.Redis = found.master_for(
        settings.redis_address.sentinel_master, **options, **_account(settings.redis), **_tls(settings)
    )
    return master


def sentinel_options(settings: Settings, *, timeout: float) -> dict[str, Any]:
    """Connection options for Sentinels, as redis-py's keywords; with TLS if Redis uses it."""
    user, _, password = (settings.redis_sentinel_auth or "").partition(":")
    return {
        "max_connections": _MAX_CONNECTIONS,
        "socket_connect_timeout": timeout,
        "socket_timeout": timeout,
        "socket_keepalive": True,
        # By default redis-py retries one that is down four times, with pauses, before it connects to the next.
        "retry": Retry(NoBackoff(), 0),
        **({"username": user, "password": password} if user else {}),
        **_tls(settings),
    }


def broker_options(settings: Settings, *, timeout: float) -> dict[str, Any]:
    """Kombu's transport options: what Celery needs to reach the same Redis beyond its URL."""
    if not settings.sentinels:
        return {}
    return {
        "master_name": settings.redis_address.sentinel_master,
        "sentinel_kwargs": sentinel_options(settings, timeout=timeout),
    }


def _account(url: str) -> dict[str, Any]:
    """User, password and database of the URL, where it has them."""
    parse: Any = redis.connection.parse_url  # which is untyped
    return {name: value for name, value in parse(url).items() if name in {"username", "password", "db"}}


def _tls(settings: Settings) -> dict[str, Any]:
    return {} if settings.redis_address.tls is None else {"ssl": True, **settings.redis_address.tls}
