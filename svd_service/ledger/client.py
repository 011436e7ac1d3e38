"""How Redis is reached, directly or through its Sentinels, with TLS where its URL says so; and what the ledger, the
outbox and the keys share in speaking to it.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import redis
from redis import sentinel
from redis.backoff import NoBackoff
from redis.retry import Retry

from svd_service.config import Settings
from svd_service.errors import UnavailableError

# BusyLoadingError (Redis reads its append-only file) is a ConnectionError; so is a refused or lost connection.
_AWAY: Final = (redis.ConnectionError, redis.TimeoutError, redis.OutOfMemoryError, redis.ReadOnlyError)

# It answers, but takes no writes: its memory or its disk is full, a long script runs, or its replicas are gone.
_REFUSING: Final = ("OOM ", "MISCONF ", "BUSY ", "NOREPLICAS ")


#: Folder of the ledger's scripts.
LUA: Final = Path(__file__).parent / "lua"


class reachable:  # noqa: N801  (a context manager, used as a statement)
    """Turns Redis' connection errors into `UnavailableError`."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, _AWAY) or (isinstance(error, redis.ResponseError) and str(error).startswith(_REFUSING)):
            raise UnavailableError(f"Redis cannot be reached: {error}") from error


def scripts(client: "redis.Redis", names: Iterable[str], folder: Path = LUA) -> dict[str, Any]:
    """The named Lua scripts of `folder`, each with the prelude, ready to be called."""
    prelude = (LUA / "prelude.lua").read_text()
    return {name: client.register_script(prelude + (folder / f"{name}.lua").read_text()) for name in names}


def open_client(settings: Settings, **options: Any) -> "redis.Redis":
    """A client of Redis, with redis-py's own `options`.

    Where there are Sentinels, each new connection asks them who the master is; the first that answers is believed.
    """
    if not settings.sentinels:
        return redis.Redis.from_url(settings.redis, **options, **(settings.redis_tls or {}))
    # Half, so that one Sentinel that is silent leaves time for the next.
    asking = sentinel_options(settings, timeout=options["socket_timeout"] / 2)
    manager: Any = sentinel.Sentinel  # which is untyped
    found = manager(settings.sentinels, sentinel_kwargs=asking)
    master: redis.Redis = found.master_for(
        settings.sentinel_master, **options, **_account(settings.redis), **_tls(settings)
    )
    return master


def sentinel_options(settings: Settings, *, timeout: float) -> dict[str, Any]:
    """How a Sentinel is spoken to, as redis-py's keywords; with TLS if Redis is."""
    user, _, password = (settings.redis_sentinel_auth or "").partition(":")
    return {
        "socket_connect_timeout": timeout,
        "socket_timeout": timeout,
        "socket_keepalive": True,
        # By default redis-py asks one that is down four times, with pauses, before it goes on to the next.
        "retry": Retry(NoBackoff(), 0),
        **({"username": user, "password": password} if user else {}),
        **_tls(settings),
    }


def broker_options(settings: Settings, *, timeout: float) -> dict[str, Any]:
    """How Celery finds the same Redis, as far as its URL cannot say it: kombu's transport options."""
    if not settings.sentinels:
        return {}
    return {"master_name": settings.sentinel_master, "sentinel_kwargs": sentinel_options(settings, timeout=timeout)}


def _account(url: str) -> dict[str, Any]:
    """User, password and database, as far as the URL names them."""
    parse: Any = redis.connection.parse_url  # which is untyped
    return {name: value for name, value in parse(url).items() if name in {"username", "password", "db"}}


def _tls(settings: Settings) -> dict[str, Any]:
    return {} if settings.redis_tls is None else {"ssl": True, **settings.redis_tls}
