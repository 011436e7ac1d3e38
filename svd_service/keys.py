"""`svd-service keys`: make, list and revoke API keys, on a machine that reaches the service's Redis."""

from datetime import UTC, datetime
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.table import Table

from svd_service.config import ConfigurationError, Settings
from svd_service.jobs.errors import UnavailableError, UnknownKeyError
from svd_service.jobs.keys import CACHE_TTL, Key, Keyring
from svd_service.jobs.ledger import connect
from svd_service.jobs.request import MAX_PRIORITY
from svd_service.stack import parts

app = typer.Typer(
    no_args_is_help=True, add_completion=False, rich_markup_mode=None, help="Make, list and revoke API keys."
)

#: When a person can read it.
_TIME: Final = "%Y-%m-%d %H:%M"


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Whose key it is; for people alone.", show_default=False)],
    priority: Annotated[
        int, typer.Option(min=0, max=MAX_PRIORITY, help="The most that its jobs may ask for; greater is sooner.")
    ] = 0,
) -> None:
    """Make a key, and show it this once. With the first one, the service asks everybody for a key."""
    keyring = _keyring()
    first = keyring.is_open()
    key, secret = keyring.create(name, priority=priority)
    typer.echo(secret)
    said = f"The key {key.id} of {name}. Keep it: only its SHA-256 is stored, and it cannot be shown again."
    if first:
        said += "\nIt is the first: from now on the service asks everybody for a key."
    Console(stderr=True, soft_wrap=True, highlight=False).print(said, markup=False)


@app.command(name="list")
def show() -> None:
    """List the keys, revoked ones too."""
    table = Table("id", "name", "priority", "made", "revoked", box=None, pad_edge=False)
    keys = _keyring().list()
    for key in keys:
        made = _moment(key.created_at) if key.created_at else "SVD_API_KEYS"
        table.add_row(key.id, key.name, str(key.priority), made, _moment(key.revoked_at))
    if keys:
        Console(highlight=False, markup=False).print(table)
    else:
        typer.echo("There are no keys: everybody who reaches the service may use it.")


@app.command()
def revoke(key_id: Annotated[str, typer.Argument(metavar="ID", show_default=False)]) -> None:
    """Hear a key no longer. Its jobs go on; without the key nobody sees them."""
    key = _keyring().revoke(key_id)
    typer.echo(f"Revoked: {_words(key)}. Within {CACHE_TTL:.0f} seconds nobody hears it.")


@app.command()
def forget_all(yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False) -> None:
    """Forget every key in Redis: the service is open again to everybody who reaches it."""
    if not yes:
        typer.confirm("Everybody who reaches the service may use it then. Forget all keys?", abort=True)
    typer.echo(f"Forgot {_keyring().forget_all()} keys.")


def _keyring() -> Keyring:
    settings = parts.with_running_redis(Settings.load())
    return Keyring(connect(settings), settings)


def run(arguments: list[str]) -> None:
    """The commands' entry: what can go wrong is a sentence and status 1.

    Raises:
        SystemExit: always, as commands do.
    """
    try:
        app(arguments, prog_name="svd-service keys")
    except UnavailableError as error:
        raise SystemExit(f"{error}\nThe keys are in Redis: is the service running, and REDIS_URL the same?") from None
    except (ConfigurationError, UnknownKeyError) as error:
        raise SystemExit(str(error)) from None


def _words(key: Key) -> str:
    return f"{key.id} ({key.name})"


def _moment(seconds: float | None) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime(_TIME) if seconds else ""
