"""Picture → frames, with a pipeline that is on its device: one video after another."""

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
from svd_service.video.compilation import Compiled
from svd_service.video.memory_plan import FAST, MemoryPlan
from svd_service.video.oom_fallback import OOMFallback
from svd_service.video.optimizations import Optimization, apply
from svd_service.video.pipeline import Pipeline
from svd_service.video.preview import MakePreview, PreviewSampler
from svd_service.video.schedules import sigmas
from svd_service.video.writer import Frame

logger = logging.getLogger(__name__)

OnProgress = Callable[[Progress], None]

CPU: Final = torch.device("cpu")


class Generator:
    """A pipeline on a device. It makes one video at a time: what a video needs from step to step, the pipeline holds.

    `device` names the hardware; `origin` is what of a video's provenance is the same for every video made here.
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
        self.optimizations = frozenset(optimizations)
        apply(pipe, self.optimizations)
        self._compiled = [each for each in (pipe.unet.forward, pipe.vae.decoder.forward) if isinstance(each, Compiled)]
        self._defaults = model.defaults
        self._pipe = pipe
        self._profiles = model.profiles
        self._place: torch.device = place or pipe.device
        self.plan = plan
        self._precision: torch.dtype = pipe.unet.dtype
        self._vae_precision: torch.dtype = pipe.vae.dtype
        self._ladder = OOMFallback(pipe, self._place, plan)
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
        """Make a video of nothing, so that what is to be compiled is, for the model's own size. Else it does nothing.

        Without a compiler, or where it fails, the generator goes on without that optimization.

        Raises:
            torch.AcceleratorError: the device is lost to this process, as in `generate`.
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
                picture = Image.new("RGB", (parameters.width, parameters.height), "grey")
                with closing(self.generate(picture, parameters, lambda _: None)) as frames:
                    next(frames)
        except torch.AcceleratorError:
            raise
        except Exception as error:  # noqa: BLE001 - compilers fail in plans of their own
            reason = str(error).strip().partition("\n")[0]
            logger.warning("going on without compiling (it needs a C++ compiler): %s: %s", type(error).__name__, reason)
            self.optimizations -= {Optimization.COMPILE}
            self.origin["optimizations"] = sorted(self.optimizations)
            return
        logger.info("warmed up in %.1f s", time.monotonic() - began)

    @property
    def memory(self) -> dict[str, Any]:
        """How the present video, or the last one, used memory; as JSON knows it (see `memory.Thrift`)."""
        return self._ladder.thrift.to_dict()

    def device_memory(self) -> DeviceMemory | None:
        """How the device's memory is used now, whoever uses it; `None` of a CPU, and of a device that fails."""
        if self._place.type != "cuda":
            return None
        try:
            free, size = torch.cuda.mem_get_info(self._place)
            return DeviceMemory(size, size - free, torch.cuda.memory_reserved(self._place))
        except RuntimeError:  # the attempt in hand hears of it, too, and ends this process
            return None

    def generate(
        self,
        picture: Image.Image,
        parameters: Parameters,
        on_progress: OnProgress,
        on_preview: Callable[[MakePreview], None] | None = None,
    ) -> abc.Generator[Frame, None, None]:
        """The video's frames one by one: RGB, uint8, shape (height, width, 3); those of the stock pipeline.

        `picture` is RGB and has the size asked for. No more than `decode_chunk_size` frames are made ahead, unless the
        optimization for that is off. `on_preview` is called from time to time during sampling with a function that
        makes a preview of the middle frame; the frames are the same without it. When `on_progress` raises, or the
        iterator is closed, the work ends there and the generator can be used again.

        Raises:
            ValueError: the picture has another mode or size.
            InvalidOutputError: the model computed NaN or infinity.
            torch.OutOfMemoryError: the device's memory does not suffice, whatever was tried (see `memory`); the
                generator can be used again.
            torch.AcceleratorError: the device is lost to this process, which can do no more with it.
        """
        size = (parameters.width, parameters.height)
        if picture.mode != "RGB" or picture.size != size:
            raise ValueError(f"expected an RGB picture of {size}, got {picture.mode} of {picture.size}")
        try:
            on_progress(Progress(Phase.PREPARING))
            self._ladder.begin(parameters.decode_chunk_size)
            latents = self._ladder.sample(
                lambda: self._sample(picture, parameters, on_progress, on_preview),
                guided=self._guidance(parameters)[1] > 1,
            )
            _require_finite(latents, "latents")
            frames = self._decode(latents, on_progress)
            yield from frames if Optimization.OVERLAPPED_ENCODING in self.optimizations else list(frames)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            # Triton and cuDNN tell of a lost device in words of their own. CUDA itself says so whenever it is asked.
            self._synchronise()
            raise
        finally:
            self._restore()

    def _sample(
        self,
        picture: Image.Image,
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

        middle = parameters.num_frames // 2  # as the thumbnail
        previews = PreviewSampler(self._pipe, picture, middle, on_preview) if on_preview is not None else None
        self._pipe.on_begin = begin
        least, greatest = self._guidance(parameters)
        with previews or nullcontext():
            output = self._pipe(
                picture,
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
                # The CPU's, so that a seed means the same noise on every device of one precision.
                generator=torch.Generator(CPU).manual_seed(parameters.seed),
                callback_on_step_end=step_ended,
                output_type="latent",
            )
        latents: torch.Tensor = output.frames[0]
        return latents

    def _guidance(self, parameters: Parameters) -> tuple[float, float]:
        # The pipeline asks twice whether the greatest scale exceeds 1, before and after it is rounded to the model's
        # precision, and breaks when the answers differ.
        greatest = torch.tensor(parameters.max_guidance_scale).to(self._precision).item()
        return (parameters.min_guidance_scale, parameters.max_guidance_scale) if greatest > 1 else (1.0, 1.0)

    def _decode(self, latents: torch.Tensor, on_progress: OnProgress) -> Iterator[Frame]:
        self._synchronise()
        on_progress(Progress(Phase.DECODING, 0, len(latents)))
        done = 0
        while done < len(latents):
            frames = self._ladder.decode(partial(self._decode_chunk, latents[done:]), done, len(latents))
            done += len(frames)
            on_progress(Progress(Phase.DECODING, done, len(latents)))
            yield from frames

    @torch.inference_mode()
    def _decode_chunk(self, latents: torch.Tensor, size: int) -> Frame:
        """The first `size` frames as (frames, height, width, 3); what `decode_latents` and the video processor do."""
        vae = self._pipe.vae
        latents = 1 / vae.config.scaling_factor * latents[:size]
        pixels = vae.decode(latents, num_frames=len(latents)).sample.float()
        _require_finite(pixels, "pixels")
        pixels = (pixels * 0.5 + 0.5).clamp(0, 1)
        if Optimization.DEVICE_UINT8 in self.optimizations:
            pixels = pixels.mul(255).round().to(torch.uint8)
        frames = pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy()
        rounded: Frame = frames if frames.dtype == np.uint8 else (frames * 255).round().astype(np.uint8)
        return rounded

    def _synchronise(self) -> None:
        """Let the device catch up, so that the time that a phase takes is counted as that phase's."""
        if self._place.type == "cuda":
            torch.cuda.synchronize(self._place)

    def _restore(self) -> None:
        self._restore_vae()
        self._pipe.on_begin = None
        self._pipe.maybe_free_model_hooks()
        self._ladder.reset()

    def _restore_vae(self) -> None:
        # The pipeline encodes the picture in single precision; if it fails there, the VAE stays so.
        if self._pipe.vae.dtype != self._vae_precision:
            self._pipe.vae.to(dtype=self._vae_precision)


class _Gate:
    """Keeps the host at most one step ahead of the device, so that progress is true and a cancel is soon heard.

    Nothing in a step makes the host wait for a CUDA device. Waiting for the step before costs no time, as long as the
    next is in the device's queue.
    """

    def __init__(self, place: torch.device) -> None:
        self._place = place
        self._last: torch.cuda.Event | None = None

    def behind(self) -> int:
        """A step is in the queue: wait for the one before it; returns how many steps may still be under plan."""
        if self._place.type != "cuda":
            return 0
        before, self._last = self._last, torch.cuda.Event()
        self._last.record(torch.cuda.current_stream(self._place))
        if before is not None:
            before.synchronize()
        return 1


def _require_finite(values: torch.Tensor, what: str) -> None:
    """Reject NaN and infinity: as bytes they are black or white, and look like a video. Reduced on the device."""
    if not torch.isfinite(values).all():
        raise InvalidOutputError(what)


def _public(source: str) -> str:
    """A hub id as it is, and of a folder its name alone: where it lies is nobody's business who gets a video."""
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
