"""Previews of a video while it is sampled: one predicted frame, converted to colors without the VAE.

The channels of a latent are nearly linear in its colors. The job's image is available both as pixels and as the latent
that the model is conditioned on, so each job can fit the map by least squares: no constants, and every model works.
"""

import io
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    import torch

    from svd_service.video.pipeline import Pipeline

#: Makes a preview, as WebP. It holds only arrays on the host, so that another thread may call it.
MakePreview = Callable[[], bytes]

#: Minimum seconds between two previews except the last: each waits for the device, which may have steps in its queue.
INTERVAL: Final = 1.0

#: Longest side in pixels, and Pillow's quality.
SIDE: Final = 256
QUALITY: Final = 80

Array = NDArray[np.float32]


class PreviewSampler:
    """Offers a preview after a step of `pipe`, at most one each `INTERVAL` and one after the last; as a context.

    `image` is the job's image, `frame` the index of the frame to show. The pipeline's results do not change.
    """

    def __init__(self, pipe: "Pipeline", image: Image.Image, frame: int, offer: Callable[[MakePreview], None]) -> None:
        self._pipe = pipe
        self._image = image
        self._frame = frame
        self._offer = offer
        self._next = 0.0
        self._conditioning: torch.Tensor | None = None
        self._predicted: torch.Tensor | None = None
        self._colors: Colors | None = None

    def __enter__(self) -> Self:
        self._pipe.on_conditioning = self._note_conditioning
        step = self._pipe.scheduler.step

        def noted(*arguments: Any, **more: Any) -> Any:
            output = step(*arguments, **more)
            self._predicted = getattr(output, "pred_original_sample", None)
            return output

        # On this object, hiding the class's method, which is restored by deleting the attribute.
        self._pipe.scheduler.step = noted
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del self._pipe.scheduler.step
        self._pipe.on_conditioning = None
        self._conditioning = self._predicted = None

    def step_ended(self, *, last: bool) -> None:
        """Offer a preview, if one is due."""
        predicted, self._predicted = self._predicted, None
        now = time.monotonic()
        if predicted is None or self._conditioning is None or (now < self._next and not last):
            return
        self._next = now + INTERVAL
        if self._colors is None:
            self._colors = Colors(_on_host(self._conditioning), self._image)
        # Only this one frame leaves the device. Predictions are scaled, the conditioning is not.
        latent = _on_host(predicted[0, self._frame]) / np.float32(self._pipe.vae.config.scaling_factor)
        colors = self._colors
        self._offer(lambda: colors.preview(latent))

    def _note_conditioning(self, latents: "torch.Tensor") -> None:
        self._conditioning = latents[-1]  # with guidance, the unconditional one comes first


class Colors:
    """The linear map from a latent's channels to colors that brings `latent` closest to `image`.

    `latent` has shape (channels, height, width). The map is fitted when it is first used.
    """

    def __init__(self, latent: Array, image: Image.Image) -> None:
        self._latent = latent
        self._image = image
        self._map: Array | None = None

    def preview(self, latent: Array) -> bytes:
        """Encode `latent`, of the same shape, as a WebP of at most `SIDE` pixels a side."""
        height, width = latent.shape[1:]
        colors = np.clip(self.of(latent), 0, 1)
        small = Image.fromarray((colors * 255).round().astype(np.uint8))
        scale = min(8.0, SIDE / max(width, height))
        large = small.resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC)
        buffer = io.BytesIO()
        large.save(buffer, "WEBP", quality=QUALITY)
        return buffer.getvalue()

    def of(self, latent: Array) -> Array:
        """The colors of `latent`, as (height, width, 3); 0 to 1, not clipped."""
        if self._map is None:
            self._map = self._fitted()
        colors: Array = (_with_constant(latent) @ self._map).reshape(*latent.shape[1:], 3)
        return colors

    def _fitted(self) -> Array:
        height, width = self._latent.shape[1:]
        small = self._image.resize((width, height), Image.Resampling.BOX)
        wanted = np.asarray(small, dtype=np.float32).reshape(-1, 3) / 255
        fitted: Array = np.linalg.lstsq(_with_constant(self._latent), wanted, rcond=None)[0].astype(np.float32)
        return fitted


def _with_constant(latent: Array) -> Array:
    """One row per position: its channels, and 1."""
    rows = latent.reshape(len(latent), -1).T
    return np.concatenate([rows, np.ones((len(rows), 1), np.float32)], axis=1)


def _on_host(tensor: "torch.Tensor") -> Array:
    array: Array = tensor.detach().float().cpu().numpy()
    return array
