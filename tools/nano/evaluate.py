"""Measure the nano model through the unmodified pipeline, on images that it was not trained on.

usage: python -m tools.nano.evaluate CHECKPOINT IMAGE [IMAGE ...] [--portrait] [--seeds 64]

For every image, over one seed each of five moves (two pans, a push-in, a pull-out, an arc):

| measure | meaning |
| frame 0 | PSNR of the first frame against the fitted image, in dB; also against *another* image and against the
  image moved by 8 pixels, to show that the measure detects differences |
| last frame | the lowest and the mean PSNR of the last frame, at buckets 127 and 255, against the image moved as the
  camera moved, where it shows the image (not what was beyond its edges), and at 127 against the unmoved image |
| pixels | how far the last frame has moved, found by matching, at buckets 1, 64, 127, 191 and 255, for the first move |
| flicker | mean absolute difference of successive frames at bucket 1, in grey levels |

Then the strongest line in the spectrum of a clear sky's error, in grey levels: the decoder's, the first frame's, and
that of what the frame's 8x8 patches share. With `--seeds`, which kinds of moves the seeds from 0 on make, found by
matching.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from diffusers import StableVideoDiffusionPipeline
from PIL import Image, ImageOps
from torch import Tensor

from tools.nano import motion
from tools.nano.measures import (
    CONTROL_SHIFT,
    Frames,
    best_match,
    blue_sky,
    decoder_error,
    flicker,
    last_frame_psnr,
    moved,
    pixels_moved,
    psnr,
    strongest_line,
    strongest_patch_wave,
)

WIDTH, HEIGHT = 512, 288
BUCKETS = (1, 64, 127, 191, 255)
MOVES = (motion.PANS[0], motion.PANS[5], motion.PUSH_IN, motion.PULL_OUT, motion.ARCS[0])


def fit(image: Image.Image, width: int, height: int) -> Image.Image:
    """Return the center of the image, scaled to cover (width, height)."""
    return ImageOps.fit(ImageOps.exif_transpose(image).convert("RGB"), (width, height), Image.Resampling.LANCZOS)


def load(checkpoint: Path, device: str = "cpu") -> StableVideoDiffusionPipeline:
    """Load the stock pipeline with the checkpoint's weights in float32."""
    pipe = StableVideoDiffusionPipeline.from_pretrained(checkpoint, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)


@torch.inference_mode()
def generate(
    pipe: StableVideoDiffusionPipeline,
    image: Image.Image,
    bucket: int = 127,
    seed: int = 0,
    steps: int = 1,
    numbers: tuple[int, ...] | None = None,
    **options,
) -> Frames:
    """Generate a video of the fitted image, at the image's size; only the frames of these numbers, if given."""
    settings = {"num_frames": motion.FRAMES, "min_guidance_scale": 1.0, "max_guidance_scale": 1.0} | options
    latents: Tensor = pipe(
        image,
        width=image.width,
        height=image.height,
        num_inference_steps=steps,
        motion_bucket_id=bucket,
        generator=torch.Generator().manual_seed(seed),
        output_type="latent",
        **settings,
    ).frames
    chosen = latents if numbers is None else latents[:, list(numbers)]
    frames = [pipe.decode_latents(chosen[:, i : i + 1], 1, 1)[0, :, 0] for i in range(chosen.shape[1])]
    return np.stack([((f + 1) * 127.5).round().clamp(0, 255).permute(1, 2, 0).byte().cpu().numpy() for f in frames])


@dataclass(frozen=True)
class Figures:
    """The measures of one image; see the module's docstring."""

    name: str
    frame_0: float
    frame_0_other_image: float
    frame_0_shifted: float
    last: dict[int, tuple[float, ...]]
    """By bucket, of each move."""
    last_unmoved: float
    pixels: tuple[float, ...]
    flicker: float

    @property
    def increasing(self) -> bool:
        """Whether larger buckets move the camera further."""
        return all(a < b for a, b in pairwise(self.pixels))


def measure(pipe: StableVideoDiffusionPipeline, name: str, image: Image.Image, other: Image.Image) -> Figures:
    """Measure one fitted image; `other` is any other image of the same size, for the control."""
    source, ends = np.asarray(image), (0, motion.FRAMES - 1)
    seeds = motion.first_seeds(MOVES, *image.size)
    videos = {(m, b): generate(pipe, image, b, s, numbers=ends) for m, s in seeds.items() for b in (127, 255)}
    first, seed = next(iter(seeds.items()))
    by_bucket = {b: videos.get((first, b)) for b in BUCKETS}
    by_bucket |= {b: generate(pipe, image, b, seed, numbers=ends) for b, video in by_bucket.items() if video is None}
    frame = videos[first, 127][0]
    return Figures(
        name,
        psnr(frame, source),
        psnr(frame, np.asarray(other)),
        psnr(frame, moved(source, motion.PANS[0], CONTROL_SHIFT)[0]),
        {b: tuple(last_frame_psnr(videos[m, b], source, m, b, motion.FRAMES) for m in seeds) for b in (127, 255)},
        psnr(videos[first, 127][-1], source),
        tuple(pixels_moved(video[-1], source, first) for video in by_bucket.values()),
        flicker(generate(pipe, image, 1, seed)),
    )


def sky_lines(pipe: StableVideoDiffusionPipeline, width: int, height: int) -> tuple[float, float, float]:
    """The strongest line in the decoder's error of a clear sky, and in the first frame's, of all and of patches'."""
    sky = blue_sky(width, height)
    image = Image.fromarray(sky.round().astype(np.uint8))
    error = generate(pipe, image, 1, numbers=(0,))[0] - np.asarray(image, float)
    return strongest_line(decoder_error(pipe.vae, sky)), strongest_line(error), strongest_patch_wave(error)


def kinds_by_matching(pipe: StableVideoDiffusionPipeline, image: Image.Image, seeds: int) -> Counter[str]:
    """How many of the first seeds make which kind of move at bucket 255, found by matching, not by asking the seed."""
    last = (motion.FRAMES - 1,)
    frames = (generate(pipe, image, 255, seed, numbers=last)[0] for seed in range(seeds))
    return Counter(best_match(frame, np.asarray(image), step=4.0)[0].kind for frame in frames)


def table(rows: list[Figures]) -> str:
    """Format the rows and their means as a Markdown table."""
    heads = ("image", "frame 0, dB", "(other image)", "(moved 8 px)", "last frame at 127, dB: lowest, mean", "(still)")
    heads += ("at 255: lowest, mean", "pixels moved at 1 / 64 / 127 / 191 / 255", "flicker at 1")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for r in rows:
        pixels = " / ".join(f"{p:.2f}" for p in r.pixels) + ("" if r.increasing else " (!)")
        low, high = (f"{min(r.last[b]):.1f}, {np.mean(r.last[b]):.1f}" for b in (127, 255))
        lines.append(
            f"| {r.name} | {r.frame_0:.1f} | {r.frame_0_other_image:.1f} | {r.frame_0_shifted:.1f} | {low} "
            f"| {r.last_unmoved:.1f} | {high} | {pixels} | {r.flicker:.2f} |"
        )
    middle, far = (np.mean([np.mean(r.last[b]) for r in rows]) for b in (127, 255))
    lines.append(
        f"| **mean** | {np.mean([r.frame_0 for r in rows]):.1f} | | | {middle:.1f} | | {far:.1f} | "
        f"| {np.mean([r.flicker for r in rows]):.2f} |"
    )
    return "\n".join(lines)


def main() -> None:
    """Read the command line, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("images", type=Path, nargs="+", help="at least two")
    parser.add_argument("--portrait", action="store_true", help=f"{HEIGHT}x{WIDTH} instead of {WIDTH}x{HEIGHT}")
    parser.add_argument("--seeds", type=int, default=0, help="count the moves of so many seeds, on the first image")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    size = (HEIGHT, WIDTH) if args.portrait else (WIDTH, HEIGHT)
    pipe = load(args.checkpoint, args.device)
    fitted = [fit(Image.open(path), *size) for path in args.images]
    rows = []
    for i, (path, image) in enumerate(zip(args.images, fitted, strict=True)):
        rows.append(measure(pipe, path.stem, image, fitted[i - 1]))
        print(rows[-1], flush=True)
    print(table(rows))
    decoder, line, wave = sky_lines(pipe, *size)
    print(
        f"strongest line in a clear sky: decoder {decoder:.2f}, first frame {line:.2f}, its patches {wave:.2f} levels"
    )
    if args.seeds:
        print(f"moves of {args.seeds} seeds: {dict(kinds_by_matching(pipe, fitted[0], args.seeds))}")


if __name__ == "__main__":
    main()
