"""Measure the nano model through the unmodified pipeline, on images that it was not trained on.

usage: python -m tools.nano.evaluate CHECKPOINT IMAGE [IMAGE ...] [--portrait]

| measure | meaning |
| frame 0 | PSNR of the first frame against the fitted image, in dB; also against *another* image and against the
  image moved by 8 pixels, to show that the measure detects differences |
| last frame | PSNR of the last frame at bucket 127 against the image moved as the camera moved, where it shows the
  image (not the mirrored strip at the edge), and against the image that did not move |
| pixels | how far the last frame has moved, found by matching, at buckets 1, 127 and 255 |
| flicker | mean absolute difference of successive frames at bucket 1, in grey levels |
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from diffusers import StableVideoDiffusionPipeline
from PIL import Image, ImageOps

from tools.nano import motion
from tools.nano.measures import BUCKETS, CONTROL_SHIFT, Frames, flicker, last_frame_psnr, moved, pixels_moved, psnr


def fit(image: Image.Image, width: int, height: int) -> Image.Image:
    """Return the center of the image, scaled to cover (width, height)."""
    return ImageOps.fit(ImageOps.exif_transpose(image).convert("RGB"), (width, height), Image.Resampling.LANCZOS)


def load(checkpoint: Path, device: str = "cpu") -> StableVideoDiffusionPipeline:
    """Load the stock pipeline with the checkpoint's weights in float32."""
    pipe = StableVideoDiffusionPipeline.from_pretrained(checkpoint, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)


def generate(
    pipe: StableVideoDiffusionPipeline,
    image: Image.Image,
    bucket: int = 127,
    seed: int = 0,
    steps: int = 2,
    **options,
) -> Frames:
    """Generate a video of the fitted image, at the image's size."""
    settings = {"num_frames": motion.FRAMES, "min_guidance_scale": 1.0, "max_guidance_scale": 1.0} | options
    video = pipe(
        image,
        width=image.width,
        height=image.height,
        num_inference_steps=steps,
        motion_bucket_id=bucket,
        generator=torch.Generator().manual_seed(seed),
        **settings,
    )
    return np.stack([np.asarray(frame) for frame in video.frames[0]])


@dataclass(frozen=True)
class Figures:
    """The measures of one image; see the module's docstring."""

    name: str
    frame_0: float
    frame_0_other_image: float
    frame_0_shifted: float
    last: float
    last_unmoved: float
    pixels: tuple[float, ...]
    flicker: float
    seconds: float

    @property
    def increasing(self) -> bool:
        """Whether larger buckets move the camera further."""
        return all(a < b for a, b in pairwise(self.pixels))


def measure(
    pipe: StableVideoDiffusionPipeline,
    name: str,
    image: Image.Image,
    other: Image.Image,
    seed: int = 0,
    steps: int = 2,
) -> Figures:
    """Measure one fitted image; `other` is any other image of the same size, for the control."""
    started = time.monotonic()
    videos = {bucket: generate(pipe, image, bucket, seed, steps) for bucket in BUCKETS}
    seconds = (time.monotonic() - started) / len(BUCKETS)
    source, middle = np.asarray(image), videos[127]
    return Figures(
        name,
        psnr(middle[0], source),
        psnr(middle[0], np.asarray(other)),
        psnr(middle[0], moved(source, CONTROL_SHIFT)),
        last_frame_psnr(middle, source, 127),
        psnr(middle[-1], source),
        tuple(pixels_moved(videos[bucket][-1], source) for bucket in BUCKETS),
        flicker(videos[1]),
        seconds,
    )


def table(rows: list[Figures]) -> str:
    """Format the rows and their means as a Markdown table."""
    lines = [
        "| image | frame 0, dB | (other image) |  (moved 8 px) | last frame, dB | (still) | pixels | flicker | s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        pixels = " / ".join(f"{p:.2f}" for p in r.pixels) + ("" if r.increasing else " (!)")
        lines.append(
            f"| {r.name} | {r.frame_0:.1f} | {r.frame_0_other_image:.1f} | {r.frame_0_shifted:.1f} | {r.last:.1f} "
            f"| {r.last_unmoved:.1f} | {pixels} | {r.flicker:.2f} | {r.seconds:.1f} |"
        )
    mean = {k: np.mean([getattr(r, k) for r in rows]) for k in ("frame_0", "last", "flicker", "seconds")}
    lines.append(
        f"| **mean** | {mean['frame_0']:.1f} | | | {mean['last']:.1f} | | | {mean['flicker']:.2f} "
        f"| {mean['seconds']:.1f} |"
    )
    return "\n".join(lines)


def main() -> None:
    """Read the command line, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("images", type=Path, nargs="+", help="at least two")
    parser.add_argument("--portrait", action="store_true", help="144x256 instead of 256x144")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    size = (144, 256) if args.portrait else (256, 144)
    pipe = load(args.checkpoint, args.device)
    fitted = [fit(Image.open(path), *size) for path in args.images]
    rows = []
    for i, (path, image) in enumerate(zip(args.images, fitted, strict=True)):
        rows.append(measure(pipe, path.stem, image, fitted[i - 1], args.seed, args.steps))
        print(rows[-1], flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
