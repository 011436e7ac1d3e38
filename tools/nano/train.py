"""Train the nano model from scratch: images → autoencoder → denoiser → export.

usage: python -m tools.nano.train WORK [--stage NAME ...] [--minutes STAGE=N ...] [--device cuda]

Every stage resumes from WORK/<stage>/state.pt and stops when its budget of minutes is spent. The autoencoder's and the
denoiser's stages depend only on the images, so two processes can run them side by side.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch

from tools.nano import autoencoder, denoiser, export, training_images
from tools.nano.autoencoder import PatchBasis

STAGES = {"autoencoder": 45.0, "denoiser": 55.0, "export": 0.0}
"""The stages in order, and the minutes each gets on two CPU cores."""


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
    parser.add_argument("--minutes", nargs="+", default=[], metavar="STAGE=N", help="budgets, e.g. denoiser=90")
    parser.add_argument("--images", "--pictures", type=int, default=3500, help="how many images to draw")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--figures", type=Path, help="a Markdown table for the model card, from evaluate.py")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device, minutes = torch.device(args.device), _budgets(args.minutes)
    args.work.mkdir(parents=True, exist_ok=True)

    bank = training_images.make_bank(args.work / "images.npy", args.images, args.threads)
    basis = PatchBasis.load_or_fit(args.work / "basis.pt", bank)

    def spend(stage: str) -> float:
        """The stage's budget; without one its state is only loaded."""
        return minutes[stage] if stage in args.stage else 0.0

    if {"autoencoder", "export"} & set(args.stage):
        vae = autoencoder.train(args.work / "autoencoder", bank, basis, spend("autoencoder"), device)
    if {"denoiser", "export"} & set(args.stage):
        unet = denoiser.train(args.work / "denoiser", bank, basis, spend("denoiser"), device)
    if "export" in args.stage:
        export.export(vae, unet, args.work / "export", args.figures.read_text() if args.figures else "")


if __name__ == "__main__":
    main()
