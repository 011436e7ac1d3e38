"""The Python client. Imports nothing of the server, so that it installs without it.

from svd_service.client import Client

with Client("http://127.0.0.1:8000") as client:
    job = client.submit("cat.jpg", seed=7)
    for job in client.watch(job.id):
        print(job.state, job.fraction, job.eta_seconds)
    client.download(job.id, "cat.mp4")
"""

import warnings

from svd_service.client.client import Client
from svd_service.client.errors import (
    AnswerError,
    ClientError,
    ExpiredError,
    InvalidKeyError,
    JobEndedError,
    LimitedError,
    MissingFormatError,
    NotReadyError,
    RejectedError,
    UnauthorizedError,
    UnavailableError,
    UnknownJobError,
    UnreachableError,
    WaitTimeoutError,
)
from svd_service.client.groups import GroupStatus
from svd_service.client.status import JobStatus, Progress
from svd_service.parameters import RequestParameters as Parameters

__all__ = [
    "AnswerError",
    "Client",
    "ClientError",
    "ExpiredError",
    "GroupStatus",
    "InvalidKeyError",
    "JobEndedError",
    "JobStatus",
    "LimitedError",
    "MissingFormatError",
    "NotReadyError",
    "Parameters",
    "Progress",
    "RejectedError",
    "UnauthorizedError",
    "UnavailableError",
    "UnknownJobError",
    "UnreachableError",
    "WaitTimeoutError",
]


def __getattr__(name: str) -> object:
    """Return the class that had the deprecated `name` until the previous release."""
    if name == "RefusedError":
        warnings.warn("RefusedError is deprecated: use RejectedError", DeprecationWarning, stacklevel=2)
        return RejectedError
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
