#!/usr/bin/env python3
"""Measure a profile: the difference of its video from the exact one, and its relative time.

For each image, generates the exact video, the profile's with the same seed, and the exact one with another seed, which
shows how much two equally good videos differ. Runs the model of the settings (`SVD_MODEL`, `SVD_DEVICES`).

usage: python -m tools.profile_fidelity IMAGE... [--profile draft] [--seed 0]
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

from svd_service.config import Settings
from svd_service.jobs.images.opening import open_image
from svd_service.jobs.model import Model
from svd_service.jobs.parameters import Parameters, VideoRequest
from svd_service.parameters import Profile
from svd_service.video.loader import Generator, load


def main() -> None:
    """Generate the videos and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="+", type=Path)
    parser.add_argument(
        "--profile", choices=[str(each) for each in Profile if each is not Profile.EXACT], default="draft"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    settings = Settings.load()
    model = Model.of(settings)
    generator = load(model, settings.worker_devices[0], settings)
    print(f"{model.name} on {generator.device}, {options.profile} against exact, seed {options.seed}\n")
    print("| image | PSNR, dB | (another seed), dB | first frame, dB | last frame, dB | steps | time of exact |")
    print("|---|---|---|---|---|---|---|")
    for image in options.images:
        row(generator, model, settings, image, Profile(options.profile), options.seed)


def row(generator: Generator, model: Model, settings: Settings, path: Path, profile: Profile, seed: int) -> None:
    """Print the row of one image."""

    def video(request: VideoRequest) -> tuple[Any, float]:
        with path.open("rb") as upload, open_image(upload, settings) as opened:
            parameters: Parameters = request.resolve(model, opened.size)
            image = opened.fitted(parameters.width, parameters.height, parameters.fit)
        began = time.monotonic()
        frames = np.stack(list(generator.generate(image, parameters, lambda _: None)))
        return frames, time.monotonic() - began

    other, _ = video(VideoRequest(seed=seed + 1))  # as a warm-up, before the two that are timed
    exact, exact_seconds = video(VideoRequest(seed=seed))
    made, seconds = video(VideoRequest(seed=seed, profile=profile))
    print(
        f"| {path.stem} | {psnr(made, exact):.1f} | {psnr(other, exact):.1f} | {psnr(made[0], exact[0]):.1f} "
        f"| {psnr(made[-1], exact[-1]):.1f} | {model.profiles[profile].num_inference_steps} of "
        f"{model.defaults.num_inference_steps} | {seconds / exact_seconds:.2f} |",
        flush=True,
    )


def psnr(some: Any, other: Any) -> float:
    """Return the PSNR of 8-bit images in dB; infinite if they are equal."""
    error = np.square(some.astype(float) - other).mean()
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


if __name__ == "__main__":
    main()
