"""Images that tests use, by name."""

from pathlib import Path

IMAGES = Path(__file__).parent / "images"
