"""`svd-service keys`: create, list, rotate and revoke API keys, and show their usage.

What a key may do, and what rotating and revoking it does, is decided in `ledger/api_keys.py`. The commands work on the
service's Redis, or with `--url` through HTTP with an operator's key. Webhook URLs and signing secrets
are set and shown on a machine that reaches Redis.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from svd_service.cli.display import explained, print_table
from svd_service.cli.key_stores import CreatedKey, KeyStore, RedisKeyStore, ServiceKeyStore
from svd_service.cli.options import ApiKey
from svd_service.cli.up import processes
from svd_service.cli.up.preflight import StackError
from svd_service.client.errors import ClientError
from svd_service.config import ConfigurationError, Settings
from svd_service.errors import (
    ConfiguredSecretError,
    InvalidParameterError,
    RedisDeniedError,
    UnavailableError,
    UnknownKeyError,
)
from svd_service.jobs.usage import Usage, as_csv
from svd_service.ledger.api_keys import CACHE_TTL
from svd_service.ledger.key import ADMIN, ALL, NEVER, Key, NewKey
from svd_service.ledger.usage import KEPT_DAYS, NO_KEY
from svd_service.parameters import MAX_PRIORITY
from svd_service.presentation import shown_url
from svd_service.webhooks.signing import OVERLAP, checked_url

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

JobsPerDay = Annotated[int | None, typer.Option(min=0, help="Quota of jobs per day (UTC); 0: none.")]
SecondsPerDay = Annotated[float | None, typer.Option(min=0, help="Quota of device seconds per day; 0: none.")]
SecondsPerMonth = Annotated[float | None, typer.Option(min=0, help="Quota of device seconds per month; 0: none.")]
Concurrent = Annotated[int | None, typer.Option(min=0, help="Maximum number of jobs that have not ended; 0: none.")]
Models = Annotated[list[str] | None, typer.Option(help=f"Model that it may use (repeatable), or {ALL}.")]
Profiles = Annotated[list[str] | None, typer.Option(help=f"Profile that it may use (repeatable), or {ALL}.")]
Expires = Annotated[str, typer.Option(metavar="DATE", help=f"Last day of its validity (UTC), or {NEVER}.")]
Owner = Annotated[str, typer.Option(metavar="NAME", help="Owner with other keys, or the id of one: shares its jobs.")]
Url = Annotated[str | None, typer.Option("--url", "--server", help="Use this service, with an operator's key.")]
KeyId = Annotated[str, typer.Argument(metavar="ID", show_default=False)]


class Grouping(StrEnum):
    """How the usage of a key is grouped."""

    DAY = "day"
    MODEL = "model"


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Name of the key's holder, for display only.", show_default=False)],
    owner: Owner = "",
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
    expires: Expires = "",
    admin: Annotated[bool, typer.Option("--admin", help="Key of an operator, for `svd-service admin`.")] = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Create a key and show it once. After the first one, every request needs a key."""
    limits = _limits(jobs_per_day, seconds_per_day, seconds_per_month, concurrent, model, profile)
    created = _keys(url, api_key).create(NewKey(name, owner, priority, webhook, limits, expires, admin))
    _show(created, f"The key {created.key.id} of {name}{_shared(created.key)}.")


@app.command(name="list")
def show(url: Url = None, api_key: ApiKey = None) -> None:
    """List the keys, revoked ones too."""
    table = Table("id", "name", "owner", "priority", "made", "revoked", "expires", "limits", box=None, pad_edge=False)
    table.add_column("webhook", overflow="fold")
    listed = _keys(url, api_key)
    keys = listed.list()
    for key in keys:
        made = _moment(key.created_at) if key.created_at else "SVD_API_KEYS"
        hook = shown_url(key.webhook_url) if key.webhook_url else ""
        expires = _moment(key.expires_at) + (f" (replaced by {key.successor})" if key.successor else "")
        limits = _limits_of(key) + (", admin" if ADMIN in key.scopes else "")
        owner = "" if key.owner == key.id else key.owner
        table.add_row(key.id, key.name, owner, str(key.priority), made, _moment(key.revoked_at), expires, limits, hook)
    if keys:
        print_table(table)
    else:
        settings = _settings()
        access = (
            "every caller who can reach the service may use it"
            if settings.is_local or settings.open
            else "every request is rejected"
        )
        typer.echo(f"There are no keys: {access}.")


@app.command()
def limit(
    key_id: KeyId,
    jobs_per_day: JobsPerDay = None,
    seconds_per_day: SecondsPerDay = None,
    seconds_per_month: SecondsPerMonth = None,
    concurrent: Concurrent = None,
    model: Models = None,
    profile: Profiles = None,
    expires: Expires = "",
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Change the quotas, models and profiles of a key and all others of its owner, or the key's expiry date.

    What is not named stays as it is.
    """
    limits = _limits(jobs_per_day, seconds_per_day, seconds_per_month, concurrent, model, profile)
    key = _keys(url, api_key).limit(key_id, limits, expires)
    until = f", until {_moment(key.expires_at)} UTC" if key.expires_at else ""
    typer.echo(f"Limits of {_words(key)}: {_limits_of(key)}{until}. They take effect within {CACHE_TTL:.0f} seconds.")


@app.command()
def revoke(key_id: KeyId, url: Url = None, api_key: ApiKey = None) -> None:
    """Revoke a key and its share links. Other keys of its owner stay valid.

    Its jobs continue; without another key of the owner, they can no longer be read.
    """
    key = _keys(url, api_key).revoke(key_id)
    typer.echo(f"Revoked: {_words(key)}. It takes effect within {CACHE_TTL:.0f} seconds.")


@app.command()
def rotate(
    key_id: KeyId,
    grace: Annotated[float, typer.Option(metavar="HOURS", min=0, max=720, help="Validity of the old key.")] = 24,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Replace a key by a new one with the same jobs, limits and permissions, and show it once.

    The old key stays valid for some hours, so that its holders can be updated.
    """
    created = _keys(url, api_key).rotate(key_id, grace * 3600)
    _show(created, f"The key {created.key.id} replaces {key_id}, which is valid for {grace:g} more hours.")


@app.command()
def forget_all(yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False) -> None:
    """Delete every key in Redis: then every caller who can reach the service may use it."""
    if not yes:
        typer.confirm("Every caller who can reach the service may use it then. Delete all keys?", abort=True)
    typer.echo(f"Deleted {_redis_keys().keyring.forget_all()} keys.")


@app.command()
def webhook(
    key_id: Annotated[str, typer.Argument(metavar="ID", show_default=False)],
    url: Annotated[str, typer.Argument(metavar="[URL]", show_default=False)] = "",
) -> None:
    """Set the default webhook URL of a key's jobs; without URL, remove it."""
    if url:
        checked_url(url, _settings())
    key = _redis_keys().keyring.set_webhook(key_id, url)
    typer.echo(f"Default webhook URL of {_words(key)}: {shown_url(url) if url else 'none'}")


@app.command()
def secret(
    key_id: Annotated[str, typer.Argument(metavar="[ID]", show_default=False)] = "",
    renew: Annotated[bool, typer.Option("--rotate", help="Create a new secret first.")] = False,
) -> None:
    """Show the signing secret of the webhooks of a key's owner; without ID, that of jobs without a key."""
    keys = _redis_keys()
    owner = keys.keyring.known_owner(key_id) if key_id else ""
    if renew:
        keys.secrets.rotate(owner)
    newest, *others = keys.secrets.of(owner)
    typer.echo(newest)
    if renew and others:
        hours = OVERLAP / 3600
        typer.echo(f"The old secret also signs for {hours:.0f} hours, so that receivers can be updated.", err=True)


@app.command()
def usage(
    key_id: Annotated[str, typer.Argument(metavar="[ID]", show_default=False)] = "",
    first: Annotated[datetime | None, typer.Option("--from", formats=[_DAY], help="First day, UTC.")] = None,
    last: Annotated[datetime | None, typer.Option("--to", formats=[_DAY], help="Last day, UTC.")] = None,
    group: Annotated[Grouping, typer.Option(help="Group by day or model.")] = Grouping.DAY,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    url: Url = None,
    api_key: ApiKey = None,
) -> None:
    """Show the usage of a key's owner, or without ID the total of each owner; by default of the last 30 days."""
    until = (last or datetime.now(UTC)).date()
    since = first.date() if first else until - timedelta(29)
    if not 0 <= (until - since).days <= KEPT_DAYS:
        raise typer.BadParameter(f"must be 0 to {KEPT_DAYS} days before --to", param_hint="--from")
    keys = _keys(url, api_key)
    sums, name = keys.usage(key_id, (since, until), str(group) if key_id else ""), str(group)
    if not key_id:
        names: dict[str, list[str]] = {NO_KEY: ["no key"]}
        for key in keys.list():
            names.setdefault(key.owner, []).append(key.name)
        sums = {f"{owner} ({', '.join(dict.fromkeys(names.get(owner, ())))})": sums[owner] for owner in sums}
        name = "owner"
    if csv:
        typer.echo(as_csv(name, sums), nl=False)
    else:
        _print_usage(name, sums)


def _print_usage(name: str, sums: Mapping[str, Usage]) -> None:
    table = Table(name, *_COLUMNS, box=None, pad_edge=False)
    for group, amounts in sums.items():
        table.add_row(group, *(str(getattr(amounts, column)) for column in _COLUMNS.values()))
    print_table(table)


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


def _settings() -> Settings:
    return processes.with_running_redis(Settings.load())


def _redis_keys() -> RedisKeyStore:
    keys = RedisKeyStore(_settings())
    typer.echo(keys.where, err=True)
    return keys


def _keys(url: str | None, api_key: str | None) -> KeyStore:
    """The keys of the service at `url`; without, those in the Redis of the settings. Prints which."""
    if not url:
        return _redis_keys()
    keys = ServiceKeyStore(url, api_key)
    typer.echo(keys.where, err=True)
    return keys


def _show(created: CreatedKey, message: str) -> None:
    """Print a new key's secret on standard output, and what to know about it beside."""
    typer.echo(created.secret)
    message += (
        "\nKeep it: only its SHA-256 is stored, and it cannot be shown again.\n"
        f"Its webhooks are signed with {created.webhook_secret}; `svd-service keys secret {created.key.id}` shows that "
        "again."
    )
    if created.is_first:
        message += "\nIt is the first one: from now on every request needs a key."
    Console(stderr=True, soft_wrap=True, highlight=False).print(Text(message))


def _shared(key: Key) -> str:
    return "" if key.owner == key.id else f", one of the owner {key.owner}"


def run(arguments: list[str]) -> None:
    """Run the commands; an expected error prints one sentence and exits with status 1.

    Raises:
        SystemExit: always, as commands do.
    """
    try:
        app(arguments, prog_name="svd-service keys")
    except RedisDeniedError as error:
        raise SystemExit(str(error)) from None
    except UnavailableError as error:
        raise SystemExit(
            f"{error}\nThe keys are in the service's Redis: is the service running? If it was started elsewhere, set "
            "REDIS_URL, or SVD_DATA_DIR to its data folder."
        ) from None
    except ClientError as error:
        raise SystemExit(explained(error)) from None
    except (StackError, ConfigurationError, ConfiguredSecretError, InvalidParameterError, UnknownKeyError) as error:
        raise SystemExit(str(error)) from None


def _words(key: Key) -> str:
    return f"{key.id} ({key.name})"


def _moment(seconds: float | None) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime(_TIME) if seconds else ""
