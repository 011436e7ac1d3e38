"""Requests to addresses that callers choose: images to fetch, webhooks to deliver. Imports no module of the service.

Protects against server-side request forgery: each host name is resolved once, every address is checked, and the
connection is made to a checked address, not to the name, which might resolve differently a moment later. Time is
limited, including that of name servers.
"""

import errno
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from typing import Final, TypeVar
from urllib.parse import SplitResult, quote

from svd_service import __version__

#: What the requests say about their sender. Some hosts, such as Wikimedia's, reject requests that say nothing.
USER_AGENT: Final = f"svd-service/{__version__}"

#: Characters, beside letters, digits and `_.-~`, that browsers leave as they are in a path and a query (WHATWG, URL).
#: The percent sign is one of them: what is encoded already is not encoded again.
_PATH: Final = "!$%&'()*+,/:;=@[\\]|"
_QUERY: Final = "!$%&()*+,/:;=?@[\\]^`{|}"

#: Global unicast addresses of IPv6 (RFC 4291), and the ranges that embed an IPv4 address: 6to4, Teredo.
_UNICAST: Final = ipaddress.ip_network("2000::/3")
_DISGUISES: Final = (ipaddress.ip_network("2002::/16"), ipaddress.ip_network("2001::/32"))

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

#: Whether a connection to an address is permitted.
Permitted = Callable[[Address], bool]

T = TypeVar("T")


class RejectedURLError(Exception):
    """The URL, or its content, is rejected; the message gives the caller the reason."""


class TooLateError(RejectedURLError):
    """The request timed out."""

    def __init__(self) -> None:
        super().__init__("timed out")


def is_public(address: Address) -> bool:
    """Return whether `address` is a public unicast address."""
    if address.version == 6 and (address not in _UNICAST or any(address in net for net in _DISGUISES)):
        return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


def literal_address(host: str) -> Address | None:
    """Return the address if `host` is a literal one, in any notation, `None` if it is a name. Does not query DNS."""
    if host.rstrip(".").lower().rpartition(".")[2] == "localhost":  # RFC 6761: never anything else
        return ipaddress.IPv4Address("127.0.0.1")
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return None
    return ipaddress.ip_address(found[0][4][0])


class Exchange:
    """Requests that share one deadline. They run in a thread, which may outlive the caller's wait."""

    def __init__(self, seconds: float, permitted: Permitted, connect_seconds: float | None = None) -> None:
        self._deadline = time.monotonic() + seconds
        self._permitted = permitted
        self._connect_seconds = seconds if connect_seconds is None else connect_seconds
        self._connection: Connection | None = None

    def left(self) -> float:
        """Return the seconds until the deadline.

        Raises:
            TooLateError: the deadline is past.
        """
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TooLateError
        return left

    def require_time(self) -> None:
        """Check the deadline.

        Raises:
            TooLateError: the deadline is past.
        """
        self.left()

    def connection(self, url: SplitResult) -> "Connection":
        """Return a connection object for the host of `url`; it is not connected yet.

        Raises:
            RejectedURLError: there is no host, or it is not on the public Internet.
            OSError: the host is not found.
            ValueError: the URL has an invalid port or host.
        """
        if url.scheme not in {"http", "https"} or not url.hostname:
            raise RejectedURLError("not an http(s) URL with a host")
        port = url.port or (443 if url.scheme == "https" else 80)
        addresses = self._resolved(url.hostname, port)
        kind = TLSConnection if url.scheme == "https" else Connection
        self._connection = kind(url.hostname, port, addresses, self.left(), self._connect_seconds)
        return self._connection

    def abort(self) -> None:
        """Shut down an open connection; its thread then ends by itself."""
        if self._connection is not None and self._connection.channel is not None:
            with suppress(OSError):
                self._connection.channel.shutdown(socket.SHUT_RDWR)

    def _resolved(self, host: str, port: int) -> list[str]:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))
        # One address that is not permitted rejects the name, whatever the others are.
        if not addresses or not all(self._permitted(ipaddress.ip_address(each)) for each in addresses):
            raise RejectedURLError("its host is not on the public Internet")
        return addresses


def within(
    seconds: float,
    work: Callable[[Exchange], T],
    *,
    permitted: Permitted = is_public,
    connect_seconds: float | None = None,
    afterwards: Callable[[], object] = lambda: None,
) -> T:
    """Run `work` within `seconds`, of which at most `connect_seconds` to connect; returns its result.

    It runs in a thread, since a socket timeout limits neither name resolution nor headers that arrive byte by byte.
    `afterwards` is called when that thread has ended, which may be later.

    Raises:
        RejectedURLError: an address is not permitted; `TooLateError`: the time is over.
        OSError: the thread cannot be started.
        Exception: what `work` raises.
    """
    exchange = Exchange(seconds, permitted, connect_seconds)
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(work(exchange))
        except Exception as error:  # noqa: BLE001 - the caller gets it
            outcome.set_exception(error)
        finally:
            afterwards()

    try:
        threading.Thread(target=run, name="exchange", daemon=True).start()
    except RuntimeError as error:  # the system permits no more
        afterwards()
        raise OSError(errno.EAGAIN, str(error)) from error
    wait([outcome], timeout=seconds)
    if not outcome.done():
        exchange.abort()
        raise TooLateError
    return outcome.result()


class Connection(http.client.HTTPConnection):
    """Connects to one of the checked `addresses`; the host name is only used in the request.

    `channel` is its socket, even after the response has taken it over.
    """

    channel: socket.socket | None = None

    def __init__(self, host: str, port: int, addresses: Sequence[str], seconds: float, connect_seconds: float) -> None:
        super().__init__(host, port, timeout=seconds)
        self._addresses = addresses
        self._connect_seconds = min(seconds, connect_seconds)
        self._deadline = time.monotonic() + seconds

    def connect(self) -> None:
        """Open a connection to the first address that accepts one."""
        self.sock = self.channel = self._first_to_answer()
        self.sock.settimeout(max(self._deadline - time.monotonic(), 0.001))

    def linger(self, seconds: float) -> None:
        """Set the maximum seconds to wait for each further part of the response."""
        if self.channel is not None:
            self.channel.settimeout(seconds)

    def _first_to_answer(self) -> socket.socket:
        deadline = time.monotonic() + self._connect_seconds
        *others, last = self._addresses
        for number, address in enumerate(others):
            # One that drops packets (broken IPv6, for example) must leave time for the addresses after it.
            share = (deadline - time.monotonic()) / (len(self._addresses) - number)
            with suppress(OSError):
                return self._connected(address, share)
        return self._connected(last, deadline - time.monotonic())

    def _connected(self, address: str, seconds: float) -> socket.socket:
        return socket.create_connection((address, self.port), max(seconds, 0.001))


class TLSConnection(Connection):
    """The same with TLS; the certificate must match the host name."""

    default_port = http.client.HTTPS_PORT

    def connect(self) -> None:
        """Open the connection."""
        super().connect()
        self.sock = self.channel = ssl.create_default_context().wrap_socket(self.sock, server_hostname=self.host)
        # `Exchange.abort` could not reach this channel before.
        if time.monotonic() >= self._deadline:
            self.close()
            raise TimeoutError


def target_of(url: SplitResult) -> str:
    """Return the request target of `url`: path and query, percent-encoded where they must be.

    Surrogate escapes stand for bytes that are no UTF-8.

    Raises:
        UnicodeEncodeError: there are other surrogates.
    """
    path = quote(url.path or "/", _PATH, errors="surrogateescape")
    return path + (f"?{quote(url.query, _QUERY, errors='surrogateescape')}" if url.query else "")
