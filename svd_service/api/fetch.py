"""Pictures by URL, from public addresses only: a caller must not reach through us what only we can reach.

Each host's name is resolved once, every address is judged, and the connection is made to a judged address, not to the
name, which might mean another one a moment later. Each redirect is judged in the same way. Bytes and time are bounded,
the time of name servers included.
"""

import http.client
import ipaddress
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import SplitResult, urljoin, urlsplit

from svd_service.jobs.errors import InvalidParameterError, PictureTooLargeError, UnavailableError

#: Seconds that one picture may take in all.
DEADLINE: Final = 15.0

REDIRECTS: Final = 3
_REDIRECTING: Final = frozenset({301, 302, 303, 307, 308})

#: Pictures that this process fetches at once; each takes a thread.
_ROOM: Final = threading.BoundedSemaphore(8)

#: All that is given out of IPv6 for single hosts (RFC 4291), and what of it leads to an IPv4 address: 6to4, Teredo.
_UNICAST: Final = ipaddress.ip_network("2000::/3")
_DISGUISES: Final = (ipaddress.ip_network("2002::/16"), ipaddress.ip_network("2001::/32"))

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def is_public(address: Address) -> bool:
    """Whether `address` is one of the Internet at large, and of a single host."""
    if address.version == 6 and (address not in _UNICAST or any(address in net for net in _DISGUISES)):
        return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


class RefusedURLError(Exception):
    """The URL, or what is behind it, is not taken; the message says why to the caller."""


def fetch(
    url: str,
    *,
    parameter: str,
    max_bytes: int,
    deadline: float = DEADLINE,
    permitted: Callable[[Address], bool] = is_public,
) -> bytes:
    """What is at `url`, at most `max_bytes` of it, within `deadline` seconds, from `permitted` addresses alone.

    Raises:
        InvalidParameterError: the URL is not taken, or leads to nothing; names `parameter`.
        PictureTooLargeError: there is more than `max_bytes`.
        UnavailableError: too many pictures are being fetched already.
    """
    if not _ROOM.acquire(blocking=False):
        raise UnavailableError("too many pictures are being fetched right now")
    download = _Download(url, max_bytes, time.monotonic() + deadline, permitted)
    # A thread, since neither name servers nor headers that come byte by byte heed a timeout.
    threading.Thread(target=download.run, name="fetch", daemon=True).start()
    try:
        outcome = download.outcome.get(timeout=deadline)
    except queue.Empty:
        download.abort()
        outcome = RefusedURLError("it takes too long")
    if isinstance(outcome, RefusedURLError):
        raise InvalidParameterError(parameter, f"{parameter}: the URL cannot be fetched: {outcome}")
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


@dataclass
class _Download:
    """One URL with its redirects. `deadline` is on `time.monotonic`'s clock."""

    url: str
    max_bytes: int
    deadline: float
    permitted: Callable[[Address], bool]
    outcome: "queue.SimpleQueue[bytes | Exception]" = field(default_factory=queue.SimpleQueue)
    connection: "_Pinned | None" = None

    def run(self) -> None:
        """Put the content, or why there is none, into `outcome`."""
        try:
            self.outcome.put(self._follow())
        except (RefusedURLError, PictureTooLargeError) as error:
            self.outcome.put(error)
        # ValueError: ports, host names and headers that are none.
        except (OSError, http.client.HTTPException, ValueError):
            self.outcome.put(RefusedURLError("it does not answer as it should"))
        finally:
            _ROOM.release()

    def abort(self) -> None:
        """End a connection that is still there; the thread then ends by itself."""
        if self.connection is not None and self.connection.channel is not None:
            with suppress(OSError):
                self.connection.channel.shutdown(socket.SHUT_RDWR)

    def _follow(self) -> bytes:
        url = self.url
        for _ in range(REDIRECTS + 1):
            content, location = self._get(urlsplit(url))
            if location is None:
                return content
            url = urljoin(url, location)
        raise RefusedURLError("it redirects too often")

    def _get(self, url: SplitResult) -> tuple[bytes, str | None]:
        """The content, or where to look instead."""
        self.connection = self._connect(url)
        try:
            path = (url.path or "/") + (f"?{url.query}" if url.query else "")
            self.connection.request("GET", path, headers={"Accept": "image/*", "Accept-Encoding": "identity"})
            with closing(self.connection.getresponse()) as response:
                if response.status in _REDIRECTING and (location := response.headers["Location"]):
                    return b"", location
                if response.status != 200:
                    raise RefusedURLError(f"it answers {response.status}")
                return self._read(response), None
        finally:
            self.connection.close()

    def _connect(self, url: SplitResult) -> "_Pinned":
        if url.scheme not in {"http", "https"} or not url.hostname or url.username is not None:
            raise RefusedURLError("it is no http(s) URL of a host")
        port = url.port or (443 if url.scheme == "https" else 80)
        kind = _PinnedTLS if url.scheme == "https" else _Pinned
        connection = kind(url.hostname, port, timeout=self._left())
        connection.address = self._resolved(url.hostname, port)
        return connection

    def _resolved(self, host: str, port: int) -> str:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = [str(sockaddr[0]) for *_, sockaddr in found]
        # One address that is not permitted makes the name suspicious, whatever the others are.
        if not addresses or not all(self.permitted(ipaddress.ip_address(each)) for each in addresses):
            raise RefusedURLError("its host is not on the public Internet")
        return addresses[0]

    def _read(self, response: http.client.HTTPResponse) -> bytes:
        content = bytearray()
        while chunk := response.read1(65_536):
            content += chunk
            if len(content) > self.max_bytes:
                raise PictureTooLargeError(f"the picture has more than {self.max_bytes:,} bytes")
            self._left()
        return bytes(content)

    def _left(self) -> float:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise RefusedURLError("it takes too long")
        return left


class _Pinned(http.client.HTTPConnection):
    """Connects to the `address` that was judged; the host's name is only said.

    `channel` is what it connected with, also when the response has taken it over.
    """

    address: str
    channel: socket.socket | None = None

    def connect(self) -> None:
        """Open the connection."""
        self.sock = self.channel = socket.create_connection((self.address, self.port), self.timeout)


class _PinnedTLS(_Pinned):
    """The same with TLS, whose certificate must be of the host's name."""

    default_port = http.client.HTTPS_PORT

    def connect(self) -> None:
        """Open the connection."""
        super().connect()
        self.sock = self.channel = ssl.create_default_context().wrap_socket(self.sock, server_hostname=self.host)
