"""From an image to frames, with a pipeline on its device, one video at a time."""

import logging
import platform
import time
from collections import abc
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, closing, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image

from svd_service.errors import InvalidOutputError
from svd_service.jobs.job import Phase, Progress
from svd_service.jobs.model import Model
from svd_service.jobs.parameters import Parameters
from svd_service.ledger.workers import DeviceMemory
from svd_service.parameters import Fit
from svd_service.video.attention import split_rows
from svd_service.video.compilation import Compiled
from svd_service.video.memory_plan import FAST, MemoryPlan
from svd_service.video.oom_fallback import OOMFallback
from svd_service.video.optimizations import COMPILING, Optimization, apply, attention_kernels, usable
from svd_service.video.pipeline import Pipeline
from svd_service.video.preview import MakePreview, PreviewSampler
from svd_service.video.schedules import sigmas
from svd_service.video.writer import Frame

logger = logging.getLogger(__name__)

OnProgress = Callable[[Progress], None]

CPU: Final = torch.device("cpu")


class Generator:
    """A pipeline on a device. It makes one video at a time, since the pipeline holds a video's state between steps.

    `device` names the hardware; `origin` is the part of the provenance that all videos made here share.
    `optimizations` are applied once, at creation; without any it is the stock pipeline. `place` is the device to work
    on if `pipe` is not there yet (as with `plan.model_offload`); `plan` is the memory plan.
    """

    def __init__(
        self,
        pipe: Pipeline,
        model: Model,
        revision: str | None,
        optimizations: Collection[Optimization] = (),
        plan: MemoryPlan = FAST,
        place: torch.device | None = None,
    ) -> None:
        self.optimizations = usable(optimizations)
        apply(pipe, self.optimizations)
        split_rows(pipe.unet)
        self._compiled = [each for each in (pipe.unet.forward, pipe.vae.decoder.forward) if isinstance(each, Compiled)]
        self._defaults = model.defaults
        self._pipe = pipe
        self._profiles = model.profiles
        self._place: torch.device = place or pipe.device
        self.plan = plan
        self._precision: torch.dtype = pipe.unet.dtype
        self._vae_precision: torch.dtype = pipe.vae.dtype
        self._fallback = OOMFallback(pipe, self._place, plan)
        self.device = _name(self._place)
        self.origin: dict[str, Any] = {
            "model": {
                "name": model.name,
                "source": _public(model.source),
                "revision": revision,
                "trained": model.trained,
            },
            "device": self.device,
            "precision": str(self._precision).removeprefix("torch."),
            "optimizations": sorted(self.optimizations),
        }

    def warm_up(self) -> None:
        """Compile by making a video of a grey image at the model's default size; without compilation, do nothing.

        Without a compiler, or if it fails, the generator continues without that optimization.

        Raises:
            torch.AcceleratorError: this process can no longer use the device, as in `generate`.
        """
        if not self._compiled:
            return
        values = {**asdict(self._defaults), "num_inference_steps": 1, "seed": 0, "fit": Fit.CROP}
        parameters = Parameters.from_dict(values)
        began = time.monotonic()
        logger.info("warming up: compiling for %dx%d", parameters.width, parameters.height)
        try:
            with ExitStack() as learning:
                for each in self._compiled:
                    learning.enter_context(each.learning())
                image = Image.new("RGB", (parameters.width, parameters.height), "grey")
                with closing(self.generate(image, parameters, lambda _: None)) as frames:
                    next(frames)
        except torch.AcceleratorError:
            raise
        except Exception as error:  # noqa: BLE001 - compilers raise many kinds of errors
            reason = str(error).strip().partition("\n")[0]
            logger.warning("compilation disabled (it needs a C++ compiler): %s: %s", type(error).__name__, reason)
            self.optimizations -= COMPILING
            self.origin["optimizations"] = sorted(self.optimizations)
            return
        logger.info("warmed up in %.1f s", time.monotonic() - began)

    @property
    def memory(self) -> dict[str, Any]:
        """How the current or the last video used memory, as JSON values (see `oom_fallback.MemoryUse`)."""
        return self._fallback.use.to_dict()

    def device_memory(self) -> DeviceMemory | None:
        """Current use of the device's memory by all processes; `None` for a CPU and for a failing device."""
        if self._place.type != "cuda":
            return None
        try:
            free, size = torch.cuda.mem_get_info(self._place)
            return DeviceMemory(size, size - free, torch.cuda.memory_reserved(self._place))
        except RuntimeError:  # the running attempt gets the error as well, and ends this process
            return None

    def generate(
        self,
        image: Image.Image,
        parameters: Parameters,
        on_progress: OnProgress,
        on_preview: Callable[[MakePreview], None] | None = None,
    ) -> abc.Generator[Frame, None, None]:
        """Generate a video's frames one by one: RGB, uint8, shape (height, width, 3); those of the stock pipeline.

        `image` is RGB and has the requested size. At most `decode_chunk_size` frames are decoded ahead, unless the
        optimization for that is off. `on_preview` is called from time to time during sampling with a function that
        makes a preview of the middle frame; the frames are the same without it. If `on_progress` raises or the
        iterator is closed, generation stops and the generator can be used again.

        Raises:
            ValueError: the image has another mode or size.
            InvalidOutputError: the model computed NaN or infinity.
            torch.OutOfMemoryError: the device's memory is not sufficient even with every OOM fallback (see
                `oom_fallback`); the generator can be used again.
            torch.AcceleratorError: this process can no longer use the device.
        """
        size = (parameters.width, parameters.height)
        if image.mode != "RGB" or image.size != size:
            raise ValueError(f"expected an RGB image of {size}, got {image.mode} of {image.size}")
        try:
            on_progress(Progress(Phase.PREPARING))
            self._fallback.begin(parameters.decode_chunk_size)
            latents = self._fallback.sample(
                lambda: self._sample(image, parameters, on_progress, on_preview),
                guided=self._guidance(parameters)[1] > 1,
            )
            _require_finite(latents, "latents")
            frames = self._decode(latents, on_progress)
            yield from frames if Optimization.OVERLAPPED_ENCODING in self.optimizations else list(frames)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            # Triton and cuDNN raise errors of their own for a lost device. CUDA raises its own on any call.
            self._synchronise()
            raise
        finally:
            self._restore()

    def _sample(
        self,
        image: Image.Image,
        parameters: Parameters,
        on_progress: OnProgress,
        on_preview: Callable[[MakePreview], None] | None = None,
    ) -> torch.Tensor:
        """Latents of shape (frames, channels, height / 8, width / 8)."""
        steps = parameters.num_inference_steps
        self._restore_vae()

        def begin() -> None:
            self._synchronise()
            on_progress(Progress(Phase.SAMPLING, 0, steps))

        gate = _Gate(self._place)

        def step_ended(_: Any, step: int, __: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            on_progress(Progress(Phase.SAMPLING, step + 1 - gate.behind(), steps))
            if previews is not None:
                previews.step_ended(last=step + 1 == steps)
            return tensors

        middle = parameters.num_frames // 2  # like the thumbnail
        previews = PreviewSampler(self._pipe, image, middle, on_preview) if on_preview is not None else None
        self._pipe.on_begin = begin
        least, greatest = self._guidance(parameters)
        with previews or nullcontext(), attention_kernels(self.optimizations):
            output = self._pipe(
                image,
                width=parameters.width,
                height=parameters.height,
                num_frames=parameters.num_frames,
                num_inference_steps=steps,
                sigmas=sigmas(self._profiles[parameters.profile], steps),
                min_guidance_scale=least,
                max_guidance_scale=greatest,
                fps=parameters.fps,
                motion_bucket_id=parameters.motion_bucket_id,
                noise_aug_strength=parameters.noise_aug_strength,
                # The CPU's generator, so that a seed gives the same noise on every device of one precision.
                generator=torch.Generator(CPU).manual_seed(parameters.seed),
                callback_on_step_end=step_ended,
                output_type="latent",
            )
        latents: torch.Tensor = output.frames[0]
        return latents

    def _guidance(self, parameters: Parameters) -> tuple[float, float]:
        # The pipeline compares the maximum scale with 1 twice, before and after rounding it to the model's precision,
        # and fails if the results differ.
        greatest = torch.tensor(parameters.max_guidance_scale).to(self._precision).item()
        return (parameters.min_guidance_scale, parameters.max_guidance_scale) if greatest > 1 else (1.0, 1.0)

    def _decode(self, latents: torch.Tensor, on_progress: OnProgress) -> Iterator[Frame]:
        self._synchronise()
        on_progress(Progress(Phase.DECODING, 0, len(latents)))
        done = 0
        while done < len(latents):
            frames = self._fallback.decode(partial(self._decode_chunk, latents[done:]), done, len(latents))
            done += len(frames)
            on_progress(Progress(Phase.DECODING, done, len(latents)))
            yield from frames

    @torch.inference_mode()
    def _decode_chunk(self, latents: torch.Tensor, size: int) -> Frame:
        """Decode `size` frames to (frames, height, width, 3), as `decode_latents` and the video processor do."""
        vae = self._pipe.vae
        latents = 1 / vae.config.scaling_factor * latents[:size]
        with attention_kernels(self.optimizations):
            pixels = vae.decode(latents, num_frames=len(latents)).sample.float()
        _require_finite(pixels, "pixels")
        pixels = (pixels * 0.5 + 0.5).clamp(0, 1)
        if Optimization.DEVICE_UINT8 in self.optimizations:
            pixels = pixels.mul(255).round().to(torch.uint8)
        frames = pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy()
        rounded: Frame = frames if frames.dtype == np.uint8 else (frames * 255).round().astype(np.uint8)
        return rounded

    def _synchronise(self) -> None:
        """Wait for the device, so that each phase's time is attributed to it."""
        if self._place.type == "cuda":
            torch.cuda.synchronize(self._place)

    def _restore(self) -> None:
        self._restore_vae()
        self._pipe.on_begin = None
        self._pipe.maybe_free_model_hooks()
        self._fallback.reset()

    def _restore_vae(self) -> None:
        # The pipeline encodes the image in single precision; if it fails there, the VAE keeps that precision.
        if self._pipe.vae.dtype != self._vae_precision:
            self._pipe.vae.to(dtype=self._vae_precision)


class _Gate:
    """Keeps the host at most one step ahead of the device, so that progress is accurate and cancelling is prompt.

    Nothing else in a step makes the host wait for a CUDA device. Waiting for the previous step costs no time as long as
    the next one is in the device's queue.
    """

    def __init__(self, place: torch.device) -> None:
        self._place = place
        self._last: torch.cuda.Event | None = None

    def behind(self) -> int:
        """After a step is queued, wait for the previous one; return how many steps may still be running."""
        if self._place.type != "cuda":
            return 0
        before, self._last = self._last, torch.cuda.Event()
        self._last.record(torch.cuda.current_stream(self._place))
        if before is not None:
            before.synchronize()
        return 1


def _require_finite(values: torch.Tensor, what: str) -> None:
    """Reject NaN and infinity, which would become black or white bytes of a valid video. Reduced on the device."""
    if not torch.isfinite(values).all():
        raise InvalidOutputError(what)


def _public(source: str) -> str:
    """A hub id unchanged, or only the name of a folder: a video must not disclose the host's paths."""
    return Path(source).name if Path(source).expanduser().is_dir() else source


def _name(place: torch.device) -> str:
    if place.type == "cuda":
        return torch.cuda.get_device_name(place)
    return f"cpu ({_processor()})"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(names), platform.processor() or platform.machine())
