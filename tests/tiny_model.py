"""The tiny model under the name that programs outside of this repository import it by."""

from tools.harness.tiny_model import build

__all__ = ["build"]
