"""The page at `/`, for people: plain HTML, a style sheet and ES modules from this package, which use the native API.

Nothing of it comes from another host, and nothing is built: what is in `static/page` is what the browser gets.
"""

from typing import Final

from flask import Blueprint, Response

from svd_service.api.http.openapi import PUBLIC, Answer, describe

blueprint = Blueprint("pages", __name__, static_folder="static/page", static_url_path="/page")

#: Our own scripts and styles alone. `blob:` is for images that were just chosen and videos fetched with a key.
POLICY: Final = (
    "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)

HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
}


@blueprint.get("/")
@describe("service", {200: Answer("The page.", str, ("text/html",))}, access=PUBLIC)
def page() -> Response:
    """The page."""
    return blueprint.send_static_file("index.html")


@blueprint.after_request
def protect(response: Response) -> Response:
    """Headers that forbid foreign content on the page and make the browser revalidate it each time."""
    response.headers.update(HEADERS)
    return response
