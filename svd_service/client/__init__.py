"""The Python client. Imports nothing of the server, so that it installs without it.

from svd_service.client import Client

with Client("http://127.0.0.1:8000") as client:
    job = client.submit("cat.jpg", seed=7)
    for job in client.watch(job.id):
        print(job.state, job.fraction, job.eta_seconds)
    client.download(job.id, "cat.mp4")
"""

from svd_service.client.client import Client
from svd_service.client.errors import (
    AnswerError,
    ClientError,
    ExpiredError,
    JobEndedError,
    LimitedError,
    MissingFormatError,
    NotReadyError,
    RefusedError,
    UnauthorizedError,
    UnavailableError,
    UnknownJobError,
    UnreachableError,
    WaitTimeoutError,
)
from svd_service.client.groups import GroupStatus
from svd_service.client.status import JobStatus, Progress
from svd_service.parameters import Parameters

__all__ = [
    "AnswerError",
    "Client",
    "ClientError",
    "ExpiredError",
    "GroupStatus",
    "JobEndedError",
    "JobStatus",
    "LimitedError",
    "MissingFormatError",
    "NotReadyError",
    "Parameters",
    "Progress",
    "RefusedError",
    "UnauthorizedError",
    "UnavailableError",
    "UnknownJobError",
    "UnreachableError",
    "WaitTimeoutError",
]
