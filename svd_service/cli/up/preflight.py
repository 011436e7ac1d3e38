"""Checks before anything starts, so that a missing requirement is reported in one sentence."""

import contextlib
import fcntl
import importlib.util
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from svd_service.config import Settings

#: Third-party packages that the parts import.
_PACKAGES: Final = ("celery", "gunicorn", "flask", "redis", "torch", "diffusers", "av")


class StackError(Exception):
    """The stack cannot be started; the message names the reason and the remedy."""


def require_packages(*, flower: bool) -> None:
    """Check for missing packages, rather than let each part fail with a traceback.

    Raises:
        StackError: naming the packages and how to install them.
    """
    wanted = (*_PACKAGES, "flower") if flower else _PACKAGES
    missing = [name for name in wanted if importlib.util.find_spec(name) is None]
    if missing:
        raise StackError(f"not installed: {', '.join(missing)}. pip install 'svd-service[local]'")


def private(data_dir: Path) -> None:
    """Create the data folder, accessible to this user only: it holds images, videos, logs and secrets.

    Raises:
        StackError: it cannot be created, or belongs to another user.
    """
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if data_dir.stat().st_mode & 0o077:
            data_dir.chmod(0o700)
    except OSError as error:
        raise StackError(f"SVD_DATA_DIR={data_dir}: {error.strerror}") from None


@contextlib.contextmanager
def only_one(data_dir: Path) -> Iterator[None]:
    """Lock the data folder while the block runs. The lock ends with the process, however it ends.

    Raises:
        StackError: another `up` has locked it, or the folder cannot be written.
    """
    path = data_dir / "up.lock"
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        lock = path.open("a+")
    except OSError as error:
        raise StackError(f"SVD_DATA_DIR={data_dir}: {error.strerror}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise StackError(
                f"{data_dir} is used by another `svd-service up` (process {lock.read().strip() or 'unknown'}): stop it "
                "or set SVD_DATA_DIR to another folder"
            ) from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield


def require_free(settings: Settings, *, flower: bool) -> None:
    """Check that the addresses of the parts are free.

    Raises:
        StackError: an address is in use; the message names the setting that changes it.
    """
    wanted = {"SVD_BIND": settings.bind, "SVD_EXPORTER_BIND": settings.exporter_bind}
    if flower:
        wanted["SVD_FLOWER_BIND"] = settings.flower_bind
    for variable, bind in wanted.items():
        host, port = address_of(variable, bind)
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            with socket.socket(family, kind, protocol) as listener:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(address)
        except OSError as error:
            other = "choose another with --port or SVD_BIND" if variable == "SVD_BIND" else f"set {variable}"
            raise StackError(
                f"{bind} cannot be used ({error.strerror}): stop the program that uses it, or {other}"
            ) from None


def address_of(variable: str, bind: str) -> tuple[str, int]:
    """Return host and port of `bind`.

    Raises:
        StackError: it is not host:port; the message names `variable`.
    """
    with contextlib.suppress(ValueError):
        parts = urlsplit(f"//{bind}")
        if parts.port:
            return parts.hostname or "", parts.port
    raise StackError(f"{variable}={bind}: expected host:port")
