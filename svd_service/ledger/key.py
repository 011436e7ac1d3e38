"""An API key: its record, its secret, and whose jobs it has."""

import hashlib
import json
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from typing import Any, Final, Self

from svd_service.errors import InvalidParameterError
from svd_service.jobs.allowance import Allowance

#: Prefix of every key, so that people and scanners for leaked secrets recognize one.
PREFIX: Final = "sk-svd-"

#: The scope of operators' keys.
ADMIN: Final = "admin"

#: Instead of a last day: the key does not expire.
NEVER: Final = "never"

#: Instead of a list of names: every model or profile.
ALL: Final = "all"

#: Names of tenants. They are parts of keys in Redis, of messages and of labels of metrics.
_TENANT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
#: The owner that the usage of owners beyond a maximum is recorded under.
_RESERVED: Final = "other"


@dataclass(frozen=True)
class NewKey:
    """What a key is created with. `limits` are fields of `Allowance`; `expires` is its last day, or `never`."""

    name: str
    owner: str = ""
    priority: int = 0
    webhook_url: str = ""
    limits: Mapping[str, Any] = field(default_factory=dict)
    expires: str = ""
    admin: bool = False

    def arguments(self) -> dict[str, Any]:
        """The arguments of `Keyring.create`.

        Raises:
            InvalidParameterError: `expires` is no day, or a past one.
        """
        expires_at = end_of(self.expires) if self.expires else None
        # As the first key, it would be the reason that every request needs one, and be valid for none.
        if expires_at is not None and expires_at <= time.time():
            raise InvalidParameterError("expires", f"expires must not be in the past; got {self.expires}")
        return {
            "name": self.name,
            "owner": self.owner,
            "priority": self.priority,
            "webhook_url": self.webhook_url,
            "allowance": replace(Allowance(), **self.limits),
            "expires_at": expires_at,
            "scopes": (ADMIN,) if self.admin else (),
        }


@dataclass(frozen=True)
class Key:
    """The record of a key. `id` identifies it; `priority` is the maximum priority of its jobs.

    `webhook_url` is the default webhook URL of its jobs. `expires_at` is when the key becomes invalid, if it does.
    `tenant` owns its jobs, by default the key itself; several keys may have the same one, and then share its jobs and
    its `allowance`, which limits their number and kind. `scopes` are its further permissions. `successor` is the id of
    the key that replaced it, after a rotation.

    Times are seconds since the epoch; those of a key from the settings are unknown.
    """

    id: str
    name: str
    priority: int = 0
    created_at: float | None = None
    revoked_at: float | None = None
    webhook_url: str = ""
    allowance: Allowance = field(default_factory=Allowance)
    expires_at: float | None = None
    tenant: str = ""
    successor: str = ""
    scopes: tuple[str, ...] = ()

    @property
    def owner(self) -> str:
        """The owner of its jobs, their usage and limits."""
        return self.tenant or self.id

    @property
    def is_valid(self) -> bool:
        """Whether it is neither revoked nor expired."""
        return not self.revoked_at and not self.has_expired

    @property
    def has_expired(self) -> bool:
        """Whether its time is over."""
        return self.expires_at is not None and self.expires_at <= time.time()

    def limited(self, limits: Mapping[str, Any], expires: str) -> Self:
        """The key with other `limits` (fields of `Allowance`), and another last day if there is one in `expires`.

        Raises:
            InvalidParameterError: `expires` is neither a date nor `never`.
        """
        changed = replace(self, allowance=replace(self.allowance, **limits))
        return replace(changed, expires_at=end_of(expires)) if expires else changed

    @classmethod
    def from_json(cls, record: str) -> Self:
        """The key in a record. Fields of a newer version are ignored."""
        known = {each.name for each in fields(cls)}
        values = {name: value for name, value in json.loads(record).items() if name in known}
        allowance = Allowance.from_dict(values.get("allowance", {}))
        return cls(**{**values, "allowance": allowance, "scopes": tuple(values.get("scopes", ()))})


def end_of(day: str) -> float | None:
    """The end of a day such as 2027-12-31 (UTC), in seconds since the epoch; `None` for `never`.

    Raises:
        InvalidParameterError: this is neither.
    """
    if day == NEVER:
        return None
    try:
        return datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=UTC).timestamp() + 86_400
    except ValueError:
        raise InvalidParameterError(
            "expires", f"expires must be a date such as 2027-12-31, or {NEVER}; got {day[:20]!r}"
        ) from None


def new_secret() -> tuple[str, str]:
    """A new key's secret and its digest."""
    secret = PREFIX + secrets.token_urlsafe(32)
    return secret, digest_of(secret)


def digest_of(secret: str) -> str:
    """SHA-256 of a key, in hex, as stored."""
    return hashlib.sha256(secret.encode()).hexdigest()


def id_of(digest: str) -> str:
    """The id of the key with this digest."""
    # From the digest, so that a key is the same owner in Redis and in the settings of any host.
    return digest[:12]


def joined(key: Key, name: str, keys: Sequence[Key]) -> Key:
    """The key as one of an owner: that of the key with the id `name`, or the tenant `name`."""
    owner = next((each.owner for each in keys if each.id == name), name)
    if not _TENANT.fullmatch(owner) or owner == _RESERVED:
        raise InvalidParameterError(
            "owner",
            f"owner must have 1 to 64 letters, digits, '.', '_' or '-', and not be {_RESERVED}; got {owner[:64]}",
        )
    others = [each for each in keys if each.owner == owner]
    if not others:
        return replace(key, tenant=owner)
    allowance = others[-1].allowance
    if key.allowance not in {Allowance(), allowance}:
        raise InvalidParameterError("owner", f"{owner} has keys already, which share its limits: change those instead")
    return replace(key, tenant=owner, allowance=allowance)
