"""What is tried when a device's memory does not suffice for a video: less at a time, and slower.

The rungs, of which only as many are taken as needed, and only for the video in hand:

- decoding: half as many frames at once, down to one. It changes the pixels a little, so the video's provenance tells.
- sampling: the UNet's feed-forward layers one frame at a time (diffusers' forward chunking), the same arithmetic.
- both, on CUDA only: each part of the model is on the device while it is needed, else in the host's memory.

Only what failed is repeated: a chunk of frames, or the sampling. After Hugging Face's guide to memory for diffusers.
"""

import gc
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import torch
from diffusers import StableVideoDiffusionPipeline

from svd_service.jobs.job import Phase

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class Thrift:
    """How memory was used for one video. `attempts` are those that ran out of it: the phase, and what was used then."""

    decode_chunk_size: int
    forward_chunking: bool = False
    model_offload: bool = False
    attempts: tuple[dict[str, Any], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON knows it."""
        return {**asdict(self), "attempts": list(self.attempts)}


class Ladder:
    """Runs the parts of a video's generation on `pipe`, each again on the next rung when it runs out of memory.

    `thrift` tells of the present video, or of the last one.
    """

    def __init__(self, pipe: StableVideoDiffusionPipeline, place: torch.device) -> None:
        self._pipe = pipe
        self._place = place
        self._offloaded = False
        self.thrift = Thrift(decode_chunk_size=1)

    def begin(self, decode_chunk_size: int) -> None:
        """A video begins: everything is fast again, if by now there is memory for the whole model."""
        self.reset()
        self.thrift = Thrift(decode_chunk_size, model_offload=self._offloaded)

    def reset(self) -> None:
        """Back to the fast setting; where the device has no room for it, `begin` tries again."""
        if self.thrift.forward_chunking:
            self._chunk_forward(None)
        if not self._offloaded:
            return
        self._pipe.remove_all_hooks()
        try:
            self._pipe.to(self._place)
            self._offloaded = False
        except torch.OutOfMemoryError:
            logger.warning("the model does not fit onto the device as a whole; it stays in the host's memory")
            self._pipe.enable_model_cpu_offload(device=self._place)

    def sample(self, sample: Callable[[], T]) -> T:
        """What `sample()` returns, on whichever rung it succeeds.

        Raises:
            torch.OutOfMemoryError: it does on none.
        """

        def thriftier() -> bool:
            if self.thrift.forward_chunking:
                return self._offload()
            self._chunk_forward(1)
            self.thrift = replace(self.thrift, forward_chunking=True)
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

    def _chunk_forward(self, size: int | None) -> None:
        # What `enable_forward_chunking` does, for which this UNet has no way back.
        for module in self._pipe.unet.modules():
            if hasattr(module, "set_chunk_feed_forward"):
                module.set_chunk_feed_forward(chunk_size=size, dim=0)

    def _offload(self) -> bool:
        if self._offloaded or self._place.type != "cuda":
            return False
        self._pipe.enable_model_cpu_offload(device=self._place)
        self._offloaded = True
        self.thrift = replace(self.thrift, model_offload=True)
        return True
