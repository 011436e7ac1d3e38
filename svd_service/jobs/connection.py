"""What the ledger, the outbox and the keys share in speaking to Redis."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import redis

from svd_service.jobs.errors import UnavailableError

# BusyLoadingError (Redis reads its append-only file) is a ConnectionError; so is a refused or lost connection.
_AWAY: Final = (redis.ConnectionError, redis.TimeoutError, redis.OutOfMemoryError, redis.ReadOnlyError)

# It answers, but takes no writes: its memory or its disk is full, or a long script runs.
_REFUSING: Final = ("OOM ", "MISCONF ", "BUSY ")


class reachable:  # noqa: N801  (a context manager, used as a statement)
    """Turns Redis' connection errors into `UnavailableError`."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, _AWAY) or (isinstance(error, redis.ResponseError) and str(error).startswith(_REFUSING)):
            raise UnavailableError(f"Redis cannot be reached: {error}") from error


def scripts(client: "redis.Redis", names: Iterable[str]) -> dict[str, Any]:
    """The named Lua scripts beside the ledger, each with the prelude, ready to be called."""
    folder = Path(__file__).parent / "lua"
    prelude = (folder / "prelude.lua").read_text()
    return {name: client.register_script(prelude + (folder / f"{name}.lua").read_text()) for name in names}
