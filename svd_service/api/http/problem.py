"""An error on its way to the caller, before a dialect gives it its shape."""

from collections.abc import Callable
from dataclasses import dataclass

from flask import Response


@dataclass(frozen=True)
class Problem:
    """What went wrong: the HTTP `status`, a stable `code`, a sentence.

    `parameter` is the invalid one, and `job_status` the native word for the state of the job that the error is about;
    both are empty where there is none.
    """

    status: int
    code: str
    message: str
    parameter: str = ""
    job_status: str = ""


#: Builds a dialect's response for a problem. The caller sets the status, unless the response has another one than 200.
Shape = Callable[[Problem], Response]
