"""What ends an attempt before its video is made, other than a fault of the job itself."""

from svd_service.errors import JobError
from svd_service.jobs.job import DEADLINE_EXCEEDED


class CancelRequested(JobError):  # noqa: N818  (a request, not an error)
    """The job was cancelled while this attempt ran."""


class ReleaseRequested(JobError):  # noqa: N818  (a request, not an error)
    """The worker shuts down, and its drain timeout has passed."""


class TimeLimitError(JobError):
    """The attempt took longer than `SVD_JOB_TIMEOUT`."""

    code = "time_limit"

    def __init__(self) -> None:
        super().__init__("The attempt took longer than the time limit of a job.")


class DeadlineError(JobError):
    """The job's deadline (`Cancel-After`) passed while this attempt ran."""

    code = DEADLINE_EXCEEDED.code

    def __init__(self) -> None:
        super().__init__(DEADLINE_EXCEEDED.message)


class DeviceLostError(JobError):
    """The device failed in a way that leaves this process unable to use it. The attempt's end is already recorded."""

    code = "device_lost"
