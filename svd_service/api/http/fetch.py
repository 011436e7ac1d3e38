"""Images by URL, from public addresses only: see outbound.py. Redirects are checked, the size is limited."""

import http.client
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, urljoin, urlsplit

from svd_service.errors import ImageTooLargeError, InvalidParameterError, UnavailableError
from svd_service.outbound import USER_AGENT, Address, Exchange, RejectedURLError, is_public, target_of, within

#: Seconds that one image may take in all.
DEADLINE: Final = 15.0

REDIRECTS: Final = 3
_REDIRECTING: Final = frozenset({301, 302, 303, 307, 308})

_HEADERS: Final = {"Accept": "image/*", "Accept-Encoding": "identity", "User-Agent": USER_AGENT}

_BROKEN: Final = "the connection broke before the end of the file; try again"

#: Images that this process fetches at once; each takes a thread.
_ROOM: Final = threading.BoundedSemaphore(8)


def fetch(
    url: str,
    *,
    parameter: str,
    max_bytes: int,
    deadline: float = DEADLINE,
    permitted: Callable[[Address], bool] = is_public,
) -> bytes:
    """Return the content of `url`, fetched within `deadline` seconds and from `permitted` addresses only.

    Raises:
        InvalidParameterError: the URL is rejected or cannot be fetched; the error names `parameter`.
        ImageTooLargeError: the content has more than `max_bytes`.
        UnavailableError: too many images are being fetched already.
    """
    if not _ROOM.acquire(blocking=False):
        raise UnavailableError("too many images are being fetched right now")
    download = _Download(url.strip(), max_bytes)
    try:
        return within(deadline, download.follow, permitted=permitted, afterwards=_ROOM.release)
    except RejectedURLError as error:
        why = str(error)
    # ValueError: an invalid port, host name or header.
    except (OSError, http.client.HTTPException, ValueError):
        why = "invalid response or no connection"
    raise InvalidParameterError(parameter, f"{parameter}: the URL cannot be fetched: {why}")


@dataclass
class _Download:
    """One URL with its redirects."""

    url: str
    max_bytes: int

    def follow(self, exchange: Exchange) -> bytes:
        """Return the content, after redirects if there are any."""
        url = self.url
        for _ in range(REDIRECTS + 1):
            content, location = self._get(exchange, urlsplit(url))
            if location is None:
                return content
            url = urljoin(url, location)
        raise RejectedURLError("too many redirects")

    def _get(self, exchange: Exchange, url: SplitResult) -> tuple[bytes, str | None]:
        """Return the content and no location, or the location of a redirect."""
        if url.username is not None:
            raise RejectedURLError("not an http(s) URL with a host")
        with closing(exchange.connection(url)) as connection:
            connection.request("GET", target_of(url), headers=_HEADERS)
            with closing(connection.getresponse()) as response:
                if response.status in _REDIRECTING and (location := response.headers["Location"]):
                    # http.client takes the bytes of a header for Latin-1; in a location they are UTF-8, or unknown.
                    return b"", location.encode("latin-1").decode(errors="surrogateescape")
                if response.status != 200:
                    raise RejectedURLError(f"it answers {response.status}")
                return self._read(exchange, response), None

    def _read(self, exchange: Exchange, response: http.client.HTTPResponse) -> bytes:
        content = bytearray()
        try:
            while chunk := response.read1(65_536):
                content += chunk
                if len(content) > self.max_bytes:
                    raise ImageTooLargeError(f"the image has more than {self.max_bytes:,} bytes")
                exchange.require_time()
        except (ConnectionError, http.client.IncompleteRead):
            raise RejectedURLError(_BROKEN) from None
        # `read1` takes the end of a connection for the end of the content.
        if response.length:
            raise RejectedURLError(_BROKEN)
        return bytes(content)
