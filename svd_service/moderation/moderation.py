"""Asks the hook and applies its verdict, or the policy for errors."""

import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from svd_service.config import Settings
from svd_service.errors import ContentFilteredError, ModerationUnavailableError, UnavailableError
from svd_service.moderation.verdict import HookError, HookImage, HookRequest, Stage, parse
from svd_service.webhooks.signing import WebhookSecrets

if TYPE_CHECKING:
    from svd_service.ledger.stats import Stats
    from svd_service.moderation.hooks import Hook

logger = logging.getLogger(__name__)


class Moderation:
    """Moderates the images of submissions, and with `SVD_MODERATION_RESULTS` also the results. Thread-safe.

    Without a hook everything is allowed.
    """

    def __init__(self, hook: "Hook | None", stats: "Stats", settings: Settings) -> None:
        self._hook = hook
        self._stats = stats
        self._fails_open = settings.moderation_on_error == "open"
        self.sees_results = hook is not None and settings.moderation_results

    def check(self, stage: Stage, images: Sequence[HookImage], *, job_id: str, owner: str) -> None:
        """Ask the hook for its verdict on the `images` of a job.

        Raises:
            ContentFilteredError: the hook rejects them.
            ModerationUnavailableError: the hook gives no verdict, and the policy is `closed`.
        """
        if self._hook is None:
            return
        request = HookRequest(f"moderation.{stage}", job_id, owner, images)
        try:
            reason = parse(self._hook(request))
        except (HookError, UnavailableError) as error:
            self._count(stage, "error")
            logger.warning("job %s: the moderation hook gives no verdict on the %s: %s", job_id, stage, error)
            if self._fails_open:
                return
            raise ModerationUnavailableError from None
        self._count(stage, "allow" if reason is None else "reject")
        if reason is not None:
            logger.info("job %s: the moderation hook rejects the %s: %s", job_id, stage, reason)
            raise ContentFilteredError(f"rejected by moderation: {reason}")

    def _count(self, stage: Stage, verdict: str) -> None:
        with suppress(UnavailableError):
            self._stats.count_verdict(stage, verdict)


def open_moderation(settings: Settings, secrets: WebhookSecrets, stats: "Stats") -> Moderation:
    """The moderation that the settings select."""
    hook: Hook | None = None
    if settings.moderation_url is None and not settings.moderation_command:
        return Moderation(None, stats, settings)
    # Imported here so that the web process starts fast.
    from svd_service.moderation.hooks import CommandHook, HTTPHook  # noqa: PLC0415

    if settings.moderation_url is not None:
        hook = HTTPHook(settings.moderation_url, secrets, settings.moderation_timeout)
    else:
        hook = CommandHook(settings.moderation_command, settings.moderation_timeout)
    return Moderation(hook, stats, settings)
