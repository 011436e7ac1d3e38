"""The errors of jobs, as one tree. None has an HTTP status: each dialect maps them to its own responses.

JobError
├── RejectedError                   the submission is invalid; nothing was stored
│   ├── InvalidParameterError       a parameter is out of bounds or cannot be parsed
│   ├── MissingImageError           the request has no image
│   ├── UnsupportedError            beyond what Stable Video Diffusion can do
│   ├── NotAnImageError             the bytes are not an image of a supported format
│   ├── BrokenImageError            an image, but truncated or damaged
│   ├── AnimatedImageError          an image with several frames
│   ├── ImageSizeError              not one of the sizes that the API accepts
│   ├── ImageTooLargeError          too many bytes or too many pixels
│   └── ContentFilteredError        the moderation hook rejects the image (or, in a worker, the video)
├── UnreadableFileError             a file's Content Credentials need too much time or memory to read
├── NotInstalledError               this installation lacks an optional package
├── IdempotencyConflictError        an `Idempotency-Key` was used before, for another request
├── UnknownJobError                 no such job (or not the caller's)
│   └── UnknownGroupError           no such group of jobs (or not the caller's)
├── NotReadyError                   the job has no result (yet)
│   └── FilteredResultError         the moderation hook rejected the video
├── MissingFormatError              the job was not submitted with this format
├── NoPreviewError                  the job has no preview (yet, or any more)
├── ExpiredError                    the result has expired
├── PinLimitError                   the owner has pinned as many jobs as allowed
├── UnauthorizedError               the request has no API key, or an invalid one
├── InvalidLinkError                a share link was not signed here, or its key was revoked
│   └── ExpiredLinkError            a share link has expired
├── ForbiddenError                  the request's origin or host is not allowed
├── MissingScopeError               the request requires an API key with another scope
├── NotRetryableError               the job did not fail, or its image is no longer stored
├── NotAllowedError                 the key must not use this model or profile
├── PausedError                     an operator has paused the intake; nothing was stored
├── LimitedError                    rejected for now: retry later
│   ├── QueueFullError              too many jobs are queued
│   ├── LateError                   the job would probably not end before its deadline
│   ├── QuotaExceededError          the key's quota is used up
│   └── RateLimitedError            too many requests
├── UnknownKeyError                 no such API key
├── ConfiguredSecretError           a webhook secret is a setting, which a command cannot change
├── BrokenInputError                the stored image or video is missing or cannot be read
├── StaleAttemptError               this attempt no longer holds the job (or webhook); its writes are rejected
└── UnavailableError                the ledger or the artifacts cannot be reached
    ├── WriteRefusedError           Redis accepts no writes; nothing was changed
    ├── RedisDeniedError            Redis rejects the database or the user
    └── ModerationUnavailableError  the moderation hook gives no verdict
"""


class JobError(Exception):
    """Root of the tree. `code` is stable and machine-readable; the message is for a person."""

    code = "error"


class RejectedError(JobError):
    """The submission is invalid; nothing was stored."""

    code = "rejected"


class InvalidParameterError(RejectedError):
    """A parameter is out of bounds or cannot be parsed. `parameter` names it."""

    code = "invalid_parameter"

    def __init__(self, parameter: str, message: str) -> None:
        super().__init__(message)
        self.parameter = parameter


class MissingImageError(RejectedError):
    """The request has no image."""

    code = "missing_image"


class UnsupportedError(RejectedError):
    """The request is beyond what Stable Video Diffusion can do."""

    code = "not_supported"


class NotAnImageError(RejectedError):
    """The bytes are not an image of a supported format."""

    code = "not_an_image"


class BrokenImageError(RejectedError):
    """An image, but truncated or damaged."""

    code = "broken_image"


class AnimatedImageError(RejectedError):
    """An image with several frames; one is required."""

    code = "animated_image"


class ImageSizeError(RejectedError):
    """The image's width and height are not among those that the API accepts."""

    code = "image_size"


class ImageTooLargeError(RejectedError):
    """Too many bytes or too many pixels."""

    code = "image_too_large"


class ContentFilteredError(RejectedError):
    """The moderation hook rejects the image or the video. The message has its reason."""

    code = "content_filtered"


class UnreadableFileError(JobError):
    """A file's Content Credentials need too much time or memory to read, or crash the reader."""

    code = "unreadable_file"


class NotInstalledError(JobError):
    """This installation lacks an optional package. The message names it."""

    code = "not_installed"


class IdempotencyConflictError(JobError):
    """An `Idempotency-Key` was used before, for another request."""

    code = "idempotency_conflict"


class UnknownJobError(JobError):
    """No such job, or not the caller's."""

    code = "unknown_job"


class UnknownGroupError(UnknownJobError):
    """No such group of jobs, or not the caller's."""

    code = "unknown_group"


class NotReadyError(JobError):
    """The job has no result (yet). `state` is its current state; `eta_seconds` the estimated time until it ends."""

    code = "not_ready"

    def __init__(self, state: str, message: str, eta_seconds: float | None = None) -> None:
        super().__init__(message)
        self.state = state
        self.eta_seconds = eta_seconds


class FilteredResultError(NotReadyError):
    """The job has no result: the moderation hook rejected the video."""

    code = ContentFilteredError.code


class MissingFormatError(JobError):
    """The job was not submitted with this format. The message names the available ones."""

    code = "format_not_made"


class NoPreviewError(JobError):
    """The job has no preview: it has not started, or has ended. `state` is its current state."""

    code = "no_preview"

    def __init__(self, state: str) -> None:
        super().__init__(f"the job has no preview: it is {state}")
        self.state = state


class ExpiredError(JobError):
    """The result has expired and was deleted."""

    code = "expired"


class PinLimitError(JobError):
    """The owner has pinned as many jobs as allowed."""

    code = "pin_limit"


class UnauthorizedError(JobError):
    """The request has no API key, or an invalid one."""

    code = "unauthorized"


class InvalidLinkError(JobError):
    """A share link was not signed by this service, was changed, or belongs to a revoked key."""

    code = "invalid_link"


class ExpiredLinkError(InvalidLinkError):
    """A share link has expired."""

    code = "link_expired"


class ForbiddenError(JobError):
    """The request comes from a web page that is not allowed, or is for another host name."""

    code = "forbidden"


class MissingScopeError(JobError):
    """The request requires an API key with a scope that the caller's does not have."""

    code = "missing_scope"


class NotRetryableError(JobError):
    """The job cannot be retried: it did not fail, or its image is no longer stored."""

    code = "not_retryable"


class NotAllowedError(JobError):
    """The caller's key must not use the value of `parameter`, its model or profile."""

    code = "not_allowed"

    def __init__(self, parameter: str, message: str) -> None:
        super().__init__(message)
        self.parameter = parameter


class PausedError(JobError):
    """An operator has paused the intake of this model's jobs; nothing was stored."""

    code = "paused"


class LimitedError(JobError):
    """Rejected for now. `retry_after` is the number of seconds after which to retry."""

    code = "limited"

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class QueueFullError(LimitedError):
    """Too many jobs are queued, in total or of the caller; nothing was stored."""

    code = "queue_full"


class LateError(LimitedError):
    """The job would probably not end before its deadline; nothing was stored."""

    code = "deadline_unreachable"


class QuotaExceededError(LimitedError):
    """A quota of the caller's key is used up, and nothing was stored. The message names the quota and its renewal."""

    code = "quota_exceeded"


class RateLimitedError(LimitedError):
    """Too many requests."""

    code = "rate_limited"


class UnknownKeyError(JobError):
    """No such API key."""

    code = "unknown_key"


class ConfiguredSecretError(JobError):
    """The secret is a setting, which a command cannot change."""

    code = "configured_secret"


class BrokenInputError(JobError):
    """The stored image, or the video to be extended, is missing or cannot be read."""

    code = "broken_input"


class StaleAttemptError(JobError):
    """This attempt no longer holds the job: another attempt claimed it, or the job has ended."""

    code = "stale_attempt"


class UnavailableError(JobError):
    """The ledger or the artifact store cannot be reached right now; no data is known to be lost."""

    code = "unavailable"


class WriteRefusedError(UnavailableError):
    """Redis answers, but accepts no writes now (memory or disk full, a replica): nothing was changed."""


class RedisDeniedError(UnavailableError):
    """Redis rejects the database of `REDIS_URL`, or its user may not run a command: an operator must correct it."""


class ModerationUnavailableError(UnavailableError):
    """The moderation hook gives no verdict, and the policy for that is `closed`."""

    code = "moderation_unavailable"

    def __init__(self) -> None:
        super().__init__("the content could not be moderated right now; nothing was stored; retry in a few seconds")


class InvalidOutputError(JobError):
    """The model computed values that are not finite (NaN, infinity): the video would be black."""

    code = "invalid_output"

    def __init__(self, what: str) -> None:
        super().__init__(
            f"The model computed {what} that are not finite numbers, which would give a black video. Try another seed "
            "or size; if other jobs fail too, the model's weights are damaged or unfit for this device's precision."
        )
