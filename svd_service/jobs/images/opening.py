"""Opens an upload in a decoder process, from which the service takes only sizes and pixels.

The package's docstring lists what an upload meets there.
"""

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from PIL import Image

from svd_service.config import Settings
from svd_service.errors import RejectedError, UnavailableError
from svd_service.jobs.images.pool import LARGE, DecoderEndedError, DecoderProcess, Pool, pool
from svd_service.marking.ingredients import SourceCredentials
from svd_service.parameters import Fit

logger = logging.getLogger(__name__)


class OpenImage:
    """An image whose header is valid; its pixels are decoded when it is fitted.

    `size` is (width, height) in pixels, upright.
    """

    def __init__(self, decoders: Pool, decoder: DecoderProcess, opening: dict[str, Any]) -> None:
        self._pool, self._decoder, self._opening = decoders, decoder, opening
        self.size = self._open()

    def fitted(self, width: int, height: int, fit: Fit) -> Image.Image:
        """The image upright, in sRGB, exactly `width` x `height` pixels, without any metadata.

        Cropping takes the center; padding shows all of the image on black. What is transparent becomes white. The
        first call settles how finely a JPEG is decoded, so request the largest size first.

        Raises:
            BrokenImageError: the data are truncated or damaged.
            ImageTooLargeError: decoding it needs too much memory or time.
            UnavailableError: the decoder was stopped, or the machine is overloaded.
        """
        wanted = {"do": "fit", "width": width, "height": height, "pad": fit is Fit.PAD}
        if self.size[0] * self.size[1] <= LARGE:
            self._answer(wanted)
        else:
            with self._pool.large:
                self._answer(wanted)
        pixels = self._decoder.written(width * height * 3)
        return Image.frombytes("RGB", (width, height), pixels)

    def credentials(self) -> SourceCredentials | None:
        """The image's Content Credentials, to be signed with the video; for use after `fitted`.

        `None` if it has none, or if they are damaged or too costly to read: that is no reason to reject its pixels.
        """
        try:
            answer = self._decoder.request(do="credentials")
        except (DecoderEndedError, RejectedError, UnavailableError) as error:
            logger.warning("the image's Content Credentials are not kept: %s", error)
            return None
        size = int(answer["bytes"])
        return SourceCredentials(self._decoder.written(size), str(answer["manifest_id"])) if size else None

    def _open(self) -> tuple[int, int]:
        width, height = self._answer(self._opening)["size"]
        return int(width), int(height)

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer; if the decoder ends without a limit of its own, that of another one."""
        for last in (False, True):
            try:
                return self._decoder.request(**request)
            except DecoderEndedError as error:
                if last or error.exceeded_time:
                    raise error.rejection() from error
                if request is not self._opening:
                    self._reopen(error)
        raise AssertionError("unreachable")

    def _reopen(self, ended: DecoderEndedError) -> None:
        try:
            self._decoder.request(**self._opening)
        except DecoderEndedError:
            raise ended.rejection() from ended


@contextmanager
def open_image(data: bytes | BinaryIO, settings: Settings) -> Iterator[OpenImage]:
    """The image in `data`, for as long as the block lasts.

    Raises:
        NotAnImageError: the bytes are not an image of a supported format.
        BrokenImageError: an image, but damaged, truncated, or of so rare a kind that it cannot be read.
        AnimatedImageError: it has several frames or pages; of an MPO file the first image is taken.
        ImageTooLargeError: more bytes or pixels than `settings` allow, or it needs too much memory or time.
        UnavailableError: all decoders are busy.
    """
    decoders = _pool_of(settings)
    with decoders.decoder() as decoder:
        size = decoder.fill(io.BytesIO(data) if isinstance(data, bytes) else data, settings.max_upload_bytes)
        yield OpenImage(decoders, decoder, {"do": "open", "bytes": size, "max_pixels": settings.max_pixels})


def start(settings: Settings) -> None:
    """Start a decoder before the first upload comes."""
    _pool_of(settings).start()


def encode_png(image: Image.Image) -> bytes:
    """`image` as a PNG. Compressed fast: at 1024x576, level 6 takes four times as long to save 8 % of the bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _pool_of(settings: Settings) -> Pool:
    return pool(settings.image_decoders)
