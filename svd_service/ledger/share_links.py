"""Links to one job's video that work without a key for a limited time.

A link contains its expiry time and an HMAC over job and time; nothing is stored per link. The secret is in Redis,
so that every API process of the namespace accepts the links of every other. A link names the key that made it, and is
valid only while that key is, or the one that replaced it (`Keyring.honors`): revoking a key revokes its links.
"""

import hashlib
import hmac
import secrets
import time
from typing import Final

import redis

from svd_service.config import Settings
from svd_service.errors import ExpiredLinkError, InvalidLinkError
from svd_service.ledger.connection import reachable

_SECRET_BYTES: Final = 32


class ShareLinks:
    """Signs and verifies links.

    Every method raises `UnavailableError` when Redis cannot be reached.
    """

    def __init__(self, client: "redis.Redis", settings: Settings) -> None:
        self._redis = client
        self._name = f"{settings.namespace}:share_secret"

    def sign(self, job_id: str, expires: int, key_id: str = "") -> str:
        """The signature, in hex, of a link to the job that ends at `expires` (seconds since the epoch).

        `key_id` is the key that makes it; `""` on a service without keys, and in links of earlier releases.
        """
        content = f"{job_id}\n{expires}" + (f"\n{key_id}" if key_id else "")
        return hmac.digest(self._key(), content.encode(), hashlib.sha256).hex()

    def verify(self, job_id: str, expires: int, signature: str, key_id: str = "") -> None:
        """Verify a link.

        Raises:
            InvalidLinkError: it was not signed here, or was changed.
            ExpiredLinkError: it has expired.
        """
        if not hmac.compare_digest(self.sign(job_id, expires, key_id).encode(), signature.encode()):
            raise InvalidLinkError("this link is not valid; ask its sender for a new one")
        if expires <= time.time():
            raise ExpiredLinkError("this link has expired; ask its sender for a new one")

    def _key(self) -> bytes:
        # Read each time: after a restart of Redis without its data, processes would keep different secrets.
        with reachable():
            secret = self._redis.get(self._name)
            if secret is None:
                self._redis.set(self._name, secrets.token_hex(_SECRET_BYTES), nx=True)
                secret = self._redis.get(self._name)
        return str(secret).encode()
