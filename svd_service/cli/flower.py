"""`svd-service flower`: Flower on `SVD_FLOWER_BIND`, always with a password.

Flower's own commands can cancel jobs and stop workers, and its `--basic-auth` would show the password in the list of
processes. Here address and password come from the settings, and the password is passed in the environment.
"""

import importlib.util
import os
import secrets
import sys
from collections.abc import Mapping
from typing import Final, NoReturn

from svd_service.cli.up.preflight import StackError, address_of
from svd_service.config import ConfigurationError, Settings

#: Flower's own variables that already enable authentication: a password, or OAuth.
_PROTECTED: Final = ("FLOWER_BASIC_AUTH", "FLOWER_AUTH")

#: With these variables prometheus_client counts in the folder of gunicorn's processes, which add up all that is in it.
_MULTIPROCESS: Final = (Settings.variables()["multiprocess_dir"], "prometheus_multiproc_dir")


def main() -> NoReturn:
    """Replace this process by Flower, so that signals reach Flower itself. A bad setting ends it with status 2."""
    try:
        if importlib.util.find_spec("flower") is None:
            raise StackError("Flower is not installed: pip install 'svd-service[monitoring]'")
        settings = Settings.load()
        command = _command(settings)
    except (ConfigurationError, StackError) as error:
        print(f"svd-service flower: {error}", file=sys.stderr)  # noqa: T201
        raise SystemExit(2) from None
    environment = _environment(settings, os.environ)  # noqa: TID251 - passed on
    os.execve(command[0], command, environment)  # noqa: S606 - no shell


def _command(settings: Settings) -> list[str]:
    host, port = address_of("SVD_FLOWER_BIND", settings.flower_bind)
    # -P: do not import from the current folder.
    celery = [sys.executable, "-P", "-m", "celery", "-A", "svd_service.celery_app"]
    return [*celery, "flower", f"--address={host}", f"--port={port}"]


def _environment(settings: Settings, inherited: Mapping[str, str]) -> dict[str, str]:
    environment = {name: value for name, value in inherited.items() if name not in _MULTIPROCESS}
    if settings.flower_basic_auth:
        return {**environment, "FLOWER_BASIC_AUTH": settings.flower_basic_auth}
    if any(environment.get(name) for name in _PROTECTED):
        return environment
    password = secrets.token_urlsafe(12)
    print(  # noqa: T201
        f"Flower on {settings.flower_bind}: user svd, password {password} until it stops. "
        f"Set SVD_FLOWER_BASIC_AUTH=user:password to choose one.",
        file=sys.stderr,
        flush=True,
    )
    return {**environment, "FLOWER_BASIC_AUTH": f"svd:{password}"}
