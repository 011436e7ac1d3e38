"""Which web pages may use the service: allowed hosts, cross-site requests, and CORS.

A browser sends requests for whatever page it shows, also to services on its own machine. A key protects against that,
as no page knows it. A service without keys looks at where a request comes from: another site's page is rejected
(`Origin`, `Sec-Fetch-Site`), and so is a name that an attacker has pointed at this machine (`Host`). Clients that are
no browsers send none of the first two and are not affected.
"""

import ipaddress
import re
import socket
from typing import Final
from urllib.parse import urlsplit

from flask import Flask, Response, request

from svd_service.config import Settings
from svd_service.errors import ForbiddenError

#: `Sec-Fetch-Site` of requests that the user or our own page caused.
_OWN: Final = {"same-origin", "none"}

#: What a page of another origin may read of an answer beyond its body.
EXPOSED: Final = (
    "Content-Disposition, Content-Location, Content-Range, ETag, Location, Preference-Applied, Retry-After, "
    "X-Request-ID, finish-reason, openai-poll-after-ms, seed"
)

#: Seconds for which a browser may keep the answer to a preflight request.
_MAX_AGE: Final = 600

_HEADERS: Final = re.compile(r"[A-Za-z0-9-]+( *, *[A-Za-z0-9-]+)*")


class Origins:
    """Decides about hosts and origins, as the settings say."""

    def __init__(self, settings: Settings) -> None:
        self._pages = frozenset(settings.cors_origin_list)
        self._named = tuple(name.lower() for name in settings.allowed_host_list)
        bound = host_of(settings.bind)
        self._hosts = frozenset({"localhost", bound, socket.gethostname().lower()} - {""})

    def check(self) -> None:
        """Reject the present request if another site's page may have caused it.

        Raises:
            ForbiddenError: it has; the message names the setting that allows it.
        """
        if not self.is_host(request.host):
            raise ForbiddenError(
                f"this service has no keys and is not known as {host_of(request.host)[:100]!r}: name it in "
                "SVD_ALLOWED_HOSTS, or make a key (svd-service keys create NAME)"
            )
        if request.headers.get("Sec-Fetch-Site") in _OWN or self._is_visit():
            return
        origin = self.origin()
        foreign = "Sec-Fetch-Site" in request.headers if not origin else not self._is_own(origin)
        if foreign and not self.is_allowed(origin):
            raise ForbiddenError(
                f"this service has no keys and rejects requests of other sites' pages ({origin[:100] or 'unknown'}): "
                "name the page's origin in SVD_CORS_ORIGINS, or make a key (svd-service keys create NAME)"
            )

    def is_host(self, host: str) -> bool:
        """Whether the service goes by this name. An address always is: it cannot be rebound."""
        name = host_of(host)
        return (
            name in self._hosts
            or name.endswith(".localhost")
            or _is_address(name)
            or any(
                allowed in {"*", name} or (allowed.startswith(".") and name.endswith(allowed))
                for allowed in self._named
            )
        )

    def is_allowed(self, origin: str) -> bool:
        """Whether pages of this origin may use the service and read its answers."""
        return bool(origin) and ("*" in self._pages or origin in self._pages)

    def origin(self) -> str:
        """The origin of the page that caused the request, if the browser sends it; else `""`."""
        if origin := request.headers.get("Origin", ""):
            return origin
        referer = request.headers.get("Referer", "")
        try:
            parts = urlsplit(referer)
        except ValueError:
            return referer  # of no page of ours
        return f"{parts.scheme}://{parts.netloc}" if parts.netloc else ""

    def _is_own(self, origin: str) -> bool:
        try:
            # Not the scheme: a proxy with TLS need not say that it is one.
            netloc = urlsplit(origin).netloc.lower()
        except ValueError:
            return False
        return bool(netloc) and (netloc == request.host.lower() or host_of(netloc) in self._named)

    def _is_visit(self) -> bool:
        """Whether a user follows a link: the answer is shown, and the page that has the link cannot read it."""
        fetch = request.headers.get
        return (
            request.method in {"GET", "HEAD"}
            and fetch("Sec-Fetch-Mode") == "navigate"
            and fetch("Sec-Fetch-Dest") == "document"
        )


def install(app: Flask, settings: Settings) -> Origins:
    """Answer preflight requests, and let pages of the allowed origins read answers."""
    origins = Origins(settings)
    if not settings.cors_origin_list:
        return origins

    @app.before_request
    def preflight() -> Response | None:
        requested_method = request.headers.get("Access-Control-Request-Method")
        if request.method != "OPTIONS" or not requested_method:
            return None
        response = Response(status=204)
        response.headers["Access-Control-Allow-Methods"] = "GET, HEAD, POST, PUT, DELETE"
        headers = request.headers.get("Access-Control-Request-Headers", "")
        if _HEADERS.fullmatch(headers):
            response.headers["Access-Control-Allow-Headers"] = headers
        if request.headers.get("Access-Control-Request-Private-Network") == "true":
            response.headers["Access-Control-Allow-Private-Network"] = "true"
        response.headers["Access-Control-Max-Age"] = str(_MAX_AGE)
        return response

    @app.after_request
    def share(response: Response) -> Response:
        response.vary.add("Origin")
        origin = request.headers.get("Origin", "")
        if origins.is_allowed(origin):
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Expose-Headers"] = EXPOSED
        return response

    return origins


def host_of(netloc: str) -> str:
    """The host of `host:port`, in lower case and without an IPv6 address' brackets."""
    match = re.fullmatch(r"\[([^]]*)\](:\d*)?|([^:]*)(:\d*)?", netloc)
    return (match[1] or match[3] or "").lower().rstrip(".") if match else netloc.lower()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
