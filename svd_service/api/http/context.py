"""What a route reaches for: the use cases of the application that it runs in, and whose request it answers."""

from typing import TYPE_CHECKING, cast

from flask import current_app, g

from svd_service.bootstrap import UseCases, Web
from svd_service.errors import InvalidParameterError
from svd_service.jobs.allowance import Allowance
from svd_service.jobs.verification import Verify
from svd_service.ledger.api_keys import Keyring
from svd_service.ledger.key import Key
from svd_service.ledger.reservations import Reservations
from svd_service.ledger.share_links import ShareLinks
from svd_service.parameters import MAX_PRIORITY, RequestParameters
from svd_service.webhooks.signing import WebhookSecrets, checked_url

if TYPE_CHECKING:
    from svd_service.api.events.hub import Hub


def jobs() -> UseCases:
    """The use cases of the current application."""
    return _web().jobs


def _web() -> Web:
    return cast(Web, current_app.extensions["web"])


def hub() -> "Hub":
    """The event streams of the current application."""
    return cast("Hub", current_app.extensions["events"])


def keyring() -> Keyring:
    """The keys of the current application."""
    return _web().keyring


def reservations() -> Reservations:
    """The job ids that the present application has reserved."""
    return _web().reservations


def share_links() -> ShareLinks:
    """The share links of the current application."""
    return _web().share_links


def verify() -> Verify:
    """The verification of files of the current application."""
    return _web().verify


def webhook_secrets() -> WebhookSecrets:
    """The secrets that sign webhooks."""
    return _web().webhook_secrets


def key() -> Key | None:
    """The caller's key; `None` where the service knows no keys, or the route needs none."""
    return cast(Key | None, g.get("key"))


def owner() -> str:
    """Whose jobs this request is about; `""` where the service knows no keys."""
    shown = key()
    return shown.owner if shown else ""


def allowance() -> Allowance:
    """What the caller's key may use; without keys, everything."""
    shown = key()
    return shown.allowance if shown else Allowance()


def priority(parameters: RequestParameters) -> int:
    """The requested priority.

    Raises:
        InvalidParameterError: it is above the maximum of the caller's key.
    """
    wanted = parameters.get("priority") or 0
    shown = key()
    maximum = shown.priority if shown else MAX_PRIORITY
    if wanted > maximum:
        raise InvalidParameterError("priority", f"priority must be at most {maximum} with this key; got {wanted}")
    return wanted


def webhook(parameters: RequestParameters) -> str:
    """The URL to notify at the end of the job: the request's, else that of the caller's key, else `""`.

    Raises:
        InvalidParameterError: webhooks may not go to the request's URL.
    """
    if wanted := parameters.get("webhook_url"):
        return checked_url(wanted, jobs().settings)
    shown = key()
    return shown.webhook_url if shown else ""
