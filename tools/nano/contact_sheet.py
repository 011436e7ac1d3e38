"""Make the documentation's contact sheet: each image with videos of several seeds.

usage: python -m tools.nano.contact_sheet CHECKPOINT OUT IMAGE [IMAGE ...] [--seeds 0 1] [--portrait]

A row has the image, the first and the last frame at bucket 127, and the last frame at bucket 255. Every image has
seeds of its own: the first image the first two, and so on. OUT's suffix selects PNG or JPEG.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tools.nano import motion
from tools.nano.evaluate import HEIGHT, WIDTH, fit, generate, load


def sheet(
    checkpoint: Path, paths: list[Path], size: tuple[int, int], seeds: list[int], scale: float = 1
) -> Image.Image:
    """Return the rows; each image gets an equal share of the seeds. `scale` is that of the result."""
    pipe, rows, each, last = load(checkpoint), [], len(seeds) // len(paths), motion.FRAMES - 1
    for i, path in enumerate(paths):
        image = fit(Image.open(path), *size)
        for seed in seeds[i * each : (i + 1) * each]:
            print(path.stem, seed, motion.of_seed(seed, *size).kind, flush=True)
            usual = generate(pipe, image, 127, seed, numbers=(0, last))
            far = generate(pipe, image, 255, seed, numbers=(last,))
            rows.append(np.concatenate([np.asarray(image), *usual, *far], 1))
    whole = Image.fromarray(np.concatenate(rows, 0))
    return whole.resize((round(whole.width * scale), round(whole.height * scale)), Image.Resampling.LANCZOS)


def main() -> None:
    """Read the command line and save the sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(8)), help="as many for each image")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--quality", type=int, default=70, help="of a JPEG")
    parser.add_argument("--portrait", action="store_true", help="288x512 instead of 512x288")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    size = (HEIGHT, WIDTH) if args.portrait else (WIDTH, HEIGHT)
    image = sheet(args.checkpoint, args.images, size, args.seeds, args.scale)
    image.save(args.out, quality=args.quality, optimize=True)


if __name__ == "__main__":
    main()
