"""Memory plans: how a device's memory is used from the start. The fastest plan that fits is chosen.

The figures are computed, not measured: `python -m tools.memory_table` runs the real architectures
on torch's meta device and counts the bytes of simultaneously live activations. The allocator's overhead is estimated.
A test runs the whole generation on a pretended device and finds the same peaks, within a tenth.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from svd_service.jobs.model import Defaults

GB: Final = 1e9


@dataclass(frozen=True)
class MemoryPlan:
    """One plan, by its name in `SVD_MEMORY`.

    `split_guidance`: the UNet runs with and without the image one after the other, not as one batch.
    `forward_chunking`: its feed-forward layers run one frame at a time. `model_offload`: each part of the model is on
    the device only while it runs, else in the host's memory. `most_decoded`: maximum number of frames decoded at once.
    """

    name: str
    split_guidance: bool = False
    forward_chunking: bool = False
    model_offload: bool = False
    most_decoded: int | None = None


#: From the fastest to the one that needs the least memory.
MEMORY_PLANS: Final = (
    MemoryPlan("fast"),
    MemoryPlan("lean", split_guidance=True, most_decoded=2),
    MemoryPlan("small", split_guidance=True, forward_chunking=True, most_decoded=1),
    MemoryPlan("least", split_guidance=True, forward_chunking=True, model_offload=True, most_decoded=1),
)
FAST: Final = MEMORY_PLANS[0]

#: The plan of a CPU, which has no memory of its own.
HOST: Final = MemoryPlan("host")

#: Activations in half precision at 25 frames of 1024x576. UNet: by whether it runs both halves of the guidance at
#: once, and whether its feed-forward layers run one frame at a time. Decoder: per frame. Encoder: in single precision.
_FRAMES, _PIXELS = 25, 1024 * 576
_UNET: Final = {(True, False): 8.30 * GB, (False, False): 3.99 * GB, (True, True): 4.76 * GB, (False, True): 2.22 * GB}
_DECODED_FRAME: Final = 1.21 * GB
_ENCODED_IMAGE: Final = 1.53 * GB

#: Overhead of the allocator and the libraries' workspaces.
_MARGIN: Final = 1.1
_RESERVE: Final = 0.3 * GB


def need(plan: MemoryPlan, video: Defaults, parts: Mapping[str, int], *, graphs: bool = False) -> float:
    """Bytes of device memory that `video` needs; `parts` are the bytes of weights of `unet`, `vae` and the others.

    With `graphs`, CUDA graphs of the UNet keep its activations for as long as the process lives.
    """
    return peak(plan, video, parts, graphs=graphs) * _MARGIN + _RESERVE


def peak(plan: MemoryPlan, video: Defaults, parts: Mapping[str, int], *, graphs: bool = False) -> float:
    """Bytes of the tensors that live at one time while `video` is made."""
    pixels = video.width * video.height / _PIXELS
    at_once = video.max_guidance_scale > 1 and not plan.split_guidance
    sampling = _UNET[at_once, plan.forward_chunking] * pixels * video.num_frames / _FRAMES
    decoded = min(video.decode_chunk_size, video.num_frames, plan.most_decoded or video.num_frames)
    decoding = _DECODED_FRAME * pixels * decoded
    encoding = parts["vae"] + _ENCODED_IMAGE * pixels  # its weights are in single precision then: twice as large
    if plan.model_offload:
        # Nothing is compiled then, and there are no graphs.
        return max(parts["unet"] + sampling, parts["vae"] + max(decoding, encoding), *parts.values())
    if graphs:
        return sum(parts.values()) + sampling + max(decoding, encoding)
    return sum(parts.values()) + max(sampling, decoding, encoding)


def choose(setting: str, free: float, video: Defaults, parts: Mapping[str, int], *, graphs: bool = False) -> MemoryPlan:
    """The plan named by `setting`; for `auto`, the fastest that fits into `free` bytes, or else the last.

    Requests for more than `video` are left to the OOM fallback (`oom_fallback`), which reacts to failures.
    """
    if setting != "auto":
        return next(plan for plan in MEMORY_PLANS if plan.name == setting)
    fitting = (plan for plan in MEMORY_PLANS if need(plan, video, parts, graphs=graphs) <= free)
    return next(fitting, MEMORY_PLANS[-1])
