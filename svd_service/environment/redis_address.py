"""What follows from the URL of Redis: TLS, Sentinels, and the same address in Celery's notation."""

from pathlib import Path
from typing import NamedTuple

from svd_service.environment import ConfigurationError


class RedisAddress(NamedTuple):
    """The settings of the connection to Redis.

    Args:
        url: the URL; with Sentinels, its host is the master's name.
        ca_file: CA certificates for Redis' certificate.
        cert_file: the client's certificate.
        key_file: the private key of the client's certificate.
        sentinels: host and port of each Sentinel; empty without Sentinels.
    """

    url: str
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    sentinels: tuple[tuple[str, int], ...] = ()

    @property
    def tls(self) -> dict[str, str] | None:
        """TLS options, as redis-py's and Celery's keywords; `None` without TLS."""
        if not self.url.startswith("rediss://"):
            return None
        files = {"ssl_ca_certs": self.ca_file, "ssl_certfile": self.cert_file, "ssl_keyfile": self.key_file}
        return {"ssl_cert_reqs": "required", **{name: str(path) for name, path in files.items() if path}}

    @property
    def sentinel_master(self) -> str:
        """The Sentinels' name of the Redis master."""
        # Not by urlsplit, which converts it to lower case.
        return self.url.partition("://")[2].partition("/")[0].rpartition("@")[2].partition(":")[0]

    @property
    def broker(self) -> str:
        """The address in Celery's notation."""
        if not self.sentinels:
            return self.url.replace("unix://", "redis+socket://", 1)
        address, _, database = self.url.partition("://")[2].partition("/")
        credentials, at, _ = address.rpartition("@")
        return ";".join(f"sentinel://{credentials}{at}{host}:{port}/{database}" for host, port in self.sentinels)

    def check(self, *, has_url: bool) -> None:
        """Check that the settings are consistent; `has_url`: whether `REDIS_URL` is set.

        Raises:
            ConfigurationError: they are not.
        """
        if any((self.ca_file, self.cert_file, self.key_file)) and self.tls is None:
            raise ConfigurationError(
                "REDIS_CA_FILE, REDIS_CERT_FILE and REDIS_KEY_FILE require a REDIS_URL with rediss://"
            )
        if (self.cert_file is None) != (self.key_file is None):
            raise ConfigurationError("REDIS_CERT_FILE and REDIS_KEY_FILE belong together: set both or neither")
        if self.sentinels and not (has_url and self.url.startswith(("redis://", "rediss://"))):
            raise ConfigurationError(
                "REDIS_SENTINELS requires a REDIS_URL whose host is the master's name: redis://mymaster/0"
            )
