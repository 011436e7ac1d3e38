"""Webhooks: validation of URLs, messages, signatures and secrets. outbox.py is about their delivery.

Messages follow Standard Webhooks 1.0.0 (https://www.standardwebhooks.com): three headers, and a signature that any
library for it verifies. A secret is symmetric, so it is stored in plain text, one for each owner of jobs.
"""

import base64
import hashlib
import hmac
import json
import re
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, cast
from urllib.parse import urlsplit

import redis

from svd_service.config import Settings
from svd_service.errors import ConfiguredSecretError, InvalidParameterError
from svd_service.ledger.connection import reachable
from svd_service.parameters import MAX_URL

#: The parameter that names a webhook, in every dialect.
PARAMETER: Final = "webhook_url"

#: Prefix of a secret, and its number of random bytes (the specification requires 24 to 64).
PREFIX: Final = "whsec_"
_SECRET_BYTES: Final = 32

#: Seconds for which a secret that was replaced also signs.
OVERLAP: Final = 86_400.0

_URL_CHARACTERS: Final = re.compile(r"[\x21-\x7e]+")


def checked_url(url: str, settings: Settings) -> str:
    """Return `url` if its syntax permits webhooks. Its host is resolved and checked at each delivery attempt, since
    the address may change until then; and no name server delays a submission.

    Raises:
        InvalidParameterError: the URL is invalid or not permitted.
    """
    reason = _objection(url, private=settings.webhook_private)
    if reason:
        raise InvalidParameterError(PARAMETER, f"{PARAMETER}: {reason}")
    return url


def _objection(url: str, *, private: bool) -> str:
    # Imported here so that the web process starts fast.
    from svd_service.outbound import is_public, literal_address  # noqa: PLC0415

    if len(url) > MAX_URL:
        return f"the URL has more than {MAX_URL:,} characters"
    if not _URL_CHARACTERS.fullmatch(url):
        return "the URL must be ASCII; percent-encode other characters (the host in Punycode)"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return "this is no URL"
    if parts.scheme not in {"http", "https"} or not host or port == 0:
        return "it must be an http(s) URL of a host"
    address = literal_address(host)
    if address is not None and not private and not is_public(address):
        return "its host is not on the public Internet"
    return ""


@dataclass(frozen=True)
class Message:
    """A webhook message: `body` is JSON. `id` is the same in every delivery attempt."""

    id: str
    body: bytes

    def headers(self, keys: Iterable[str], at: float) -> dict[str, str]:
        """Return the headers of a delivery attempt at `at` (seconds since the epoch), signed with each of `keys`."""
        timestamp = str(int(at))
        content = f"{self.id}.{timestamp}.".encode() + self.body
        signatures = [base64.b64encode(hmac.digest(_bytes_of(key), content, hashlib.sha256)).decode() for key in keys]
        return {
            "webhook-id": self.id,
            "webhook-timestamp": timestamp,
            "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
        }


def message_id(job_id: str) -> str:
    """Return the id of the one message about a job, which is also the Celery task's id."""
    return f"msg_{job_id}"


def job_id_of(message: str) -> str:
    """Return the job id of a message id."""
    return message.removeprefix("msg_")


class WebhookSecrets:
    """The secrets that sign messages: one for each owner of jobs; without keys the owner is `""`.

    Every method raises `UnavailableError` when Redis cannot be reached.
    """

    def __init__(self, client: "redis.Redis", settings: Settings) -> None:
        self._redis = client
        self._name = f"{settings.namespace}:webhook_secrets"
        self._configured = [each.strip() for each in settings.webhook_secret.split(",") if each.strip()]

    def of(self, owner: str) -> list[str]:
        """Return the secrets that sign messages about this owner's jobs, newest first; creates one if there is none."""
        if not owner and self._configured:
            return self._configured
        with reachable():
            known = self._redis.hget(self._name, owner)
            if known is None:
                # Another process may do the same: the first one wins.
                self._redis.hsetnx(self._name, owner, _dumped([{"secret": _new_secret()}]))
                known = self._redis.hget(self._name, owner)
        return [entry["secret"] for entry in _living(cast(str, known))]

    def rotate(self, owner: str) -> str:
        """Create a secret; the one before also signs for `OVERLAP` seconds.

        Raises:
            ConfiguredSecretError: this owner's secret is a setting, not stored in Redis.
        """
        if not owner and self._configured:
            raise ConfiguredSecretError(
                "this secret is set by SVD_WEBHOOK_SECRET; to rotate it, prepend a new one to that setting"
            )
        made = _new_secret()

        def write(pipe: "redis.client.Pipeline") -> None:
            known = cast(str | None, pipe.hget(self._name, owner))
            before = [{**entry, "until": entry.get("until", time.time() + OVERLAP)} for entry in _living(known or "[]")]
            pipe.multi()
            pipe.hset(self._name, owner, _dumped([{"secret": made}, *before]))

        with reachable():
            self._redis.transaction(write, self._name)  # retried if another command changed it meanwhile
        return made


def _living(stored: str) -> list[dict[str, Any]]:
    return [entry for entry in json.loads(stored) if entry.get("until", time.time() + 1) > time.time()]


def _dumped(entries: list[dict[str, Any]]) -> str:
    return json.dumps(entries, separators=(",", ":"))


def _new_secret() -> str:
    return PREFIX + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()


def _bytes_of(secret: str) -> bytes:
    return base64.b64decode(secret.removeprefix(PREFIX))
