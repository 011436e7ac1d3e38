"""What is tried when a device's memory does not suffice for a video: less at a time, and slower.

The measures; only as many are taken as needed, and only for the current video:

- decoding: half as many frames at once, down to one. It changes the pixels a little, so the video's provenance tells.
- sampling: the two halves of the guidance one after the other; then the UNet's feed-forward layers one frame at a time
  (diffusers' forward chunking). The same arithmetic.
- both, on CUDA only: each part of the model is on the device while it is needed, else in the host's memory.

The memory plan (`memory_plan.py`) decides where it begins: on a small device some measures are taken from the start.

Only what failed is repeated: a chunk of frames, or the sampling. After Hugging Face's guide to memory for diffusers.
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

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class Thrift:
    """How memory was used for one video: what it began with (`setting`), and what was in effect at its end.

    `attempts` are those that ran out of it: the phase, and what was used then.
    """

    setting: str
    decode_chunk_size: int
    split_guidance: bool = False
    forward_chunking: bool = False
    model_offload: bool = False
    attempts: tuple[dict[str, Any], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON knows it."""
        return {**asdict(self), "attempts": list(self.attempts)}


class OOMFallback:
    """Runs the parts of a video's generation on `pipe`; a part that runs out of memory is repeated with the next
    measure.

    `thrift` describes the current video, or the last one. Every video begins with `plan`.
    """

    def __init__(self, pipe: StableVideoDiffusionPipeline, place: torch.device, plan: MemoryPlan = FAST) -> None:
        self._pipe = pipe
        self._place = place
        self._plan = plan
        self._halves = _Halves(pipe.unet)
        self._offloaded = False
        self.thrift = self._usual(1)
        if plan.model_offload:
            self._offload()
        self._take(self.thrift)

    def begin(self, decode_chunk_size: int) -> None:
        """A video begins: everything is as fast again as it can be, if by now there is memory for it."""
        self.reset()
        self.thrift = replace(self._usual(decode_chunk_size), model_offload=self._offloaded)

    def reset(self) -> None:
        """Back to the plan in which videos begin; where the device has no room for it, `begin` tries again."""
        self._take(self._usual(1))
        if not self._offloaded or self._plan.model_offload:
            return
        self._pipe.remove_all_hooks()
        try:
            self._pipe.to(self._place)
            self._offloaded = False
        except torch.OutOfMemoryError:
            logger.warning("the model does not fit onto the device as a whole; it stays in the host's memory")
            self._pipe.enable_model_cpu_offload(device=self._place)

    def sample(self, sample: Callable[[], T], *, guided: bool) -> T:
        """What `sample()` returns, with the first measure that succeeds; `guided` videos have two halves to be split.

        Raises:
            torch.OutOfMemoryError: it does on none.
        """

        def thriftier() -> bool:
            if guided and not self.thrift.split_guidance:
                self.thrift = replace(self.thrift, split_guidance=True)
            elif not self.thrift.forward_chunking:
                self.thrift = replace(self.thrift, forward_chunking=True)
            else:
                return self._offload()
            self._take(self.thrift)
            return True

        return self._climb(sample, thriftier, {"phase": Phase.SAMPLING.value})

    def decode(self, decode: Callable[[int], T], frame: int, frames: int) -> T:
        """What `decode(size)` returns for the chunk that begins at `frame`, of `frames` in all, with a size that fits.

        Raises:
            torch.OutOfMemoryError: there is none.
        """

        def thriftier() -> bool:
            size = min(self.thrift.decode_chunk_size, frames - frame)
            if size == 1:
                return self._offload()
            self.thrift = replace(self.thrift, decode_chunk_size=size // 2)
            return True

        where = {"phase": Phase.DECODING.value, "frame": frame}
        return self._climb(lambda: decode(self.thrift.decode_chunk_size), thriftier, where)

    def _climb(self, act: Callable[[], T], thriftier: Callable[[], bool], where: dict[str, Any]) -> T:
        while True:
            try:
                return act()
            except torch.OutOfMemoryError as error:
                used = {**where, **asdict(replace(self.thrift, attempts=()))}
                del used["attempts"]
                logger.warning("out of memory with %s: %s", used, str(error).partition("\n")[0])
                self.thrift = replace(self.thrift, attempts=(*self.thrift.attempts, used))
                if not thriftier():
                    raise
            # Only here the error is gone, and with it the tensors that its traceback held.
            gc.collect()
            if self._place.type == "cuda":
                torch.cuda.empty_cache()

    def _usual(self, decode_chunk_size: int) -> Thrift:
        plan = self._plan
        size = min(decode_chunk_size, plan.most_decoded or decode_chunk_size)
        return Thrift(plan.name, size, plan.split_guidance, plan.forward_chunking, plan.model_offload)

    def _take(self, thrift: Thrift) -> None:
        self._halves.active = thrift.split_guidance
        # What `enable_forward_chunking` does, which this UNet cannot undo.
        for module in self._pipe.unet.modules():
            if hasattr(module, "set_chunk_feed_forward"):
                module.set_chunk_feed_forward(chunk_size=1 if thrift.forward_chunking else None, dim=0)

    def _offload(self) -> bool:
        if self._offloaded or self._place.type != "cuda":
            return False
        self._pipe.enable_model_cpu_offload(device=self._place)
        self._offloaded = True
        self.thrift = replace(self.thrift, model_offload=True)
        return True


class _Halves:
    """Lets a UNet see the halves of the guidance one after the other, while `active`.

    It takes the place of the UNet's `forward` for good, so that accelerate's hooks come and go around it.
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
            said = torch.cat(
                [whole(one, timestep, picture, times, return_dict=False)[0] for one, picture, times in parts]
            )
            return UNetSpatioTemporalConditionOutput(sample=said) if return_dict else (said,)

        unet.forward = forward
