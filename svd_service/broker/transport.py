"""kombu's transports for Redis, for a server that answers with errors and a queue that holds garbage.

kombu and Celery reconnect after the errors that a transport lists as connection errors; any other ends the worker. As
kombu has it, a replica's READONLY, a full disk's MISCONF and a queue entry that is no JSON are such others.
"""

from collections.abc import Mapping
from typing import Any, Final

import redis
from kombu.transport import TRANSPORT_ALIASES
from kombu.transport import redis as kombu_redis

from svd_service.broker.dropped import DROPPED

#: Redis answers, but not as it should: it became a replica, its disk is full, a script is running, the password is
#: being changed. All of that passes, so all of it is a reason to reconnect.
CONNECTION_ERRORS: Final = (*kombu_redis.Transport.connection_errors, redis.RedisError)


class _Channel:
    """A channel that drops what is no JSON. kombu has removed it from its queue by then."""

    def _brpop_read(self, **options: Any) -> Any:
        kombus: Any = super()
        try:
            return kombus._brpop_read(**options)  # noqa: SLF001 - it reads and decodes in one, and offers no other place
        except ValueError as error:  # JSON or UTF-8 that is none; the transport below catches what comes later
            DROPPED.add("not JSON", error)
            return True


class _Transport:
    """A transport that reconnects after every error of Redis, and drops messages that are no envelope of kombu's."""

    connection_errors = CONNECTION_ERRORS
    channels: Any

    def _deliver(self, message: Any, queue: str) -> None:
        kombus: Any = super()
        if trouble := _trouble_with(message):
            DROPPED.add(message, trouble)
            return
        try:
            kombus._deliver(message, queue)  # noqa: SLF001 - it is the one caller of what handles a message
        except (redis.RedisError, OSError):
            raise
        except Exception as error:  # noqa: BLE001 - what a message does to Celery must not end the worker
            DROPPED.add(message, repr(error))
            self._forget(message["properties"]["delivery_tag"])

    def _forget(self, tag: str) -> None:
        """Remove a message that was being delivered from those that wait for an acknowledgment."""
        for channel in self.channels:
            if tag in channel.qos._delivered:  # noqa: SLF001 - `get` raises the KeyError that is meant to be avoided
                channel.basic_reject(tag, requeue=False)


def _trouble_with(message: Any) -> str | None:
    """Why a message is no envelope of kombu's; `None` if it is one."""
    if not isinstance(message, Mapping):
        return "no JSON object"
    properties, headers = message.get("properties"), message.get("headers")
    if not isinstance(properties, Mapping) or not isinstance(properties.get("delivery_tag"), str):
        return "no delivery tag"
    if not isinstance(properties.get("delivery_info"), Mapping):
        return "no delivery info"
    if headers is not None and not isinstance(headers, Mapping):
        return "headers are no JSON object"
    return None


class RedisChannel(_Channel, kombu_redis.Channel):
    """A channel of one Redis server."""


class RedisTransport(_Transport, kombu_redis.Transport):  # type: ignore[misc]
    """The transport of `redis://`, `rediss://` and `redis+socket://` URLs."""

    Channel = RedisChannel


class SentinelChannel(_Channel, kombu_redis.SentinelChannel):
    """A channel of the server that the Sentinels name."""


class SentinelTransport(_Transport, kombu_redis.SentinelTransport):  # type: ignore[misc]
    """The transport of `sentinel://` URLs."""

    Channel = SentinelChannel


def register() -> None:
    """Have kombu use these transports, in this process, wherever a URL names one of theirs.

    The setting `broker_transport` would do for one URL only: kombu reads the scheme anew of each further Sentinel.
    """
    mine = f"{__name__}:RedisTransport"
    TRANSPORT_ALIASES.update(redis=mine, rediss=mine, sentinel=f"{__name__}:SentinelTransport")
