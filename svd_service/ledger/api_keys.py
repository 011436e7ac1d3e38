"""Who may ask: API keys, known to us by their SHA-256 alone.

They are in Redis, in the hash `keys` beside the ledger (SHA-256 in hex → the key's record as JSON), and in the setting
`SVD_API_KEYS` for those who would rather configure than command. A key is 256 random bits, so its plain SHA-256 gives
nothing away and needs neither salt nor stretching. Nor does finding it need a comparison in constant time: what is
looked up is the hash of the caller's guess, and how long that takes tells nothing of which guess would be better.

Where there is no key the service is open. A revoked key's record stays, so that revoking the last one closes the
service instead of opening it.
"""

import hashlib
import ipaddress
import json
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Final, cast

import redis

from svd_service.config import Settings
from svd_service.errors import UnauthorizedError, UnavailableError, UnknownKeyError
from svd_service.ledger.client import connect, reachable

#: What every key of ours begins with, so that people and scanners for leaked secrets recognise one.
PREFIX: Final = "sk-svd-"

#: Seconds for which a process trusts what it was told of a key: so long may a revoked one still be heard.
CACHE_TTL: Final = 2.0
#: Keys, right and wrong ones, that a process remembers at most.
CACHE_SIZE: Final = 4_096


@dataclass(frozen=True)
class Key:
    """A key as we know it. `id` names it, and owns its jobs; `priority` is the most that its jobs may ask for.

    `webhook_url` is where its jobs' ends are told if they do not name another place.

    Times are seconds since the epoch; those of a key from the settings are unknown.
    """

    id: str
    name: str
    priority: int = 0
    created_at: float | None = None
    revoked_at: float | None = None
    webhook_url: str = ""


class Keyring:
    """The keys of one namespace.

    Every method raises `UnavailableError` when Redis cannot be reached.
    """

    def __init__(self, client: "redis.Redis", settings: Settings) -> None:
        self._redis = client
        self._name = f"{settings.namespace}:keys"
        self._configured = dict(_configured(settings.api_keys))
        self._cache: dict[str, tuple[float, bool, Key | None]] = {}

    def identify(self, secret: str) -> Key | None:
        """Whose `secret` this is; `None` for everybody while there are no keys at all.

        What Redis said is believed for `CACHE_TTL` seconds.

        Raises:
            UnauthorizedError: there are keys, and this is none of them.
        """
        digest = digest_of(secret)
        if key := self._configured.get(digest):
            return key
        closed, key = self._look_up(digest)
        if closed and key is None:
            raise UnauthorizedError("this API key is not valid" if secret else "an API key is needed")
        return key

    def is_open(self) -> bool:
        """Whether there are no keys, so that everybody may ask."""
        closed, _ = self._look_up(digest_of(""))
        return not closed

    def is_current(self, key_id: str) -> bool:
        """Whether the key of this id is valid; for `""`, the owner of jobs without a key, whether there are no keys."""
        if not key_id:
            return self.is_open()
        return any(key.id == key_id and not key.revoked_at for key in self.list())

    def create(self, name: str, *, priority: int = 0, webhook_url: str = "") -> tuple[Key, str]:
        """A new key, and its secret, which nobody can tell again."""
        secret = PREFIX + secrets.token_urlsafe(32)
        digest = digest_of(secret)
        key = Key(_id_of(digest), name, priority, created_at=time.time(), webhook_url=webhook_url)
        with reachable():
            self._redis.hset(self._name, digest, json.dumps(asdict(key)))
        return key, secret

    def list(self) -> list[Key]:
        """Every key, revoked ones too: those of the settings first, then the others by age."""
        return [
            *self._configured.values(),
            *sorted(self._read().values(), key=lambda key: (key.created_at or 0, key.id)),
        ]

    def revoke(self, key_id: str) -> Key:
        """Hear the key no longer; within `CACHE_TTL` seconds no process does. Its jobs stay its own, and go on.

        Raises:
            UnknownKeyError: no key in Redis has this id.
        """
        return self._change(key_id, lambda key: key if key.revoked_at else replace(key, revoked_at=time.time()))

    def set_webhook(self, key_id: str, url: str) -> Key:
        """Tell the ends of the key's jobs at `url` from now on, `""` for nowhere; within `CACHE_TTL` seconds.

        Raises:
            UnknownKeyError: no key in Redis has this id.
        """
        return self._change(key_id, lambda key: replace(key, webhook_url=url))

    def forget_all(self) -> int:
        """Forget every key in Redis, so that the service is open again; returns how many there were.

        What their webhooks are signed with stays: some may be under way, and a key may come back through the settings.
        """
        with reachable(), self._redis.pipeline(transaction=True) as pipe:
            pipe.hlen(self._name)
            pipe.delete(self._name)
            return int(pipe.execute()[0])

    def _change(self, key_id: str, change: Callable[[Key], Key]) -> Key:
        """Repeated where another command was faster, so that none undoes what another did (such as to revoke)."""

        def write(pipe: "redis.client.Pipeline") -> Key:
            for digest, record in cast(dict[str, str], pipe.hgetall(self._name)).items():
                key = Key(**json.loads(record))
                if key.id == key_id:
                    changed = change(key)
                    pipe.multi()
                    pipe.hset(self._name, digest, json.dumps(asdict(changed)))
                    return changed
            raise UnknownKeyError(f"there is no key {key_id} in Redis")

        with reachable():
            # Its type knows nothing of `value_from_callable`.
            return cast(Key, self._redis.transaction(write, self._name, value_from_callable=True))  # type: ignore[arg-type]

    def _look_up(self, digest: str) -> tuple[bool, Key | None]:
        """Whether there are keys, and the valid one with this digest."""
        now = time.monotonic()
        until, closed, key = self._cache.get(digest, (0.0, True, None))
        if now < until:
            return closed, key
        with reachable(), self._redis.pipeline(transaction=True) as pipe:
            pipe.hlen(self._name)
            pipe.hget(self._name, digest)
            number, record = pipe.execute()
        closed = bool(number or self._configured)
        found = Key(**json.loads(record)) if record else None
        key = None if found is None or found.revoked_at else found
        if len(self._cache) >= CACHE_SIZE:
            self._cache.clear()
        self._cache[digest] = (now + CACHE_TTL, closed, key)
        return closed, key

    def _read(self) -> dict[str, Key]:
        with reachable():
            records = cast(dict[str, str], self._redis.hgetall(self._name))
        return {digest: Key(**json.loads(record)) for digest, record in records.items()}


def warning_if_open(settings: Settings) -> str | None:
    """What is to be said at start where others than this machine reach the HTTP API, and nobody made a key."""
    if _is_loopback(settings.bind):
        return None
    with connect(settings) as client:
        try:
            if not Keyring(client, settings).is_open():
                return None
        except UnavailableError:
            if settings.api_keys:  # a Redis that is not there yet says nothing of keys
                return None
    return (
        f"{settings.bind} can be reached from elsewhere, and there are no API keys: everybody who does may use the "
        "service. `svd-service keys create NAME` makes the first."
    )


def _is_loopback(bind: str) -> bool:
    """Whether only this machine reaches `bind` (`host:port`, or `unix:path`)."""
    host = bind.rpartition(":")[0].strip("[]")
    try:
        return bind.startswith(("unix:", "fd:")) or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def digest_of(secret: str) -> str:
    """SHA-256 of a key, in hex: what is kept of it."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _id_of(digest: str) -> str:
    # Of the digest, so that a key is the same owner in Redis and in the settings of any host.
    return digest[:12]


def _configured(setting: str) -> list[tuple[str, Key]]:
    """Digest and key of each `NAME:SHA256[:PRIORITY]` of the setting, whose form `Settings` has checked."""
    found = []
    for entry in filter(None, setting.replace(" ", "").split(",")):
        name, digest, *priority = entry.split(":")
        found.append((digest, Key(_id_of(digest), name, int(priority[0]) if priority else 0)))
    return found
