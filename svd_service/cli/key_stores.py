"""The API keys that `svd-service keys` works on: those in the service's Redis, or through HTTP those of any service."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Protocol, TypeVar
from urllib.parse import quote

from svd_service import bootstrap
from svd_service.cli.up.processes import without_password
from svd_service.client.client import Client
from svd_service.config import Settings
from svd_service.jobs.allowance import Allowance
from svd_service.jobs.usage import Usage
from svd_service.ledger.key import ALL, Key, NewKey
from svd_service.ledger.usage import usage_by
from svd_service.webhooks.signing import checked_url

_T = TypeVar("_T")


@dataclass(frozen=True)
class CreatedKey:
    """A new key. `secret` is not stored; `webhook_secret` signs the webhooks of its owner."""

    key: Key
    secret: str
    webhook_secret: str
    is_first: bool = False


class KeyStore(Protocol):
    """The keys of one service; `where` names it, without secrets."""

    where: str

    def create(self, new: NewKey) -> CreatedKey:
        """Create a key."""
        ...

    def list(self) -> list[Key]:
        """All keys, revoked ones included."""
        ...

    def limit(self, key_id: str, limits: Mapping[str, Any], expires: str) -> Key:
        """Change the named limits of the key's owner, and its own last day if there is one in `expires`."""
        ...

    def revoke(self, key_id: str) -> Key:
        """Revoke a key."""
        ...

    def rotate(self, key_id: str, grace: float) -> CreatedKey:
        """Replace a key; the old one is valid for `grace` seconds more."""
        ...

    def usage(self, owner: str, days: tuple[date, date], group: str) -> dict[str, Usage]:
        """The usage of an owner or a key's owner by group; with `""` as owner and group, the total of each owner."""
        ...


class RedisKeyStore:
    """The keys in the Redis of the settings.

    Every method raises `UnavailableError` when Redis cannot be reached, and `UnknownKeyError` for an unknown key.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.keyring = bootstrap.keyring(settings)
        self.secrets = bootstrap.webhook_secrets(settings)
        sentinels = f" (through {len(settings.sentinels)} Sentinels)" if settings.sentinels else ""
        self.where = f"Redis {without_password(settings.redis)}{sentinels}, namespace {settings.namespace}"

    def create(self, new: NewKey) -> CreatedKey:
        """Create a key."""
        if new.webhook_url:
            checked_url(new.webhook_url, self._settings)
        first = not self.keyring.count()
        key, secret = self.keyring.create(**new.arguments())
        return CreatedKey(key, secret, self.secrets.of(key.owner)[0], first)

    def list(self) -> list[Key]:
        """All keys, revoked ones included."""
        return self.keyring.list()

    def limit(self, key_id: str, limits: Mapping[str, Any], expires: str) -> Key:
        """Change the named limits of the key's owner, and its own last day if there is one in `expires`."""
        return self.keyring.change(key_id, lambda key: key.limited(limits, expires))

    def revoke(self, key_id: str) -> Key:
        """Revoke a key."""
        return self.keyring.revoke(key_id)

    def rotate(self, key_id: str, grace: float) -> CreatedKey:
        """Replace a key; the old one is valid for `grace` seconds more."""
        key, secret = self.keyring.rotate(key_id, grace)
        return CreatedKey(key, secret, self.secrets.of(key.owner)[0])

    def usage(self, owner: str, days: tuple[date, date], group: str) -> dict[str, Usage]:
        """The usage of an owner or a key's owner by group; with `""` as owner and group, the total of each owner."""
        return usage_by(bootstrap.ledger(self._settings).usage, self.keyring, owner, days, group)


class ServiceKeyStore:
    """The keys of the service at a URL, with an operator's key.

    Every method raises `ClientError` when the service cannot be reached or answers an error.
    """

    def __init__(self, url: str, api_key: str | None) -> None:
        self._url, self._api_key = url, api_key
        self.where = f"service {url}"

    def create(self, new: NewKey) -> CreatedKey:
        """Create a key."""
        admin = "true" if new.admin else None
        named = {"name": new.name, "owner": new.owner, "priority": new.priority, "webhook_url": new.webhook_url}
        form = {**named, **_form(new.limits), "expires": new.expires, "admin": admin}
        return self._call("POST", "/keys", _created, **form)

    def list(self) -> list[Key]:
        """All keys, revoked ones included."""
        return self._call("GET", "/keys", lambda answer: [_key(each) for each in answer["keys"]])

    def limit(self, key_id: str, limits: Mapping[str, Any], expires: str) -> Key:
        """Change the named limits of the key's owner, and its own last day if there is one in `expires`."""
        return self._call("POST", f"/keys/{quote(key_id, safe='')}/limits", _key, **_form(limits), expires=expires)

    def revoke(self, key_id: str) -> Key:
        """Revoke a key."""
        return self._call("POST", f"/keys/{quote(key_id, safe='')}/revoke", _key)

    def rotate(self, key_id: str, grace: float) -> CreatedKey:
        """Replace a key; the old one is valid for `grace` seconds more."""
        return self._call("POST", f"/keys/{quote(key_id, safe='')}/rotate", _created, grace=grace)

    def usage(self, owner: str, days: tuple[date, date], group: str) -> dict[str, Usage]:
        """The usage of an owner or a key's owner by group; with `""` as owner and group, the total of each owner."""
        query = {"key": owner, "from": days[0], "to": days[1], "group": group or None}
        return self._call("GET", "/usage", _sums, **query)

    def _call(self, method: str, path: str, parse: Callable[[Any], _T], **form: object) -> _T:
        with Client(self._url, self._api_key, patience=0) as client:
            parsed: _T = client.call(method, f"/admin{path}", parse=parse, **form)
            return parsed


def _form(limits: Mapping[str, Any]) -> dict[str, object]:
    """Limits as the service's form has them."""
    lists = {name: ",".join(limits[name]) or ALL for name in ("models", "profiles") if name in limits}
    return {**limits, **lists}


def _created(answer: Mapping[str, Any]) -> CreatedKey:
    return CreatedKey(_key(answer["key"]), answer["secret"], answer["webhook_secret"])


def _sums(answer: Mapping[str, Any]) -> dict[str, Usage]:
    return {row.pop("group"): Usage(**row) for row in answer["usage"]}


def _key(view: Mapping[str, Any]) -> Key:
    """The key that the service shows."""
    times = {name: _seconds(view[name]) for name in ("created_at", "revoked_at", "expires_at")}
    return Key(
        view["id"],
        view["name"],
        view["priority"],
        **times,
        webhook_url=view["webhook_url"],
        allowance=Allowance.from_dict(view["limits"]),
        tenant=view["owner"],
        successor=view["successor"],
        scopes=tuple(view["scopes"]),
    )


def _seconds(moment: str | None) -> float | None:
    return datetime.fromisoformat(moment).astimezone(UTC).timestamp() if moment else None
