"""Diffusers' own pipeline, with the few hooks that we need."""

from collections.abc import Callable
from typing import Any

import torch
from diffusers import StableVideoDiffusionPipeline
from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import _resize_with_antialiasing
from PIL import Image

__all__ = ["Pipeline"]


class Pipeline(StableVideoDiffusionPipeline):
    """The stock pipeline, which also reports when it has prepared everything and begins with the steps.

    `cached_guidance` and `device_resize` are optimizations (see `optimizations`).
    """

    on_begin: Callable[[], None] | None = None
    #: Called with the latents that the model is conditioned on, of shape (1 or 2, channels, height / 8, width / 8).
    on_conditioning: Callable[[torch.Tensor], None] | None = None
    cached_guidance = False
    device_resize = False
    _guided = False

    def progress_bar(self, iterable: Any = None, total: int | None = None) -> Any:
        """The stock progress bar. It is created where the steps begin, for which there is no callback."""
        if self.on_begin is not None:
            self.on_begin()
        return super().progress_bar(iterable, total)

    def _encode_vae_image(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        latents: torch.Tensor = super()._encode_vae_image(*args, **kwargs)
        if self.on_conditioning is not None:
            self.on_conditioning(latents)
        return latents

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether each step runs the model with and without the image.

        The stock pipeline evaluates this from a number first and then, twice per step, from a tensor on the device, for
        which the host must wait. The result is the same, since the generator makes both round alike.
        """
        if not (self.cached_guidance and isinstance(self._guidance_scale, torch.Tensor)):
            self._guided = bool(super().do_classifier_free_guidance)
        return self._guided

    def _encode_image(self, image: Any, device: Any, *args: Any) -> torch.Tensor:
        if self.device_resize and isinstance(image, Image.Image):
            image = self._resized(image, device)
        embeddings: torch.Tensor = super()._encode_image(image, device, *args)
        return embeddings

    def _resized(self, image: Image.Image, device: Any) -> torch.Tensor:
        """Resize the image for CLIP's processor on the device, as the stock pipeline does on the CPU."""
        pixels = self.video_processor.numpy_to_pt(self.video_processor.pil_to_numpy(image)).to(device)
        resized: torch.Tensor = _resize_with_antialiasing(pixels * 2.0 - 1.0, (224, 224))
        return ((resized + 1.0) / 2.0).cpu()
