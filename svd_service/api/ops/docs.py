"""The service's documentation of itself: `/openapi.json` for machines, `/docs` (Swagger UI, from this package) for
people.
"""

from typing import Any, Final

from flask import Blueprint, Response, current_app, jsonify

from svd_service.api.http.context import keyring
from svd_service.api.http.openapi import PUBLIC, Answer, describe, document
from svd_service.api.http.paths import public_path
from svd_service.errors import UnavailableError

blueprint = Blueprint("docs", __name__, static_folder="static/swagger-ui", static_url_path="/docs")

#: The page runs our own scripts alone. Swagger UI's style sheet carries its icons as `data:` addresses.
POLICY: Final = "default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"


@blueprint.get("/openapi.json")
@describe("service", {200: Answer("The document.", dict[str, Any])}, access=PUBLIC)
def openapi() -> Response:
    """This document: every route, what it takes and what it answers."""
    made: dict[bool, dict[str, Any]] = current_app.extensions.setdefault("openapi", {})
    closed = _is_closed()
    if closed not in made:
        made[closed] = document(current_app, closed=closed)
    return jsonify({**made[closed], "servers": [{"url": public_path("") or "/"}]})


@blueprint.get("/docs")
@describe("service", {200: Answer("The page.", str, ("text/html",))}, access=PUBLIC)
def docs() -> Response:
    """The same for people, to read and to try."""
    page = blueprint.send_static_file("index.html")
    page.headers["Content-Security-Policy"] = POLICY
    return page


def _is_closed() -> bool:
    try:
        return not keyring().is_open()
    except UnavailableError:
        return True
