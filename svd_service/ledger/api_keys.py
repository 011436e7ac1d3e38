"""API keys, stored only as SHA-256 digests.

They are in Redis, in the hash `keys` beside the ledger (SHA-256 in hex → the key's record as JSON), and in the setting
`SVD_API_KEYS` for static configuration. A key is 256 random bits, so its plain SHA-256 reveals nothing and needs
neither salt nor stretching. The lookup needs no constant-time comparison either: it searches for the hash of the
caller's guess, and its duration does not help to find a better guess.

If there has never been a key, the service is open if it is reachable from this machine only or `SVD_OPEN` allows it.
Once closed, it stays closed: a revoked key's record is kept, so that revoking the last one does not open the service,
and a marker file in the data folder records that there were keys in case Redis loses them. Only `forget_all` opens the
service again: what it writes to Redis removes the marker files on all hosts.
"""

import json
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any, Final, cast

import redis

from svd_service.config import Settings
from svd_service.errors import UnauthorizedError, UnavailableError, UnknownKeyError
from svd_service.ledger.connection import reachable
from svd_service.ledger.key import Key, digest_of, id_of, joined, new_secret

logger = logging.getLogger(__name__)

#: Seconds for which a key is valid after its rotation.
GRACE: Final = 86_400.0

#: Seconds for which a process caches the lookup of a key: a revoked key may still be accepted for that long.
CACHE_TTL: Final = 2.0
#: Maximum number of keys, valid and invalid, that a process caches.
CACHE_SIZE: Final = 4_096

#: The message for operators if Redis has lost the keys.
LOST: Final = (
    "Redis has lost the API keys, so every request is rejected. Restore Redis, create a new key (svd-service keys "
    "create NAME), or open the service (svd-service keys forget-all)."
)


class Keyring:
    """The keys of one namespace.

    Every method raises `UnavailableError` when Redis cannot be reached.
    """

    def __init__(self, client: "redis.Redis", settings: Settings) -> None:
        self._redis = client
        self._name = f"{settings.namespace}:keys"
        self._reopened = f"{settings.namespace}:keys:forgotten"
        self._mark = settings.data_dir / f"{settings.namespace}.closed"
        self._lost = False
        self._may_be_open = settings.is_local or settings.open
        self._configured = dict(_configured(settings.api_keys))
        self._cache: dict[str, tuple[float, bool, Key | None]] = {}

    def identify(self, secret: str) -> Key | None:
        """The key with this `secret`; `None` while there are no keys at all.

        The answer of Redis is cached for `CACHE_TTL` seconds.

        Raises:
            UnauthorizedError: there are keys, and this is not one of them, or it has expired.
        """
        digest = digest_of(secret)
        if key := self._configured.get(digest):
            return key
        closed, key = self._look_up(digest)
        if closed and key is None:
            raise UnauthorizedError("this API key is not valid" if secret else "an API key is required")
        if key is not None and key.has_expired:
            raise UnauthorizedError(f"this API key expired on {time.strftime('%Y-%m-%d', time.gmtime(key.expires_at))}")
        return key

    def is_open(self) -> bool:
        """Whether there are no keys, so that requests need no authentication."""
        closed, _ = self._look_up(digest_of(""))
        return not closed

    def has_lost_its_keys(self) -> bool:
        """Whether there were keys but Redis has none, so that every request is rejected."""
        return not self._configured and self._mark.exists() and not self.count()

    def count(self) -> int:
        """The number of keys, including revoked ones."""
        with reachable():
            return len(self._configured) + int(self._redis.hlen(self._name))

    def is_current(self, owner: str) -> bool:
        """Whether the owner of this id has a valid key; for `""`, the owner of jobs without a key, whether there are no
        keys.
        """
        if not owner:
            return self.is_open()
        return any(key.owner == owner and key.is_valid for key in self.list())

    def owner_of(self, name: str) -> str:
        """The owner that `name` names: that of the key with this id, else `name` itself."""
        return next((key.owner for key in self.list() if key.id == name), name)

    def known_owner(self, name: str) -> str:
        """Like `owner_of`, but the key or the owner must exist.

        Raises:
            UnknownKeyError: there is none.
        """
        owner = self.owner_of(name)
        if not any(key.owner == owner for key in self.list()):
            raise UnknownKeyError(f"there is no key or owner {name}")
        return owner

    def honors(self, key_id: str, owner: str) -> bool:
        """Whether share links to jobs of `owner` that were made with this key are valid.

        That is while it is valid, or was replaced in a rotation by one that is. `""` stands for any key of the owner:
        links of releases that did not record the key have it, and those of a service without keys.
        """
        if not key_id:
            return self.is_current(owner)
        keys = {key.id: key for key in self.list() if key.owner == owner and not key.revoked_at}
        key = keys.get(key_id)
        while key is not None and not key.is_valid:
            key = keys.get(key.successor)
        return key is not None

    def create(self, name: str, *, owner: str = "", **more: Any) -> tuple[Key, str]:
        """Create a key, with `more` fields of `Key`; returns it and its secret, which cannot be recovered later.

        `owner` is the id of another key, or the name of a tenant: the new key has its jobs, and its limits if there are
        any keys of it.

        Raises:
            InvalidParameterError: `owner` is no valid name, or has limits already, and there are others in `more`.
        """
        secret, digest = new_secret()
        key = Key(id_of(digest), name, created_at=time.time(), **more)

        def add(known: dict[str, Key]) -> dict[str, Key]:
            return {digest: joined(key, owner, [*self._configured.values(), *known.values()]) if owner else key}

        return self._update(add)[digest], secret

    def rotate(self, key_id: str, grace: float = GRACE) -> tuple[Key, str]:
        """Replace a key by a new one with the same owner, limits and permissions; returns that and its secret.

        The old one is valid for `grace` more seconds, and share links made with it as long as the new one.

        Raises:
            UnknownKeyError: no key in Redis has this id, or it is no longer valid.
        """
        secret, digest = new_secret()

        def replace_key(known: dict[str, Key]) -> dict[str, Key]:
            old_digest, old = _find(known, key_id)
            if not old.is_valid:
                raise UnknownKeyError(f"the key {key_id} is no longer valid: create another with --owner {old.owner}")
            now = time.time()
            new = replace(old, id=id_of(digest), created_at=now, tenant=old.owner, successor="")
            end = now + grace if old.expires_at is None else min(old.expires_at, now + grace)
            return {old_digest: replace(old, expires_at=end, successor=new.id), digest: new}

        return self._update(replace_key)[digest], secret

    def list(self) -> list[Key]:
        """All keys, including revoked ones: those of the settings first, then the others by age."""
        return [
            *self._configured.values(),
            *sorted(self._read().values(), key=lambda key: (key.created_at or 0, key.id)),
        ]

    def revoke(self, key_id: str) -> Key:
        """Revoke a key and its share links, in all processes within `CACHE_TTL` seconds.

        Its jobs continue; without another key of the owner, they can no longer be read.

        Raises:
            UnknownKeyError: no key in Redis has this id.
        """
        return self.change(key_id, lambda key: key if key.revoked_at else replace(key, revoked_at=time.time()))

    def set_webhook(self, key_id: str, url: str) -> Key:
        """Set the key's default webhook URL, `""` for none, in all processes within `CACHE_TTL` seconds.

        Raises:
            UnknownKeyError: no key in Redis has this id.
        """
        return self.change(key_id, lambda key: replace(key, webhook_url=url))

    def forget_all(self) -> int:
        """Delete every key in Redis and the record that there were any, which opens the service; returns their number.

        The signing secrets of their webhooks are kept: deliveries may be pending, and a key may return in the settings.
        """
        with reachable(), self._redis.pipeline(transaction=True) as pipe:
            pipe.hlen(self._name)
            pipe.delete(self._name)
            pipe.set(self._reopened, "1")
            number = int(pipe.execute()[0])
        self._mark.unlink(missing_ok=True)
        return number

    def change(self, key_id: str, change: Callable[[Key], Key]) -> Key:
        """Change a key, in all processes within `CACHE_TTL` seconds. Other keys of its owner get the same allowance.

        `change` is called again after a concurrent change, so that none is lost (such as a revocation).

        Raises:
            UnknownKeyError: no key in Redis has this id.
        """

        def change_all(known: dict[str, Key]) -> dict[str, Key]:
            digest, key = _find(known, key_id)
            changed = change(key)
            others = {
                name: replace(other, allowance=changed.allowance)
                for name, other in known.items()
                if other.owner == key.owner and other.allowance != changed.allowance
            }
            return {**others, digest: changed}

        changed = self._update(change_all)
        return next(key for key in changed.values() if key.id == key_id)

    def _update(self, change: Callable[[dict[str, Key]], dict[str, Key]]) -> dict[str, Key]:
        """Write the keys that `change` makes of all that are stored, by digest, in one transaction; returns them."""

        def write(pipe: "redis.client.Pipeline") -> dict[str, Key]:
            known = cast(dict[str, str], pipe.hgetall(self._name))
            changed = change({digest: Key.from_json(record) for digest, record in known.items()})
            pipe.multi()
            pipe.hset(self._name, mapping={digest: json.dumps(asdict(key)) for digest, key in changed.items()})
            pipe.delete(self._reopened)
            return changed

        with reachable():
            # Its type hints lack `value_from_callable`.
            found: Any = self._redis.transaction(write, self._name, value_from_callable=True)  # type: ignore[arg-type]
        self._remember_closed()
        return cast(dict[str, Key], found)

    def _look_up(self, digest: str) -> tuple[bool, Key | None]:
        """Whether there are keys, and the valid one with this digest."""
        now = time.monotonic()
        until, closed, key = self._cache.get(digest, (0.0, True, None))
        if now < until:
            return closed, key
        with reachable(), self._redis.pipeline(transaction=True) as pipe:
            pipe.hlen(self._name)
            pipe.hget(self._name, digest)
            pipe.exists(self._reopened)
            number, record, reopened = pipe.execute()
        closed = self._is_closed(keys=bool(number or self._configured), reopened=bool(reopened))
        found = Key.from_json(record) if record else None
        key = None if found is None or found.revoked_at else found
        if len(self._cache) >= CACHE_SIZE:
            self._cache.clear()
        self._cache[digest] = (now + CACHE_TTL, closed, key)
        return closed, key

    def _is_closed(self, *, keys: bool, reopened: bool) -> bool:
        """Whether requests need a key. Records it in the marker file, or removes that after `forget_all`."""
        if keys:
            self._remember_closed()
            return True
        if reopened:
            with suppress(OSError):
                self._mark.unlink(missing_ok=True)
        lost = self._mark.exists()
        if lost and not self._lost:
            logger.error("%s", LOST)
        self._lost = lost
        return lost or not self._may_be_open

    def _remember_closed(self) -> None:
        if self._mark.exists():
            return
        try:
            self._mark.parent.mkdir(parents=True, exist_ok=True)
            self._mark.touch(mode=0o600)
        except OSError as error:
            logger.warning("cannot write %s, which marks that the service has keys: %s", self._mark, error)

    def _read(self) -> dict[str, Key]:
        with reachable():
            records = cast(dict[str, str], self._redis.hgetall(self._name))
        return {digest: Key.from_json(record) for digest, record in records.items()}


def start_warning(keyring: Keyring, settings: Settings) -> str | None:
    """The warning to log at start if the service has no keys: who may use it."""
    try:
        if keyring.count():
            return None
        if keyring.has_lost_its_keys():
            return LOST
    except UnavailableError:
        return None  # reported by the next requests
    if settings.is_local:
        return None
    if settings.open:
        return f"{settings.bind} can be reached from elsewhere, and requests need no API key: SVD_OPEN is set"
    return (
        f"{settings.bind} can be reached from elsewhere, and there are no API keys: every request is rejected until "
        "there is one (svd-service keys create NAME), or SVD_OPEN=1 allows requests without a key"
    )


def _find(known: Mapping[str, Key], key_id: str) -> tuple[str, Key]:
    """The digest and the key with this id; raises `UnknownKeyError`."""
    for digest, key in known.items():
        if key.id == key_id:
            return digest, key
    raise UnknownKeyError(f"there is no key {key_id} in Redis")


def _configured(setting: str) -> list[tuple[str, Key]]:
    """Digest and key of each `NAME:SHA256[:PRIORITY]` in the setting, whose format `Settings` has validated."""
    found = []
    for entry in filter(None, setting.replace(" ", "").split(",")):
        name, digest, *priority = entry.split(":")
        found.append((digest, Key(id_of(digest), name, int(priority[0]) if priority else 0)))
    return found
