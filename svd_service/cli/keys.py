"""`svd-service keys`: make, list and revoke API keys, on a machine that reaches the service's Redis.

Also says where the webhooks of a key's jobs go, and what they are signed with.
"""

from datetime import UTC, datetime
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.table import Table

from svd_service.cli.up import processes
from svd_service.config import ConfigurationError, Settings
from svd_service.errors import ConfiguredSecretError, InvalidParameterError, UnavailableError, UnknownKeyError
from svd_service.ledger.api_keys import CACHE_TTL, Key, Keyring
from svd_service.ledger.client import connect
from svd_service.parameters import MAX_PRIORITY
from svd_service.presentation import shown_url
from svd_service.webhooks.signing import OVERLAP, WebhookSecrets, checked_url

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
    webhook: Annotated[
        str, typer.Option(metavar="URL", help="Where the ends of its jobs are told, if they name no other place.")
    ] = "",
) -> None:
    """Make a key, and show it this once. With the first one, the service asks everybody for a key."""
    settings = _settings()
    if webhook:
        checked_url(webhook, settings)
    keyring = _keyring(settings)
    first = keyring.is_open()
    key, secret = keyring.create(name, priority=priority, webhook_url=webhook)
    (signing,) = _secrets(settings).of(key.id)
    typer.echo(secret)
    said = (
        f"The key {key.id} of {name}. Keep it: only its SHA-256 is stored, and it cannot be shown again.\n"
        f"Its webhooks are signed with {signing}, which `svd-service keys secret {key.id}` shows again."
    )
    if first:
        said += "\nIt is the first: from now on the service asks everybody for a key."
    Console(stderr=True, soft_wrap=True, highlight=False).print(said, markup=False)


@app.command(name="list")
def show() -> None:
    """List the keys, revoked ones too."""
    table = Table("id", "name", "priority", "made", "revoked", box=None, pad_edge=False)
    table.add_column("webhook", overflow="fold")
    keys = _keyring(_settings()).list()
    for key in keys:
        made = _moment(key.created_at) if key.created_at else "SVD_API_KEYS"
        told = shown_url(key.webhook_url) if key.webhook_url else ""
        table.add_row(key.id, key.name, str(key.priority), made, _moment(key.revoked_at), told)
    if keys:
        Console(highlight=False, markup=False).print(table)
    else:
        typer.echo("There are no keys: everybody who reaches the service may use it.")


@app.command()
def revoke(key_id: Annotated[str, typer.Argument(metavar="ID", show_default=False)]) -> None:
    """Hear a key no longer. Its jobs go on; without the key nobody sees them."""
    key = _keyring(_settings()).revoke(key_id)
    typer.echo(f"Revoked: {_words(key)}. Within {CACHE_TTL:.0f} seconds nobody hears it.")


@app.command()
def forget_all(yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False) -> None:
    """Forget every key in Redis: the service is open again to everybody who reaches it."""
    if not yes:
        typer.confirm("Everybody who reaches the service may use it then. Forget all keys?", abort=True)
    typer.echo(f"Forgot {_keyring(_settings()).forget_all()} keys.")


@app.command()
def webhook(
    key_id: Annotated[str, typer.Argument(metavar="ID", show_default=False)],
    url: Annotated[str, typer.Argument(metavar="[URL]", show_default=False)] = "",
) -> None:
    """Tell the ends of a key's jobs at URL, if they name no other place; without URL, nowhere."""
    settings = _settings()
    if url:
        checked_url(url, settings)
    key = _keyring(settings).set_webhook(key_id, url)
    where = shown_url(url) if url else "nowhere, unless they name a place"
    typer.echo(f"The ends of jobs of {_words(key)} are told: {where}.")


@app.command()
def secret(
    key_id: Annotated[str, typer.Argument(metavar="[ID]", show_default=False)] = "",
    rotate: Annotated[bool, typer.Option("--rotate", help="Make a new one first.")] = False,
) -> None:
    """Show what the webhooks of a key's jobs are signed with; without ID, those of jobs that no key submitted."""
    settings = _settings()
    if key_id and key_id not in {key.id for key in _keyring(settings).list()}:
        raise UnknownKeyError(f"there is no key {key_id}")
    secrets = _secrets(settings)
    if rotate:
        secrets.rotate(key_id)
    newest, *others = secrets.of(key_id)
    typer.echo(newest)
    if rotate and others:
        hours = OVERLAP / 3600
        typer.echo(f"For {hours:.0f} hours the one before signs as well, so that receivers can be changed.", err=True)


def _settings() -> Settings:
    return processes.with_running_redis(Settings.load())


def _keyring(settings: Settings) -> Keyring:
    return Keyring(connect(settings), settings)


def _secrets(settings: Settings) -> WebhookSecrets:
    return WebhookSecrets(connect(settings), settings)


def run(arguments: list[str]) -> None:
    """The commands' entry: what can go wrong is a sentence and status 1.

    Raises:
        SystemExit: always, as commands do.
    """
    try:
        app(arguments, prog_name="svd-service keys")
    except UnavailableError as error:
        raise SystemExit(f"{error}\nThe keys are in Redis: is the service running, and REDIS_URL the same?") from None
    except (ConfigurationError, ConfiguredSecretError, InvalidParameterError, UnknownKeyError) as error:
        raise SystemExit(str(error)) from None


def _words(key: Key) -> str:
    return f"{key.id} ({key.name})"


def _moment(seconds: float | None) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime(_TIME) if seconds else ""
