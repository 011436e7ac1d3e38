"""How a device's memory is used from the start, so that a video fits: the fastest plan of those that do.

The figures are computed, not measured: `python -m tools.memory_table` runs the real architectures
on torch's meta device and counts the bytes of activations that live at one time. What an allocator adds is a guess.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from svd_service.jobs.model import Defaults

GB: Final = 1e9


@dataclass(frozen=True)
class MemoryPlan:
    """One plan, by the name that `SVD_MEMORY` has for it.

    `split_guidance`: the UNet sees the video with and without the picture one after the other, not as one batch.
    `forward_chunking`: its feed-forward layers one frame at a time. `model_offload`: each part of the model is on the
    device while it works, else in the host's memory. `most_decoded`: frames decoded at once, at most.
    """

    name: str
    split_guidance: bool = False
    forward_chunking: bool = False
    model_offload: bool = False
    most_decoded: int | None = None


#: From the fastest to the one that needs least.
MEMORY_PLANS: Final = (
    MemoryPlan("fast"),
    MemoryPlan("lean", split_guidance=True, most_decoded=2),
    MemoryPlan("small", split_guidance=True, forward_chunking=True, most_decoded=1),
    MemoryPlan("least", split_guidance=True, forward_chunking=True, model_offload=True, most_decoded=1),
)
FAST: Final = MEMORY_PLANS[0]

#: That of a CPU, which has none of its own.
HOST: Final = MemoryPlan("host")

#: Activations in half precision at 25 frames of 1024x576. Of the UNet: by whether it sees both halves of the guidance
#: at once, and whether its feed-forward layers take one frame at a time. Of the decoder: for each frame.
_FRAMES, _PIXELS = 25, 1024 * 576
_UNET: Final = {(True, False): 8.30 * GB, (False, False): 3.99 * GB, (True, True): 4.76 * GB, (False, True): 2.22 * GB}
_DECODED_FRAME: Final = 1.21 * GB

#: What the allocator, the libraries' workspaces and the picture's encoding take beyond that.
_MARGIN: Final = 1.1
_RESERVE: Final = 0.3 * GB


def need(plan: MemoryPlan, video: Defaults, parts: Mapping[str, int]) -> float:
    """Bytes of device memory that `video` takes; `parts` are the bytes of weights of `unet`, `vae` and the others."""
    pixels = video.width * video.height / _PIXELS
    at_once = video.max_guidance_scale > 1 and not plan.split_guidance
    sampling = _UNET[at_once, plan.forward_chunking] * pixels * video.num_frames / _FRAMES
    decoded = min(video.decode_chunk_size, video.num_frames, plan.most_decoded or video.num_frames)
    decoding = _DECODED_FRAME * pixels * decoded
    if plan.model_offload:
        peak = max(parts["unet"] + sampling, parts["vae"] + decoding, *parts.values())
    else:
        peak = sum(parts.values()) + max(sampling, decoding)
    return peak * _MARGIN + _RESERVE


def choose(setting: str, free: float, video: Defaults, parts: Mapping[str, int]) -> MemoryPlan:
    """The plan that `setting` names; for `auto`, the fastest that fits into `free` bytes, or else the last.

    Whether a request for more than `video` fits is left to the fallback (`memory`), which finds out by trying.
    """
    if setting != "auto":
        return next(plan for plan in MEMORY_PLANS if plan.name == setting)
    return next((plan for plan in MEMORY_PLANS if need(plan, video, parts) <= free), MEMORY_PLANS[-1])
