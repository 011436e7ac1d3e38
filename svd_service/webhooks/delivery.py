"""One delivery attempt of a webhook, without Celery: claim, sign, POST, record the outcome."""

import base64
import http.client
import logging
import socket
import ssl
import time
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote, urlsplit

import msgspec

from svd_service.config import Settings
from svd_service.errors import StaleAttemptError, UnavailableError
from svd_service.outbound import USER_AGENT, Exchange, RejectedURLError, TooLateError, is_public, target_of, within
from svd_service.presentation import shown_url
from svd_service.retry import Retry
from svd_service.telemetry import logs
from svd_service.webhooks.backoff import pause_after
from svd_service.webhooks.outbox import DeliveryClaim, Outbox
from svd_service.webhooks.payload import event_of
from svd_service.webhooks.signing import Message, WebhookSecrets, message_id

logger = logging.getLogger(__name__)

#: Seconds that a receiver has to accept a connection, part of its total time.
CONNECT: Final = 3.0

#: Maximum bytes of a response that are read and discarded, and seconds for each part of them, so that the receiver does
#: not see a connection that was closed early.
READ: Final = 4_096
DISCARD_TIMEOUT: Final = 0.5

#: The receiver wants no more deliveries (RFC 9110, Standard Webhooks).
GONE: Final = 410

#: Seconds for which writing the outcome is retried while Redis is unavailable, and seconds between two attempts.
SETTLE_PATIENCE: Final = 30.0
SETTLE_PAUSE: Final = 1.0


@dataclass(frozen=True)
class Outcome:
    """Outcome of a delivery attempt: the `status_code` of the response, or the `error`."""

    status_code: int | None
    error: str = ""

    @property
    def delivered(self) -> bool:
        """Whether the receiver has acknowledged it."""
        return self.status_code is not None and 200 <= self.status_code < 300


class Deliverer:
    """Delivers webhooks from the outbox. Thread-safe."""

    def __init__(self, outbox: Outbox, secrets: WebhookSecrets, settings: Settings) -> None:
        self._outbox = outbox
        self._secrets = secrets
        self._settings = settings

    def deliver(self, job_id: str) -> None:
        """Attempt the delivery of this job's webhook once, if it is due and unclaimed. Never raises: an attempt whose
        outcome could not be recorded is retried when its claim has expired.
        """
        with logs.context(job_id=job_id):
            self._deliver(job_id)

    def _deliver(self, job_id: str) -> None:
        try:
            delivery = self._outbox.claim(job_id)
            if delivery is None:
                return
            keys = self._secrets.of(delivery.owner)
        except UnavailableError as error:
            logger.warning("webhook of job %s: %s", job_id, error)
            return
        self._settle(delivery, send(delivery, keys, self._settings))

    def _settle(self, delivery: DeliveryClaim, outcome: Outcome) -> None:
        pause = pause_after(delivery.number, self._settings)
        retry = Retry(UnavailableError, SETTLE_PATIENCE, first_pause=SETTLE_PAUSE, longest_pause=SETTLE_PAUSE)
        try:
            with suppress(StaleAttemptError):  # it took so long that another worker has claimed the delivery
                retry(lambda: self._record(delivery, outcome, pause))
        except UnavailableError as error:
            logger.warning("webhook of job %s: the outcome of the attempt was not recorded: %s", delivery.job.id, error)

    def _record(self, delivery: DeliveryClaim, outcome: Outcome, pause: float) -> None:
        what = f"webhook of job {delivery.job.id} to {shown_url(delivery.url)}, delivery attempt {delivery.number}"
        if outcome.delivered and outcome.status_code is not None:
            self._outbox.deliver(delivery, outcome.status_code)
            logger.info("%s: delivered", what)
        elif outcome.status_code == GONE:
            self._outbox.give_up(delivery, GONE, outcome.error)
            logger.warning("%s: gave up: the receiver answered 410 Gone", what)
        else:
            self._outbox.fail(delivery, outcome.status_code, outcome.error, pause=pause)
            logger.warning("%s: %s", what, outcome.error or outcome.status_code)


def send(delivery: DeliveryClaim, keys: list[str], settings: Settings) -> Outcome:
    """POST the event once, signed with each of `keys`. No redirect is followed."""
    event = event_of(message_id(delivery.job.id), delivery.type, delivery.job)
    message = Message(event.id, msgspec.json.encode(event))
    parts = urlsplit(delivery.url)
    headers = {
        "Content-Type": "application/json",
        "User-Agent": USER_AGENT,
        **message.headers(keys, time.time()),
        **_authorization(parts.username, parts.password),
    }

    def post(exchange: Exchange) -> int:
        with closing(exchange.connection(parts)) as connection:
            connection.request("POST", target_of(parts), body=message.body, headers=headers)
            with closing(connection.getresponse()) as answer:
                connection.linger(DISCARD_TIMEOUT)
                with suppress(OSError, http.client.HTTPException):
                    answer.read(READ)
                return answer.status

    try:
        permitted = (lambda _: True) if settings.webhook_private else is_public
        return Outcome(within(settings.webhook_timeout, post, permitted=permitted, connect_seconds=CONNECT))
    except RejectedURLError as error:
        return Outcome(None, str(error))
    # ValueError: invalid ports, host names and headers.
    except (OSError, http.client.HTTPException, ValueError) as error:
        return Outcome(None, _reason(error))


def _authorization(user: str | None, password: str | None) -> dict[str, str]:
    """Return the basic authentication header for the URL's credentials, if it has any."""
    if user is None:
        return {}
    credentials = f"{unquote(user)}:{unquote(password or '')}".encode()
    return {"Authorization": f"Basic {base64.b64encode(credentials).decode()}"}


def _reason(error: Exception) -> str:
    """Describe the error without details of the library or the system."""
    if isinstance(error, socket.gaierror):
        return "host not found"
    if isinstance(error, TimeoutError):
        return str(TooLateError())
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, ssl.SSLError):
        return f"TLS connection failed: {error.reason}"
    return "invalid HTTP response"
