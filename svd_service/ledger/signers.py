"""The installation's own key for Content Credentials, shared by its hosts, and the certificates that ever signed."""

from typing import cast

import redis

from svd_service.config import Settings
from svd_service.ledger.connection import reachable

#: The field of the shared chain; all others are certificates by their SHA-256.
_CHAIN = "chain"


class Signers:
    """What the workers of one namespace sign with.

    Every method raises `UnavailableError` when Redis cannot be reached.
    """

    def __init__(self, client: "redis.Redis", settings: Settings) -> None:
        self._redis = client
        self._name = f"{settings.namespace}:signers"

    def share(self, chain: str) -> str:
        """The chain (key and certificates, PEM) of the installation: `chain`, unless another host was first."""
        with reachable():
            self._redis.hsetnx(self._name, _CHAIN, chain)
            return cast(str, self._redis.hget(self._name, _CHAIN))

    def shared(self) -> str | None:
        """The chain of the installation, if there is one."""
        with reachable():
            return cast(str | None, self._redis.hget(self._name, _CHAIN))

    def add(self, fingerprint: str, certificate: str) -> None:
        """Record a certificate (PEM) that signs from now on, by its SHA-256."""
        with reachable():
            self._redis.hset(self._name, fingerprint, certificate)

    def certificates(self) -> list[str]:
        """All certificates that ever signed, as PEM."""
        with reachable():
            found = cast(dict[str, str], self._redis.hgetall(self._name))
        return [certificate for name, certificate in found.items() if name != _CHAIN]
