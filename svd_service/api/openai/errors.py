"""The shape of OpenAI's errors: `{"error": {"message", "type", "param", "code"}}`."""

from typing import Final

from flask import Response, jsonify

from svd_service.api.http.problem import Problem
from svd_service.api.openai.objects import OpenAIError, OpenAIErrorDetail
from svd_service.api.openai.schema import BLOCKED
from svd_service.errors import ContentFilteredError, QuotaExceededError

#: The `type` of an error by its status; below 500, all others are the request's fault.
_TYPES: Final = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


#: OpenAI's own name, as `type` and `code`, of an error of ours.
_NAMES: Final = {QuotaExceededError.code: "insufficient_quota"}


def shape(problem: Problem) -> Response:
    """`problem` in OpenAI's words."""
    if problem.code == ContentFilteredError.code:
        detail = OpenAIErrorDetail(problem.message, "invalid_request_error", problem.parameter or None, BLOCKED)
        response = jsonify(OpenAIError(detail))
        response.status_code = 400
        return response
    kind = "server_error" if problem.status >= 500 else _TYPES.get(problem.status, "invalid_request_error")
    message, code = problem.message, problem.code
    if code in _NAMES:
        kind = code = _NAMES[code]
        message = f"You exceeded your current quota: {message}"
    return jsonify(OpenAIError(OpenAIErrorDetail(message, kind, problem.parameter or None, code)))
