"""The OOM fallback: when a device runs out of memory, retry with less at a time, which is slower.

The fallbacks; only as many are used as needed, and only for the current video:

- decoding: half as many frames at once, down to one. Pixels change slightly, so it is recorded in the provenance.
- sampling: the two halves of the guidance one after the other; then the UNet's feed-forward layers one frame at a time
  (diffusers' forward chunking). The same arithmetic.
- both, on CUDA only: each part of the model is on the device while it is needed, else in the host's memory.

The memory plan (`memory_plan.py`) decides which of them a video begins with: on a small device, some are always used.

Only the failed part is repeated: a chunk of frames, or the sampling. After the memory guide of Hugging Face diffusers.
"""

import gc
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import torch
from diffusers import StableVideoDiffusionPipeline
from diffusers.models.unets.unet_spatio_temporal_condition import UNetSpatioTemporalConditionOutput

from svd_service.jobs.job import Phase
from svd_service.video.memory_plan import FAST, MemoryPlan
from svd_service.video.out_of_memory import one_out_of_memory_error

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class MemoryUse:
    """Memory use of one video: the plan it began with (`setting`), and the values in effect at its end.

    `attempts` are those that ran out of memory: the phase, and the values in effect then.
    """

    setting: str
    decode_chunk_size: int
    split_guidance: bool = False
    forward_chunking: bool = False
    model_offload: bool = False
    attempts: tuple[dict[str, Any], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The values as JSON has them."""
        return {**asdict(self), "attempts": list(self.attempts)}


class OOMFallback:
    """Runs the parts of a video's generation on `pipe`; retries a part that runs out of memory with the next fallback.

    `use` describes the current video, or the last one. Every video begins with `plan`.
    """

    def __init__(self, pipe: StableVideoDiffusionPipeline, place: torch.device, plan: MemoryPlan = FAST) -> None:
        self._pipe = pipe
        self._place = place
        self._plan = plan
        self._halves = _Halves(pipe.unet)
        self._offloaded = False
        self.use = self._usual(1)
        if plan.model_offload:
            self._offload()
        self._take(self.use)

    def begin(self, decode_chunk_size: int) -> None:
        """Begin a video with the memory plan again, if there is enough memory for it by now."""
        self.reset()
        self.use = replace(self._usual(decode_chunk_size), model_offload=self._offloaded)

    def reset(self) -> None:
        """Return to the memory plan; where the device has no room for it, `begin` retries."""
        self._take(self._usual(1))
        if not self._offloaded or self._plan.model_offload:
            return
        self._pipe.remove_all_hooks()
        try:
            with one_out_of_memory_error():
                self._pipe.to(self._place)
            self._offloaded = False
        except torch.OutOfMemoryError:
            logger.warning("the model as a whole does not fit onto the device; keeping it in the host's memory")
            self._pipe.enable_model_cpu_offload(device=self._place)

    def sample(self, sample: Callable[[], T], *, guided: bool) -> T:
        """Return `sample()`, with the first fallback that succeeds; `guided` videos have two halves to split.

        Raises:
            torch.OutOfMemoryError: none succeeds.
        """

        def use_less() -> bool:
            if guided and not self.use.split_guidance:
                self.use = replace(self.use, split_guidance=True)
            elif not self.use.forward_chunking:
                self.use = replace(self.use, forward_chunking=True)
            else:
                return self._offload()
            self._take(self.use)
            return True

        return self._retry(sample, use_less, {"phase": Phase.SAMPLING.value})

    def decode(self, decode: Callable[[int], T], frame: int, frames: int) -> T:
        """Return `decode(size)` for the chunk that begins at `frame`, of `frames` in total, with a size that fits.

        Raises:
            torch.OutOfMemoryError: no size fits.
        """

        def use_less() -> bool:
            size = min(self.use.decode_chunk_size, frames - frame)
            if size == 1:
                return self._offload()
            self.use = replace(self.use, decode_chunk_size=size // 2)
            return True

        where = {"phase": Phase.DECODING.value, "frame": frame}
        return self._retry(lambda: decode(self.use.decode_chunk_size), use_less, where)

    def _retry(self, act: Callable[[], T], use_less: Callable[[], bool], where: dict[str, Any]) -> T:
        while True:
            try:
                with one_out_of_memory_error():
                    return act()
            except torch.OutOfMemoryError as error:
                used = {**where, **asdict(replace(self.use, attempts=()))}
                del used["attempts"]
                logger.warning("out of memory with %s: %s", used, str(error).partition("\n")[0])
                self.use = replace(self.use, attempts=(*self.use.attempts, used))
                if not use_less():
                    raise
            # Not earlier: inside `except`, the error's traceback still holds tensors.
            gc.collect()
            if self._place.type == "cuda":
                torch.cuda.empty_cache()

    def _usual(self, decode_chunk_size: int) -> MemoryUse:
        plan = self._plan
        size = min(decode_chunk_size, plan.most_decoded or decode_chunk_size)
        return MemoryUse(plan.name, size, plan.split_guidance, plan.forward_chunking, plan.model_offload)

    def _take(self, use: MemoryUse) -> None:
        self._halves.active = use.split_guidance
        # What `enable_forward_chunking` does, which this UNet cannot undo.
        for module in self._pipe.unet.modules():
            if hasattr(module, "set_chunk_feed_forward"):
                module.set_chunk_feed_forward(chunk_size=1 if use.forward_chunking else None, dim=0)

    def _offload(self) -> bool:
        if self._offloaded or self._place.type != "cuda":
            return False
        self._pipe.enable_model_cpu_offload(device=self._place)
        self._offloaded = True
        self.use = replace(self.use, model_offload=True)
        return True


class _Halves:
    """Runs a UNet on the halves of the guidance one after the other, while `active`.

    It replaces the UNet's `forward` permanently, so that accelerate's hooks can be added and removed around it.
    """

    def __init__(self, unet: Any) -> None:
        self.active = False
        whole = unet.forward

        def forward(
            sample: torch.Tensor,
            timestep: Any,
            encoder_hidden_states: torch.Tensor,
            added_time_ids: torch.Tensor,
            return_dict: bool = True,
        ) -> Any:
            if not self.active or len(sample) == 1:
                return whole(sample, timestep, encoder_hidden_states, added_time_ids, return_dict=return_dict)
            parts = zip(sample.split(1), encoder_hidden_states.split(1), added_time_ids.split(1), strict=True)
            output = torch.cat(
                [whole(one, timestep, image, times, return_dict=False)[0] for one, image, times in parts]
            )
            return UNetSpatioTemporalConditionOutput(sample=output) if return_dict else (output,)

        unet.forward = forward
