"""Who comes in, and how often: before a route runs, its caller's key and rate are looked at.

A route is open to everybody only if its description is `public` (openapi.py). Every other path requires a key as
soon as there are any, those that do not exist included. Errors raised here get the dialect's shape from
errors.py, as all others do.
"""

import ipaddress
from typing import Final

from flask import Flask, current_app, g, request

from svd_service.api.http import openapi
from svd_service.api.http.context import jobs, key, keyring
from svd_service.api.http.origins import Origins
from svd_service.config import Settings
from svd_service.errors import MissingScopeError, UnauthorizedError, UnavailableError
from svd_service.ledger.api_keys import Keyring
from svd_service.ledger.key import ADMIN, PREFIX, Key
from svd_service.telemetry import logs


def install(app: Flask, keys: Keyring, origins: Origins, settings: Settings) -> None:
    """Reject requests without a valid key; without keys, those that other sites' pages may have caused."""
    app.extensions["origins"] = origins

    @app.before_request
    def admit() -> None:
        if openapi.is_public(current_app, request.endpoint):
            return
        operation = openapi.operation_of(current_app, request.endpoint)
        try:
            g.key = keys.identify(_presented(request.headers.get("Authorization", "")))
        except UnauthorizedError:
            # Guessing has its rate, too.
            _count(settings.rate_limit, None)
            raise
        if g.key is None:
            origins.check()
        else:
            logs.add(key_id=g.key.id)
        _count(settings.rate_limit, g.key)
        if operation is not None and operation.access is openapi.ADMIN:
            _require_scope(ADMIN, g.key)


def _require_scope(scope: str, key: Key | None) -> None:
    """Check the scopes of the caller's key. Without keys on the service no caller has a scope."""
    if key is None or scope not in key.scopes:
        how = f"svd-service keys create NAME --{scope}"
        raise MissingScopeError(f"this requires an API key with the scope {scope} ({how})")


def count_further(number: int) -> None:
    """Count the present request as `number` more, since it makes so many more jobs.

    Raises:
        RateLimitedError: these are more than the caller may make now.
    """
    _count(jobs().settings.rate_limit, key(), number)


def _count(limit: int, key: Key | None, number: int = 1) -> None:
    if limit and number:
        jobs().ledger.rate_limit.count(f"key {key.owner}" if key else f"address {caller_network()}", limit, number)


def is_operator() -> bool:
    """Whether the present request's caller may see names of hosts and causes of faults on a public route.

    That is a holder of a key, or a program on this machine, unless a proxy on it passes the request on. A program that
    uses an unknown host name may be a browser, with a page whose name was pointed at this machine.
    """
    origins: Origins = current_app.extensions["origins"]
    passed_on = any(name in request.headers for name in _FORWARDED)
    if not passed_on and _is_loopback(request.remote_addr or "") and origins.is_host(request.host):
        return True
    try:
        return keyring().identify(_presented(request.headers.get("Authorization", ""))) is not None
    except (UnauthorizedError, UnavailableError):
        return False


#: Headers of requests that a proxy passes on.
_FORWARDED: Final = ("X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP", "Forwarded", "Via")

#: What may stand before a key. The documented curl of Stability's API sends the key alone.
_SCHEME: Final = "bearer"


def _presented(header: str) -> str:
    """The key that an `Authorization` header shows, or `""`: `Bearer KEY`, or `sk-…` alone."""
    scheme, _, secret = header.strip().partition(" ")
    if scheme.lower() == _SCHEME:
        return secret.strip()
    return scheme if scheme.startswith(PREFIX[:3]) and not secret else ""


def caller_network() -> str:
    """What the present request's caller is known by: an IPv4 address, or the /64 that an IPv6 host has for itself."""
    address = request.remote_addr or ""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((parsed, 64), strict=False)) if parsed.version == 6 else address


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return not address  # a Unix socket
