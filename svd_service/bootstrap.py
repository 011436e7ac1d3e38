"""The composition root: the one place that wires clients, stores, ledger and use cases together.

Every entry point gets its objects here. Celery, which would take a third of the web process' startup time, and the S3
client are imported on first use.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from svd_service.artifacts.base import ArtifactStore
from svd_service.artifacts.choice import store_of
from svd_service.config import Settings
from svd_service.jobs.administration import Administration
from svd_service.jobs.content_cache import ContentCache
from svd_service.jobs.enqueueing import Dispatch, Enqueue
from svd_service.jobs.groups import Groups
from svd_service.jobs.maintenance import Maintenance
from svd_service.jobs.model import Model
from svd_service.jobs.queries import Queries
from svd_service.jobs.removal import Removal
from svd_service.jobs.results import Results
from svd_service.jobs.submit import Moderate, Submit
from svd_service.jobs.verification import Verify
from svd_service.ledger import Ledger, open_ledger
from svd_service.ledger.api_keys import Keyring
from svd_service.ledger.connection import connect
from svd_service.ledger.reservations import Reservations
from svd_service.ledger.share_links import ShareLinks
from svd_service.ledger.signers import Signers
from svd_service.moderation.moderation import Moderation, open_moderation
from svd_service.moderation.verdict import HookImage, Stage
from svd_service.webhooks.signing import WebhookSecrets

if TYPE_CHECKING:
    from svd_service.webhooks.delivery import Deliverer
    from svd_service.webhooks.scheduler import DeliveryScheduler

#: Seconds within which Redis must answer: while a caller waits, and in the background.
CALLER_TIMEOUT: Final = 1.0
BACKGROUND_TIMEOUT: Final = 3.0


@dataclass(frozen=True)
class UseCases:
    """The use cases of one process, and the objects that they share."""

    settings: Settings
    model: Model
    ledger: Ledger
    artifacts: ArtifactStore
    dispatch: Dispatch
    queries: Queries
    results: Results
    submit: Submit
    removal: Removal
    groups: Groups
    maintenance: Maintenance
    moderation: Moderation
    administration: Administration


@dataclass(frozen=True)
class Web:
    """What the routes of the web process use."""

    jobs: UseCases
    keyring: Keyring
    reservations: Reservations
    share_links: ShareLinks
    verify: Verify
    webhook_secrets: WebhookSecrets


def web(settings: Settings) -> Web:
    """Build the web process' objects on one connection pool. Redis need not be reachable yet.

    Raises:
        ConfigurationError: the model or the store cannot be used.
    """
    client = connect(settings, timeout=CALLER_TIMEOUT)
    signing = WebhookSecrets(client, settings)
    jobs = use_cases(
        open_ledger(client, settings),
        store_of(settings),
        settings,
        _enqueue(settings, CALLER_TIMEOUT),
        signing,
    )
    return Web(
        jobs,
        Keyring(client, settings),
        Reservations(client, settings),
        ShareLinks(client, settings),
        Verify(jobs.queries, Signers(client, settings).certificates, settings),
        signing,
    )


def worker(settings: Settings) -> UseCases:
    """Build the use cases of a worker process or of its parent.

    Raises:
        ConfigurationError: the model or the store cannot be used.
    """
    enqueue = _enqueue(settings, BACKGROUND_TIMEOUT)
    return use_cases(ledger(settings, timeout=BACKGROUND_TIMEOUT), store_of(settings), settings, enqueue)


def use_cases(
    ledger: Ledger,
    artifacts: ArtifactStore,
    settings: Settings,
    enqueue: Enqueue,
    secrets: WebhookSecrets | None = None,
) -> UseCases:
    """Build the use cases on a ledger and a store; `secrets` sign what is sent to the moderation hook.

    Raises:
        ConfigurationError: the model cannot be used.
    """
    model = Model.of(settings)
    dispatch, queries = Dispatch(ledger, enqueue), Queries(ledger, model)
    moderation = open_moderation(settings, secrets or webhook_secrets(settings), ledger.stats)
    cache = ContentCache(queries, ledger, artifacts, settings)
    submit = Submit(ledger, artifacts, queries, cache, dispatch, settings, _image_moderation(moderation))
    removal = Removal(queries, ledger, artifacts, dispatch)
    return UseCases(
        settings=settings,
        model=model,
        ledger=ledger,
        artifacts=artifacts,
        dispatch=dispatch,
        queries=queries,
        results=Results(queries, ledger.jobs, artifacts, settings),
        submit=submit,
        removal=removal,
        groups=Groups(ledger, artifacts, submit, removal, dispatch),
        maintenance=Maintenance(ledger, artifacts, dispatch, settings),
        moderation=moderation,
        administration=Administration(ledger, artifacts, removal, dispatch),
    )


def _image_moderation(moderation: Moderation) -> Moderate:
    def check(image: bytes, job_id: str, owner: str) -> None:
        moderation.check(Stage.IMAGE, [HookImage.of(image, "image/png")], job_id=job_id, owner=owner)

    return check


def ledger(settings: Settings, *, timeout: float = CALLER_TIMEOUT) -> Ledger:
    """Open a ledger with its own connections."""
    return open_ledger(connect(settings, timeout=timeout), settings)


@contextmanager
def fresh_ledger(settings: Settings) -> Iterator[Ledger]:
    """Open a ledger on one new connection, since the state of a pooled one may not be that of Redis."""
    client = connect(settings, timeout=CALLER_TIMEOUT)
    try:
        yield open_ledger(client, settings)
    finally:
        client.close()


def keyring(settings: Settings) -> Keyring:
    """Return the API keys."""
    return Keyring(connect(settings), settings)


def webhook_secrets(settings: Settings) -> WebhookSecrets:
    """Return the secrets that sign webhooks."""
    return WebhookSecrets(connect(settings), settings)


def signers(settings: Settings) -> Signers:
    """Return the keys and certificates of Content Credentials."""
    return Signers(connect(settings, timeout=BACKGROUND_TIMEOUT), settings)


@functools.cache
def deliverer(settings: Settings) -> "Deliverer":
    """Return this process' deliverer, which delivers webhooks."""
    from svd_service.webhooks.delivery import Deliverer  # noqa: PLC0415
    from svd_service.webhooks.outbox import Outbox  # noqa: PLC0415

    client = connect(settings, timeout=BACKGROUND_TIMEOUT)
    return Deliverer(Outbox(client, settings), WebhookSecrets(client, settings), settings)


def delivery_scheduler(settings: Settings) -> "DeliveryScheduler":
    """Build the scheduler, which enqueues the deliveries that are due."""
    from svd_service.celery_app import DELIVER, Enqueuer, webhook_queue  # noqa: PLC0415
    from svd_service.webhooks.outbox import Outbox  # noqa: PLC0415
    from svd_service.webhooks.scheduler import DeliveryScheduler  # noqa: PLC0415

    client = connect(settings, timeout=BACKGROUND_TIMEOUT)
    enqueue = Enqueuer(settings, timeout=BACKGROUND_TIMEOUT, task=DELIVER)
    stats = open_ledger(client, settings).stats
    return DeliveryScheduler(Outbox(client, settings), stats, enqueue, webhook_queue(settings))


def _enqueue(settings: Settings, timeout: float) -> Enqueue:
    @functools.cache
    def enqueuer() -> Enqueue:
        from svd_service.celery_app import Enqueuer  # noqa: PLC0415

        return Enqueuer(settings, timeout=timeout)

    def enqueue(job_id: str, queue: str) -> None:
        enqueuer()(job_id, queue)

    return enqueue
