"""Noise levels at which a video is denoised, by profile."""

from typing import Final

import numpy as np

from svd_service.jobs.model import Sampling, Schedule

#: Noise levels that Align Your Steps found for Stable Video Diffusion in 10 steps (arXiv 2404.14507, and its authors'
#: quick-start guide), from the highest to the lowest.
ALIGN_YOUR_STEPS: Final = (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002)


def sigmas(sampling: Sampling, steps: int) -> list[float] | None:
    """The `steps` + 1 noise levels of a video, the last of them 0; `None` where the model's scheduler chooses.

    For other numbers of steps than 10, the levels are interpolated linearly in their logarithms, as in the guide.
    With 10 the levels are diffusers' `AysSchedules["StableDiffusionVideoSigmas"]`.
    """
    if sampling.schedule is Schedule.MODEL:
        return None
    known = np.linspace(0, 1, len(ALIGN_YOUR_STEPS))
    levels = np.exp(np.interp(np.linspace(0, 1, steps + 1), known, np.log(ALIGN_YOUR_STEPS)))
    return [*(float(level) for level in levels[:-1]), 0.0]
