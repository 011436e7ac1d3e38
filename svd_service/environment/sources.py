"""Where the values of settings come from: `.env`, the environment and files of secrets."""

import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from dotenv import dotenv_values

from svd_service.environment import ConfigurationError
from svd_service.environment.conversion import is_set


def variables() -> dict[str, str | None]:
    """The environment's variables and, for missing or empty ones, those of `.env` in the current folder.

    Raises:
        ConfigurationError: `.env` cannot be read.
    """
    return {**_from_dotenv(), **{name: value for name, value in os.environ.items() if value}}


def secret_files(folder: Path, names: Iterable[str], values: Mapping[str, object]) -> dict[str, str]:
    """The secrets of `names` that are not among `values` and have a file in `folder`.

    Raises:
        ConfigurationError: a file cannot be read.
    """
    found = {}
    for name in sorted(names):
        path = folder / name
        try:
            if not is_set(values, name) and _is_file(path):
                found[name] = path.read_text(encoding="utf-8-sig").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"SVD_SECRETS_DIR={folder}: cannot read the secret {name}: {error}") from None
    return found


def _is_file(path: Path) -> bool:
    # Not by Path.is_file, which from Python 3.14 on hides that the folder must not be entered.
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def hub_variables() -> dict[str, str]:
    """Those of `variables` that the Hugging Face hub's client reads (`HF_TOKEN`, `HF_HOME`, …) and that are not empty.

    Raises:
        ConfigurationError: `.env` cannot be read.
    """
    return {name: value for name, value in variables().items() if name.startswith("HF_") and value}


def _from_dotenv() -> dict[str, str | None]:
    """The variables in `.env`, which may begin with a byte order mark, as some editors write it."""
    try:
        return dotenv_values(".env", encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigurationError(f"{Path('.env').resolve()}: not UTF-8; save the file in that encoding") from None
    except OSError as error:
        raise ConfigurationError(f"{Path('.env').resolve()}: {error.strerror}") from None
