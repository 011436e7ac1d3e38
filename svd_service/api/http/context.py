"""What a route reaches for: the use cases of the application that it runs in, and whose request it answers."""

from typing import TYPE_CHECKING, cast

from flask import current_app, g
from msgspec import UnsetType

from svd_service.errors import InvalidParameterError
from svd_service.jobs.parameters import MAX_PRIORITY
from svd_service.jobs.service import JobService
from svd_service.ledger.api_keys import Key, Keyring
from svd_service.ledger.reservations import Reservations
from svd_service.webhooks.signing import checked_url

if TYPE_CHECKING:
    from svd_service.api.events.hub import Hub


def jobs() -> JobService:
    """The use cases of the present application."""
    return cast(JobService, current_app.extensions["jobs"])


def hub() -> "Hub":
    """The event streams of the present application."""
    return cast("Hub", current_app.extensions["events"])


def keyring() -> Keyring:
    """The keys of the present application."""
    return cast(Keyring, current_app.extensions["keyring"])


def reservations() -> Reservations:
    """The job ids that the present application has reserved."""
    return cast(Reservations, current_app.extensions["reservations"])


def key() -> Key | None:
    """The caller's key; `None` where the service knows no keys, or the route needs none."""
    return cast(Key | None, g.get("key"))


def owner() -> str:
    """Whose jobs this request is about; `""` where the service knows no keys."""
    shown = key()
    return shown.id if shown else ""


def priority(asked: int) -> int:
    """The priority that was asked for, if the caller may have it.

    Raises:
        InvalidParameterError: the caller's key does not go so high.
    """
    shown = key()
    most = shown.priority if shown else MAX_PRIORITY
    if asked > most:
        raise InvalidParameterError("priority", f"priority must be at most {most} with this key; got {asked}")
    return asked


def webhook(asked: str | UnsetType) -> str:
    """Where the end of a job is to be told: at the URL that was asked for, else where the caller's key says, if at all.

    Raises:
        InvalidParameterError: no webhook may go there.
    """
    if asked:
        return checked_url(asked, jobs().settings)
    shown = key()
    return shown.webhook_url if shown else ""
