"""Train the nano model from scratch: images → autoencoder → skies, position, warp → export.

usage: python -m tools.nano.train WORK [--stage NAME ...] [--minutes STAGE=N ...] [--from CHECKPOINT] [--device cuda]

Every stage resumes from WORK/<stage>/state.pt and stops when its budget of minutes is spent. The autoencoder's
two stages and the two of the denoiser depend only on the images, so three processes can run them side by side.

With --from, the encoder is that of an exported checkpoint, and the decoder begins with its decoder.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
from diffusers import AutoencoderKLTemporalDecoder

from tools.nano import autoencoder, denoiser_training, export, training_images
from tools.nano.autoencoder import PatchBasis

STAGES = {"autoencoder": 100.0, "skies": 55.0, "position": 30.0, "warp": 80.0, "export": 0.0}
"""The stages in order, and the minutes each gets on one CPU core."""
FURTHER_RATE = 0.5
"""Learning rates of a decoder that is trained further, relative to those of a new one."""


def _budgets(items: list[str]) -> dict[str, float]:
    given = {name: float(value) for name, value in (item.split("=") for item in items)}
    if unknown := set(given) - set(STAGES):
        raise SystemExit(f"no such stage: {', '.join(sorted(unknown))}; there are {', '.join(STAGES)}")
    return STAGES | given


def main() -> None:
    """Read the command line and run the stages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder for images, states and the export")
    parser.add_argument("--stage", nargs="+", choices=STAGES, default=list(STAGES), help="run only these stages")
    parser.add_argument("--minutes", nargs="+", default=[], metavar="STAGE=N", help="budgets, e.g. warp=90")
    parser.add_argument("--images", "--pictures", type=int, default=2200, help="how many images to draw")
    parser.add_argument("--from", dest="start", type=Path, metavar="CHECKPOINT", help="begin with its decoder")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--figures", type=Path, help="a Markdown table for the model card, from evaluate.py")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device, minutes = torch.device(args.device), _budgets(args.minutes)
    args.work.mkdir(parents=True, exist_ok=True)

    bank = training_images.make_bank(args.work / "images.npy", args.images, args.threads)

    def spend(stage: str) -> float:
        """The stage's budget; without one its state is only loaded."""
        return minutes[stage] if stage in args.stage else 0.0

    if args.start:
        vae = AutoencoderKLTemporalDecoder.from_pretrained(args.start / "vae", torch_dtype=torch.float32)
        basis = PatchBasis.of(vae)
    else:
        basis = PatchBasis.load_or_fit(args.work / "basis.pt", bank)
        vae = autoencoder.build(basis)
    wanted = set(STAGES) if "export" in args.stage else set(args.stage)
    if {"autoencoder", "skies"} & wanted:
        rate = FURTHER_RATE if args.start else 1.0
        vae = autoencoder.train(args.work / "autoencoder", bank, vae, spend("autoencoder"), device, rate)
    if "skies" in wanted:
        vae = autoencoder.train_skies(args.work / "skies", bank, vae, spend("skies"), device)
    if "position" in wanted:
        position = denoiser_training.train_position(args.work / "position", spend("position"), device)
    if "warp" in wanted:
        warp = denoiser_training.train_warp(args.work / "warp", bank, basis, spend("warp"), device)
    if "export" in wanted:
        unet = denoiser_training.joined(position, warp)
        export.export(vae, unet, args.work / "export", args.figures.read_text() if args.figures else "")


if __name__ == "__main__":
    main()
