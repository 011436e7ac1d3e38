"""The operators' page at `/operator`: plain HTML and ES modules from this package, which use `/admin/…` with a key."""

from flask import Blueprint, Response

from svd_service.api.http.openapi import PUBLIC, Answer, describe
from svd_service.api.ops.page import HEADERS

blueprint = Blueprint("operator", __name__, static_folder="static/operator", static_url_path="/operator")


@blueprint.get("/operator")
@describe("service", {200: Answer("The page.", str, ("text/html",))}, access=PUBLIC)
def page() -> Response:
    """The operators' page. It shows nothing until a key with the scope `admin` is entered."""
    return blueprint.send_static_file("index.html")


@blueprint.after_request
def protect(response: Response) -> Response:
    """Forbid foreign content, as on the main page."""
    response.headers.update(HEADERS)
    return response
