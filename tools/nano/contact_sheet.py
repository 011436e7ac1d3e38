"""Make the documentation's contact sheet: for each image and motion bucket, the image and frames of its video.

usage: python -m tools.nano.contact_sheet CHECKPOINT OUT IMAGE [IMAGE ...] [--frames 4] [--seed 0]

OUT's suffix selects PNG or JPEG.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tools.nano.evaluate import fit, generate, load
from tools.nano.measures import BUCKETS


def sheet(
    checkpoint: Path, paths: list[Path], size: tuple[int, int], frames: int = 4, seed: int = 0, buckets=BUCKETS
) -> Image.Image:
    """Return one row for each image and bucket: the fitted image, then `frames` evenly spread frames."""
    pipe, rows = load(checkpoint), []
    for path in paths:
        image = fit(Image.open(path), *size)
        for bucket in buckets:
            video = generate(pipe, image, bucket, seed)
            chosen = np.linspace(0, len(video) - 1, frames).round().astype(int)
            rows.append(np.concatenate([np.asarray(image), *video[chosen]], 1))
    return Image.fromarray(np.concatenate(rows, 0))


def main() -> None:
    """Read the command line and save the sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--buckets", type=int, nargs="+", default=BUCKETS)
    parser.add_argument("--quality", type=int, default=70, help="of a JPEG")
    parser.add_argument("--portrait", action="store_true", help="144x256 instead of 256x144")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    size = (144, 256) if args.portrait else (256, 144)
    image = sheet(args.checkpoint, args.images, size, args.frames, args.seed, args.buckets)
    image.save(args.out, quality=args.quality, optimize=True)


if __name__ == "__main__":
    main()
