"""A service below a path of its host: `SVD_ROOT_PATH`, or a proxy's `X-Forwarded-Prefix`."""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from flask import request

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

#: What a prefix may look like. A proxy may pass on what a client made up.
_PREFIX: Final = re.compile(r"(/[A-Za-z0-9._~-]+)+")


def public_path(path: str) -> str:
    """The path at which the present request's client reaches `path`."""
    return f"{request.environ.get('SCRIPT_NAME', '')}{path}"


class RootPath:
    """WSGI middleware: the application below `root`, whether the proxy removes it from the path or not.

    Without `root`, it is below the `SCRIPT_NAME` that a trusted proxy's header has set.
    """

    def __init__(self, app: "WSGIApplication", root: str) -> None:
        self._app = app
        self._root = root

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Answer as the application does, with the path as it is below the root."""
        root = self._root or str(environ.get("SCRIPT_NAME", "")).rstrip("/")
        if not _PREFIX.fullmatch(root):
            root = ""
        path = str(environ.get("PATH_INFO", ""))
        if root and path == root:  # the page's own addresses are relative to a folder
            start_response("308 Permanent Redirect", [("Location", f"{root}/"), ("Content-Length", "0")])
            return [b""]
        environ["SCRIPT_NAME"] = root
        environ["PATH_INFO"] = path.removeprefix(root) if path.startswith(f"{root}/") else path
        return self._app(environ, start_response)
