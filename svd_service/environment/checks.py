"""Checks of settings' values that a type cannot express. Each returns what is wrong, or `None`."""

import base64
import ipaddress
import math
import re
import shlex
import stat
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

#: Largest numbers that a setting may have: thirty years in seconds, a petabyte.
_MAX_FLOAT: Final = 1e9
_MAX_INT: Final = 2**50

_ADDRESS: Final = re.compile(r"(\[[0-9A-Fa-f:.]+(%[\w.]+)?\]|[^\s:/\[\]]*):(\d{1,5})")
_SOCKETS: Final = ("unix:", "fd://")
_NETWORK: Final = {"redis", "rediss"}


def seconds(value: float) -> str | None:
    """A number that is finite, and small enough for clocks and timeouts."""
    if not math.isfinite(value):
        return "expected a finite number"
    return None if value <= _MAX_FLOAT else f"expected at most {_MAX_FLOAT:.0f}"


def count(value: int) -> str | None:
    """A whole number that sizes and counters can have."""
    return None if value <= _MAX_INT else f"expected at most {_MAX_INT}"


def address(value: str, *, sockets: bool = False) -> str | None:
    """`host:port`; with `sockets`, also a Unix socket's path or an inherited descriptor."""
    if sockets and value.startswith(_SOCKETS):
        return None
    match = _ADDRESS.fullmatch(value)
    if match is None:
        return "expected host:port"
    # 0 lets the system choose.
    return None if int(match[3]) <= 65535 else "expected a port of at most 65535"


def ports(value: str) -> str | None:
    """Every port of a list of `host:port` or of a URL."""
    found = (int(port) for port in re.findall(r":(\d+)(?=[,/\s]|$)", value))
    return None if all(1 <= port <= 65535 for port in found) else "expected a port between 1 and 65535"


def webhook_secrets(value: str) -> str | None:
    """A list of secrets as Standard Webhooks writes them."""
    for secret in filter(None, (part.strip() for part in value.split(","))):
        try:
            size = len(base64.b64decode(secret.removeprefix("whsec_"), validate=True))
        except ValueError:
            return "expected Base64 after whsec_; a copied secret easily loses its last ="
        if not 24 <= size <= 64:
            return f"expected 24 to 64 bytes in Base64 after whsec_, there are {size}"
    return None


def redis_url(value: str) -> str | None:
    """A URL whose password has no characters that end it, and whose database is a number."""
    encode = "characters such as #, /, ?, [, ] and @ in user and password must be percent-encoded (# is %23)"
    try:
        parts = urlsplit(value)
    except ValueError:  # its message may hold the password
        return encode
    if parts.fragment or "#" in value or "@" in parts.path + parts.query or parts.netloc.count("@") > 1:
        return encode
    if parts.scheme not in _NETWORK:
        return None
    try:
        port = parts.port
    except ValueError:
        return f"expected a port between 1 and 65535; {encode}"
    if port == 0:
        return "expected a port between 1 and 65535"
    return None if re.fullmatch(r"/?\d*", parts.path) else "expected a database number after the host, as in /0"


def host(value: str) -> str | None:
    """A host name or an IP address; an IPv6 address with or without brackets."""
    expected = "expected a host name or an IP address"
    if ":" not in value:
        return expected if re.search(r"[\s/?#@\[\]]", value) else None
    try:
        ipaddress.IPv6Address(value[1:-1] if value.startswith("[") and value.endswith("]") else value)
    except ValueError:
        return expected
    return None


def home(value: str) -> str | None:
    """A value that does not begin with `~` of an unknown user."""
    try:
        Path(value).expanduser()
    except RuntimeError as error:
        return str(error)
    return None


def folder(value: Path) -> str | None:
    """A folder, or a path at which one can be made."""
    try:
        return None if stat.S_ISDIR(value.stat().st_mode) else "not a folder"
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return error.strerror


def command(value: str) -> str | None:
    """A command whose quotes are closed."""
    try:
        return None if shlex.split(value) else "expected a command"
    except ValueError as error:
        return f"cannot be split into words: {error}"


def is_local(address: str) -> bool:
    """Whether only this machine reaches a server at `address`: a loopback address, or a Unix socket."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return address.startswith(("unix:", "fd:")) or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
