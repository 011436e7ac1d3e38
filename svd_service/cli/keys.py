"""`svd-service keys`: create, list and revoke API keys, on a machine that reaches the service's Redis.

It also shows the usage of keys, sets the webhook URL of a key, and shows its signing secret.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table

from svd_service import bootstrap
from svd_service.cli.up import processes
from svd_service.cli.up.preflight import StackError
from svd_service.config import ConfigurationError, Settings
from svd_service.errors import ConfiguredSecretError, InvalidParameterError, UnavailableError, UnknownKeyError
from svd_service.jobs.allowance import Allowance
from svd_service.jobs.usage import GROUPS, Usage, as_csv, grouped, total
from svd_service.ledger.api_keys import ADMIN, CACHE_TTL, Key, Keyring
from svd_service.ledger.usage import KEPT_DAYS
from svd_service.parameters import MAX_PRIORITY
from svd_service.presentation import shown_url
from svd_service.webhooks.signing import OVERLAP, WebhookSecrets, checked_url

app = typer.Typer(
    no_args_is_help=True, add_completion=False, rich_markup_mode=None, help="Create, list and revoke API keys."
)

_TIME: Final = "%Y-%m-%d %H:%M"
_DAY: Final = "%Y-%m-%d"

#: Columns of the table of usage: heading, and field of `Usage`.
_COLUMNS: Final = {
    "submitted": "submitted",
    "finished": "finished",
    "cached": "cached",
    "failed": "failed",
    "cancelled": "cancelled",
    "device s": "device_seconds",
    "failed s": "failed_device_seconds",
    "frames": "frames",
    "bytes": "bytes",
}


#: Words of options: every model or profile, and no expiry.
ALL: Final = "all"
NEVER: Final = "never"

JobsPerDay = Annotated[int | None, typer.Option(min=0, help="Quota of jobs per day (UTC); 0: none.")]
SecondsPerDay = Annotated[float | None, typer.Option(min=0, help="Quota of device seconds per day; 0: none.")]
SecondsPerMonth = Annotated[float | None, typer.Option(min=0, help="Quota of device seconds per month; 0: none.")]
Concurrent = Annotated[int | None, typer.Option(min=0, help="Maximum number of jobs that have not ended; 0: none.")]
Models = Annotated[list[str] | None, typer.Option(help=f"Model that it may use (repeatable), or {ALL}.")]
Profiles = Annotated[list[str] | None, typer.Option(help=f"Profile that it may use (repeatable), or {ALL}.")]
Expires = Annotated[str | None, typer.Option(metavar="DATE", help=f"Last day of its validity (UTC), or {NEVER}.")]


class Grouping(StrEnum):
    """How the usage of a key is grouped."""

    DAY = "day"
    MODEL = "model"


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Name of the key's holder, for display only.", show_default=False)],
    priority: Annotated[
        int, typer.Option(min=0, max=MAX_PRIORITY, help="Highest priority of its jobs; higher is sooner.")
    ] = 0,
    webhook: Annotated[str, typer.Option(metavar="URL", help="Default webhook URL of its jobs.")] = "",
    jobs_per_day: JobsPerDay = None,
    seconds_per_day: SecondsPerDay = None,
    seconds_per_month: SecondsPerMonth = None,
    concurrent: Concurrent = None,
    model: Models = None,
    profile: Profiles = None,
    expires: Expires = None,
    admin: Annotated[bool, typer.Option("--admin", help="Key of an operator, for `svd-service admin`.")] = False,
) -> None:
    """Create a key and show it once. After the first one, every request needs a key."""
    limits = _limits(jobs_per_day, seconds_per_day, seconds_per_month, concurrent, model, profile)
    settings = _settings()
    if webhook:
        checked_url(webhook, settings)
    keyring = _keyring(settings)
    first = not keyring.count()
    key, secret = keyring.create(
        name,
        priority=priority,
        webhook_url=webhook,
        allowance=replace(Allowance(), **limits),
        expires_at=_expiry(expires) if expires else None,
        scopes=(ADMIN,) if admin else (),
    )
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
    table = Table("id", "name", "priority", "made", "revoked", "expires", "limits", box=None, pad_edge=False)
    table.add_column("webhook", overflow="fold")
    settings = _settings()
    keys = _keyring(settings).list()
    for key in keys:
        made = _moment(key.created_at) if key.created_at else "SVD_API_KEYS"
        hook = shown_url(key.webhook_url) if key.webhook_url else ""
        dates = made, _moment(key.revoked_at), _moment(key.expires_at)
        table.add_row(key.id, key.name, str(key.priority), *dates, _limits_of(key), hook)
    if keys:
        _print(table)
    else:
        access = (
            "every caller who can reach the service may use it"
            if settings.is_local or settings.open
            else "every request is rejected"
        )
        typer.echo(f"There are no keys: {access}.")


@app.command()
def limit(
    key_id: Annotated[str, typer.Argument(metavar="ID", show_default=False)],
    jobs_per_day: JobsPerDay = None,
    seconds_per_day: SecondsPerDay = None,
    seconds_per_month: SecondsPerMonth = None,
    concurrent: Concurrent = None,
    model: Models = None,
    profile: Profiles = None,
    expires: Expires = None,
) -> None:
    """Change a key's quotas, its models and profiles, or its expiry date. What is not named stays as it is."""
    limits = _limits(jobs_per_day, seconds_per_day, seconds_per_month, concurrent, model, profile)

    def change(key: Key) -> Key:
        changed = replace(key, allowance=replace(key.allowance, **limits))
        return replace(changed, expires_at=_expiry(expires)) if expires else changed

    key = _keyring(_settings()).change(key_id, change)
    typer.echo(f"Limits of {_words(key)}: {_limits_of(key)}. They take effect within {CACHE_TTL:.0f} seconds.")


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
    if key_id:
        _require_key(settings, key_id)
    secrets = _secrets(settings)
    if rotate:
        secrets.rotate(key_id)
    newest, *others = secrets.of(key_id)
    typer.echo(newest)
    if rotate and others:
        hours = OVERLAP / 3600
        typer.echo(f"The old secret also signs for {hours:.0f} hours, so that receivers can be updated.", err=True)


@app.command()
def usage(
    key_id: Annotated[str, typer.Argument(metavar="[ID]", show_default=False)] = "",
    first: Annotated[datetime | None, typer.Option("--from", formats=[_DAY], help="First day, UTC.")] = None,
    last: Annotated[datetime | None, typer.Option("--to", formats=[_DAY], help="Last day, UTC.")] = None,
    group: Annotated[Grouping, typer.Option(help="Group by day or model.")] = Grouping.DAY,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
) -> None:
    """Show the usage of a key, or without ID the total of each key; by default of the last 30 days."""
    settings = _settings()
    until = (last or datetime.now(UTC)).date()
    since = first.date() if first else until - timedelta(29)
    if not 0 <= (until - since).days <= KEPT_DAYS:
        raise typer.BadParameter(f"must be 0 to {KEPT_DAYS} days before --to", param_hint="--from")
    records = bootstrap.ledger(settings).usage
    if key_id:
        _require_key(settings, key_id)
        name, sums = str(group), grouped(records.of(key_id, since, until), GROUPS[group])
    else:
        names = {"": "(no key)"} | {key.id: _words(key) for key in _keyring(settings).list()}
        name, sums = "key", {shown: total(records.of(owner, since, until)) for owner, shown in names.items()}
    if csv:
        typer.echo(as_csv(name, sums), nl=False)
    else:
        _print_usage(name, sums)


def _print_usage(name: str, sums: Mapping[str, Usage]) -> None:
    table = Table(name, *_COLUMNS, box=None, pad_edge=False)
    for group, amounts in sums.items():
        table.add_row(group, *(str(getattr(amounts, column)) for column in _COLUMNS.values()))
    _print(table)


def _require_key(settings: Settings, key_id: str) -> None:
    if key_id not in {key.id for key in _keyring(settings).list()}:
        raise UnknownKeyError(f"there is no key {key_id}")


def _limits(
    jobs_per_day: int | None,
    seconds_per_day: float | None,
    seconds_per_month: float | None,
    concurrent: int | None,
    model: list[str] | None,
    profile: list[str] | None,
) -> dict[str, Any]:
    """The fields of `Allowance` that options name."""
    given = {
        "jobs_per_day": jobs_per_day,
        "device_seconds_per_day": seconds_per_day,
        "device_seconds_per_month": seconds_per_month,
        "concurrent_jobs": concurrent,
        "models": None if model is None else _without(ALL, model),
        "profiles": None if profile is None else _without(ALL, profile),
    }
    return {name: value for name, value in given.items() if value is not None}


def _without(word: str, names: Iterable[str]) -> tuple[str, ...]:
    return tuple(str(name) for name in names if name != word)


def _expiry(text: str) -> float | None:
    """Seconds since the epoch at the end of that day (UTC); `None` for `never`."""
    if text == NEVER:
        return None
    try:
        return datetime.strptime(text, _DAY).replace(tzinfo=UTC).timestamp() + 86_400
    except ValueError:
        raise typer.BadParameter(f"must be a date such as 2027-12-31, or {NEVER}", param_hint="--expires") from None


def _limits_of(key: Key) -> str:
    allowance = key.allowance
    words = [
        (allowance.jobs_per_day, "jobs/day"),
        (allowance.device_seconds_per_day, "s/day"),
        (allowance.device_seconds_per_month, "s/month"),
        (allowance.concurrent_jobs, "jobs at a time"),
    ]
    shown = [f"{limit:g} {unit}" for limit, unit in words if limit]
    shown += [" ".join(names) for names in (allowance.models, allowance.profiles) if names]
    return ", ".join(shown) or "none"


def _print(table: Table) -> None:
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 240  # do not wrap what another program reads
    console.print(table)


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
