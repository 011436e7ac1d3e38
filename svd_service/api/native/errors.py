"""The shape of the native dialect's errors: `{"error": {"code", "message", "parameter"}, "status"}`."""

from flask import Response, jsonify

from svd_service.api.http.problem import Problem
from svd_service.api.native.schema import ErrorDetail, ErrorView


def shape(problem: Problem) -> Response:
    """`problem` in native words; `status` is the job's, where the error is about one."""
    detail = ErrorDetail(problem.code, problem.message, problem.parameter or None)
    return jsonify(ErrorView(detail, problem.job_status or None))
