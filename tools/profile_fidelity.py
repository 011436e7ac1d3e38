#!/usr/bin/env python3
"""Measure a profile, or a prepared change: the difference of its video from the exact one, and its relative time.

For each image, generates the exact video, the faster one with the same seed, and the exact one with another seed, which
shows how much two equally good videos differ. Runs the model of the settings (`SVD_MODEL`, `SVD_DEVICES`).

usage: python -m tools.profile_fidelity IMAGE... [--profile draft] [--seed 0] [--guidance N]
       python -m tools.profile_fidelity IMAGE... --prepared NAME [--steps N] [--seed 0] [--guidance N]
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
from tools.benchmark.prepared import PREPARED


def main() -> None:
    """Generate the videos and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="+", type=Path)
    parser.add_argument(
        "--profile", choices=[str(each) for each in Profile if each is not Profile.EXACT], default="draft"
    )
    parser.add_argument(
        "--prepared", choices=tuple(PREPARED["cuda"]), help="instead, one of tools/benchmark/prepared.py"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="of both videos, with --prepared; default: the model's")
    parser.add_argument("--guidance", type=float, help="max_guidance_scale of all videos; default: the model's")
    options = parser.parse_args()
    settings = Settings.load()
    model = Model.of(settings)
    generator = faster = load(model, settings.worker_devices[0], settings)
    exact: dict[str, Any] = {"seed": options.seed, "max_guidance_scale": options.guidance}
    if options.prepared:
        faster = load(model, settings.worker_devices[0], settings)
        PREPARED["cuda"][options.prepared][0](faster._pipe)  # noqa: SLF001 - as the benchmark changes it
        changed = exact = {**exact, "num_inference_steps": options.steps}
    else:
        changed = {**exact, "profile": Profile(options.profile)}
    name = options.prepared or options.profile
    print(f"{model.name} on {generator.device}, {name} against exact, seed {options.seed}\n")
    print("| image | PSNR, dB | (another seed), dB | first frame, dB | last frame, dB | steps | time of exact |")
    print("|---|---|---|---|---|---|---|")
    for image in options.images:
        row(model, settings, image, (generator, exact), (faster, changed))


def row(
    model: Model,
    settings: Settings,
    path: Path,
    exactly: tuple[Generator, dict[str, Any]],
    faster: tuple[Generator, dict[str, Any]],
) -> None:
    """Print the row of one image: what `faster` makes against what `exactly` does."""

    def video(generator: Generator, values: dict[str, Any]) -> tuple[Any, float, int]:
        with path.open("rb") as upload, open_image(upload, settings) as opened:
            parameters: Parameters = VideoRequest(**values).resolve(model, opened.size)
            image = opened.fitted(parameters.width, parameters.height, parameters.fit)
        began = time.monotonic()
        frames = np.stack(list(generator.generate(image, parameters, lambda _: None)))
        return frames, time.monotonic() - began, parameters.num_inference_steps

    generator, values = exactly
    other, *_ = video(generator, {**values, "seed": values["seed"] + 1})  # as a warm-up, before those that are timed
    exact, exact_seconds, exact_steps = video(generator, values)
    made, seconds, steps = video(*faster)
    print(
        f"| {path.stem} | {psnr(made, exact):.1f} | {psnr(other, exact):.1f} | {psnr(made[0], exact[0]):.1f} "
        f"| {psnr(made[-1], exact[-1]):.1f} | {steps} of "
        f"{exact_steps} | {seconds / exact_seconds:.2f} |",
        flush=True,
    )


def psnr(some: Any, other: Any) -> float:
    """Return the PSNR of 8-bit images in dB; infinite if they are equal."""
    error = np.square(some.astype(float) - other).mean()
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


if __name__ == "__main__":
    main()
