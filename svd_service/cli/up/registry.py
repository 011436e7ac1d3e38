"""Registry of running `svd-service up` on this machine, so that `svd-service keys` finds its Redis from any folder.

Each `up` writes a note, readable by its user only, to the user's state folder. A note is valid while the data folder is
locked; the lock ends with the process, however it ends.
"""

import contextlib
import fcntl
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import msgspec

from svd_service.cli.up.preflight import StackError
from svd_service.config import Settings

#: Settings that a command needs to reach the same keys.
_NOTED = ("redis_url", "redis_host", "redis_port", "namespace")


def note(settings: Settings) -> None:
    """Write a note for an `up` with these settings, `redis_url` being its Redis. Does nothing without a home folder."""
    data_dir = settings.data_dir.resolve()
    content = {"data_dir": str(data_dir), **{name: getattr(settings, name) for name in _NOTED}}
    with contextlib.suppress(OSError, RuntimeError):
        path = _folder() / f"{hashlib.sha256(str(data_dir).encode()).hexdigest()[:16]}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)  # the URL may hold a password
        path.write_text(json.dumps(content), encoding="utf-8")


def of_running(settings: Settings) -> Settings:
    """Return `settings` with Redis and namespace of the only running `up` on this machine; unchanged if none runs.

    Raises:
        StackError: several run.
    """
    running = [content for content in _notes() if _is_running(content)]
    if len(running) > 1:
        folders = ", ".join(content["data_dir"] for content in running)
        raise StackError(f"several services run on this machine: set SVD_DATA_DIR to one of {folders}")
    if not running:
        return settings
    return msgspec.structs.replace(settings, **{name: running[0][name] for name in _NOTED})


def is_locked(data_dir: Path) -> bool:
    """Return whether an `up` runs with this data folder.

    Raises:
        OSError: the lock cannot be read.
    """
    with contextlib.suppress(FileNotFoundError), (data_dir / "up.lock").open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _notes() -> list[dict[str, Any]]:
    found = []
    try:
        paths = sorted(_folder().glob("*.json"))
    except (OSError, RuntimeError):
        return []
    for path in paths:
        with contextlib.suppress(OSError, ValueError, KeyError):
            content = json.loads(path.read_text(encoding="utf-8"))
            found.append({name: content[name] for name in ("data_dir", *_NOTED)})
    return found


def _is_running(content: dict[str, Any]) -> bool:
    with contextlib.suppress(OSError):
        return is_locked(Path(content["data_dir"]))
    return False


def _folder() -> Path:
    # Path.home raises RuntimeError for a user without home folder.
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "svd-service" / "running"
