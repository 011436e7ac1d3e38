"""`svd-service keys`: create, list and revoke API keys, on a machine that reaches the service's Redis.

It also sets the webhook URL of a key, and shows its signing secret.
"""

from datetime import UTC, datetime
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.table import Table

from svd_service import bootstrap
from svd_service.cli.up import processes
from svd_service.cli.up.preflight import StackError
from svd_service.config import ConfigurationError, Settings
from svd_service.errors import ConfiguredSecretError, InvalidParameterError, UnavailableError, UnknownKeyError
from svd_service.ledger.api_keys import CACHE_TTL, Key, Keyring
from svd_service.parameters import MAX_PRIORITY
from svd_service.presentation import shown_url
from svd_service.webhooks.signing import OVERLAP, WebhookSecrets, checked_url

app = typer.Typer(
    no_args_is_help=True, add_completion=False, rich_markup_mode=None, help="Create, list and revoke API keys."
)

_TIME: Final = "%Y-%m-%d %H:%M"


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Name of the key's holder, for display only.", show_default=False)],
    priority: Annotated[
        int, typer.Option(min=0, max=MAX_PRIORITY, help="Highest priority of its jobs; higher is sooner.")
    ] = 0,
    webhook: Annotated[str, typer.Option(metavar="URL", help="Default webhook URL of its jobs.")] = "",
) -> None:
    """Create a key and show it once. After the first one, every request needs a key."""
    settings = _settings()
    if webhook:
        checked_url(webhook, settings)
    keyring = _keyring(settings)
    first = not keyring.count()
    key, secret = keyring.create(name, priority=priority, webhook_url=webhook)
    (signing,) = _secrets(settings).of(key.id)
    typer.echo(secret)
    message = (
        f"The key {key.id} of {name}. Keep it: only its SHA-256 is stored, and it cannot be shown again.\n"
        f"Its webhooks are signed with {signing}, which `svd-service keys secret {key.id}` shows again."
    )
    if first:
        message += "\nIt is the first one: from now on every request needs a key."
    Console(stderr=True, soft_wrap=True, highlight=False).print(message, markup=False)


@app.command(name="list")
def show() -> None:
    """List the keys, revoked ones too."""
    table = Table("id", "name", "priority", "made", "revoked", box=None, pad_edge=False)
    table.add_column("webhook", overflow="fold")
    settings = _settings()
    keys = _keyring(settings).list()
    for key in keys:
        made = _moment(key.created_at) if key.created_at else "SVD_API_KEYS"
        hook = shown_url(key.webhook_url) if key.webhook_url else ""
        table.add_row(key.id, key.name, str(key.priority), made, _moment(key.revoked_at), hook)
    if keys:
        Console(highlight=False, markup=False).print(table)
    else:
        access = (
            "every caller who can reach the service may use it"
            if settings.is_local or settings.open
            else "every request is rejected"
        )
        typer.echo(f"There are no keys: {access}.")


@app.command()
def revoke(key_id: Annotated[str, typer.Argument(metavar="ID", show_default=False)]) -> None:
    """Revoke a key and its share links. Its jobs continue, but can no longer be read."""
    key = _keyring(_settings()).revoke(key_id)
    typer.echo(f"Revoked: {_words(key)}. It takes effect within {CACHE_TTL:.0f} seconds.")


@app.command()
def forget_all(yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False) -> None:
    """Delete every key in Redis: then every caller who can reach the service may use it."""
    if not yes:
        typer.confirm("Every caller who can reach the service may use it then. Delete all keys?", abort=True)
    typer.echo(f"Deleted {_keyring(_settings()).forget_all()} keys.")


@app.command()
def webhook(
    key_id: Annotated[str, typer.Argument(metavar="ID", show_default=False)],
    url: Annotated[str, typer.Argument(metavar="[URL]", show_default=False)] = "",
) -> None:
    """Set the default webhook URL of a key's jobs; without URL, remove it."""
    settings = _settings()
    if url:
        checked_url(url, settings)
    key = _keyring(settings).set_webhook(key_id, url)
    typer.echo(f"Default webhook URL of {_words(key)}: {shown_url(url) if url else 'none'}")


@app.command()
def secret(
    key_id: Annotated[str, typer.Argument(metavar="[ID]", show_default=False)] = "",
    rotate: Annotated[bool, typer.Option("--rotate", help="Create a new secret first.")] = False,
) -> None:
    """Show the signing secret of a key's webhooks; without ID, that of jobs without a key."""
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
        typer.echo(f"The old secret also signs for {hours:.0f} hours, so that receivers can be updated.", err=True)


def _settings() -> Settings:
    return processes.with_running_redis(Settings.load())


def _keyring(settings: Settings) -> Keyring:
    return bootstrap.keyring(settings)


def _secrets(settings: Settings) -> WebhookSecrets:
    return bootstrap.webhook_secrets(settings)


def run(arguments: list[str]) -> None:
    """Run the commands; an expected error prints one sentence and exits with status 1.

    Raises:
        SystemExit: always, as commands do.
    """
    try:
        app(arguments, prog_name="svd-service keys")
    except UnavailableError as error:
        raise SystemExit(
            f"{error}\nThe keys are in the service's Redis: is the service running? If it was started elsewhere, set "
            "REDIS_URL, or SVD_DATA_DIR to its data folder."
        ) from None
    except (StackError, ConfigurationError, ConfiguredSecretError, InvalidParameterError, UnknownKeyError) as error:
        raise SystemExit(str(error)) from None


def _words(key: Key) -> str:
    return f"{key.id} ({key.name})"


def _moment(seconds: float | None) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime(_TIME) if seconds else ""
