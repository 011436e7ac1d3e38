"""The shape of Stability's errors: `{"id", "name", "errors"}`."""

from http import HTTPStatus
from typing import Final

from flask import Response, jsonify

from svd_service.api.http.problem import Problem
from svd_service.api.http.request_ids import request_id
from svd_service.api.stability.schema import FILTERED, FilteredGeneration, StabilityError
from svd_service.errors import ContentFilteredError, QuotaExceededError

#: Names of Stability's own; all others are called as HTTP calls them.
_NAMES: Final = {
    413: "payload_too_large",
    422: "unprocessable_entity",
    429: "rate_limit_exceeded",
    500: "internal_error",
}


def shape(problem: Problem) -> Response:
    """`problem` in Stability's words."""
    if problem.code == ContentFilteredError.code:
        response = jsonify(FilteredGeneration(request_id(), errors=[problem.message]))
        response.status_code = 403
        response.headers["finish-reason"] = FILTERED
        return response
    if problem.code == QuotaExceededError.code:
        message = f"You lack sufficient credits to make this request: {problem.message}"
        return jsonify(StabilityError(request_id(), "insufficient_credits", [message]))
    name = _NAMES.get(problem.status) or HTTPStatus(problem.status).phrase.lower().replace(" ", "_")
    return jsonify(StabilityError(request_id(), name, [problem.message]))
