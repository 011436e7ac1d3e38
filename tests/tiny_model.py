"""The tiny model, under the name by which programs outside this repository import it."""

from tools.harness.tiny_model import build

__all__ = ["build"]
