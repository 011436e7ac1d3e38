"""Shows three frames of a finished video to the moderation hook, before any file of it is visible."""

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from PIL import Image

from svd_service.jobs.job import Job
from svd_service.moderation.moderation import Moderation
from svd_service.moderation.verdict import HookImage, Stage

if TYPE_CHECKING:
    from svd_service.video import Rendering

#: Pillow's own scale, 0 to 100.
_QUALITY: Final = 90


def moderate(
    rendering: "Rendering", job: Job, moderation: Moderation, retry: Callable[[Callable[[], None]], None]
) -> None:
    """Ask for the verdict, if results are moderated; `retry` repeats that while there is none.

    Raises:
        ContentFilteredError: the hook rejects the video.
        ModerationUnavailableError: there is still no verdict after all retries.
    """
    if moderation.sees_results:
        images = [HookImage.of(_jpeg(image), "image/jpeg") for image in rendering.samples]
        retry(lambda: moderation.check(Stage.VIDEO, images, job_id=job.id, owner=job.owner))


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()
