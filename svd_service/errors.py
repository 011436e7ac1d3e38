"""What can go wrong with a job, as one tree. None of these knows an HTTP status: each dialect maps them at its edge.

JobError
├── RefusedError                the submission is at fault; nothing was stored
│   ├── InvalidParameterError   a parameter is out of bounds or not understood
│   ├── MissingImageError     the request has no image
│   ├── UnsupportedError        beyond what Stable Video Diffusion can do
│   ├── NotAnImageError        the bytes are not an image of a supported format
│   ├── BrokenImageError      an image, but truncated or damaged
│   ├── AnimatedImageError    an image with several frames
│   ├── ImageSizeError        not one of the sizes that the API accepts
│   └── ImageTooLargeError    too many bytes or too many pixels
├── IdempotencyConflictError    an `Idempotency-Key` was used before, for another request
├── UnknownJobError             no such job (or not the caller's)
├── NotReadyError               the job has no result (yet)
├── MissingFormatError          the video was not made in the format asked for
├── NoPreviewError              there is nothing to be seen of the job (yet, or any more)
├── ExpiredError                the result is past its time
├── UnauthorizedError           the caller did not show a key, or not a valid one
├── InvalidLinkError            a share link was not signed here, or its key was revoked
│   └── ExpiredLinkError        a share link has expired
├── ForbiddenError              the request comes from a page or for a host that is not allowed
├── LimitedError                not now: the caller may come again after a while
│   ├── QueueFullError          too many jobs wait already
│   └── RateLimitedError        too many requests
├── UnknownKeyError             no such API key
├── ConfiguredSecretError       a webhook secret is a setting, which a command cannot change
├── StaleAttemptError           this attempt is no longer the job's (or its webhook's); all it writes is refused
└── UnavailableError            the ledger or the artifacts cannot be reached
    └── WriteRefusedError       Redis takes no writes; nothing was changed
"""


class JobError(Exception):
    """Root of the tree. `code` is stable and machine-readable; the message is for a person."""

    code = "error"


class RefusedError(JobError):
    """The submission is at fault; nothing was stored."""

    code = "refused"


class InvalidParameterError(RefusedError):
    """A parameter is out of bounds or not understood. `parameter` names it."""

    code = "invalid_parameter"

    def __init__(self, parameter: str, message: str) -> None:
        super().__init__(message)
        self.parameter = parameter


class MissingImageError(RefusedError):
    """The request has no image."""

    code = "missing_image"


class UnsupportedError(RefusedError):
    """What is asked for is beyond what Stable Video Diffusion can do."""

    code = "not_supported"


class NotAnImageError(RefusedError):
    """The bytes are not an image of a supported format."""

    code = "not_an_image"


class BrokenImageError(RefusedError):
    """An image, but truncated or damaged."""

    code = "broken_image"


class AnimatedImageError(RefusedError):
    """An image with several frames; one is required."""

    code = "animated_image"


class ImageSizeError(RefusedError):
    """The image's width and height are not among those that the API accepts."""

    code = "image_size"


class ImageTooLargeError(RefusedError):
    """Too many bytes or too many pixels."""

    code = "image_too_large"


class IdempotencyConflictError(JobError):
    """An `Idempotency-Key` was used before, for another request."""

    code = "idempotency_conflict"


class UnknownJobError(JobError):
    """No such job, or not the caller's."""

    code = "unknown_job"


class NotReadyError(JobError):
    """The job has no result to give. `state` is the job's present state; `eta_seconds` when it may have one."""

    code = "not_ready"

    def __init__(self, state: str, message: str, eta_seconds: float | None = None) -> None:
        super().__init__(message)
        self.state = state
        self.eta_seconds = eta_seconds


class MissingFormatError(JobError):
    """The video was not made in the format asked for. The message names those that there are."""

    code = "format_not_made"


class NoPreviewError(JobError):
    """There is nothing to be seen of the job: it is not started, or has ended. `state` is its present state."""

    code = "no_preview"

    def __init__(self, state: str) -> None:
        super().__init__(f"the job has no preview: it is {state}")
        self.state = state


class ExpiredError(JobError):
    """The result is past its time and gone."""

    code = "expired"


class UnauthorizedError(JobError):
    """No API key was shown, or not a valid one."""

    code = "unauthorized"


class InvalidLinkError(JobError):
    """A share link was not signed by this service, was changed, or belongs to a revoked key."""

    code = "invalid_link"


class ExpiredLinkError(InvalidLinkError):
    """A share link has expired."""

    code = "link_expired"


class ForbiddenError(JobError):
    """The request comes from a page that may not use the service, or for a host that is not its own."""

    code = "forbidden"


class LimitedError(JobError):
    """Not now. `retry_after` is in how many seconds to come again."""

    code = "limited"

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class QueueFullError(LimitedError):
    """Too many jobs wait already, or too many of the caller's; nothing was stored."""

    code = "queue_full"


class RateLimitedError(LimitedError):
    """Too many requests."""

    code = "rate_limited"


class UnknownKeyError(JobError):
    """No such API key."""

    code = "unknown_key"


class ConfiguredSecretError(JobError):
    """The secret is one of the settings, so that a command cannot change it."""

    code = "configured_secret"


class StaleAttemptError(JobError):
    """This attempt is no longer the job's: it was given to another, or the job has ended."""

    code = "stale_attempt"


class UnavailableError(JobError):
    """The ledger or the artifacts cannot be reached right now; nothing is known to be lost."""

    code = "unavailable"


class WriteRefusedError(UnavailableError):
    """Redis answers, but takes no writes now (its memory or its disk is full, it is a replica): nothing was changed."""


class InvalidOutputError(JobError):
    """The model computed values that are no numbers (NaN, infinity): the video would be black."""

    code = "invalid_output"

    def __init__(self, what: str) -> None:
        super().__init__(
            f"The model computed {what} that are not finite numbers, which would give a black video. Try another seed "
            "or size; if other jobs fail too, the model's weights are damaged or unfit for this device's precision."
        )
