"""Whether the disk under the data folder is about to be full."""

import shutil
from pathlib import Path
from typing import Final

#: Free bytes, and free share of a small disk, below which a disk counts as almost full.
MIN_FREE_BYTES: Final = 1_000_000_000
MIN_FREE_SHARE: Final = 0.05


def disk_trouble(data_dir: Path) -> str | None:
    """Why jobs will soon fail for want of disk, for a person; `None` while there is room or the folder is not here."""
    try:
        usage = shutil.disk_usage(data_dir)
    except OSError:
        return None
    if usage.free >= min(MIN_FREE_BYTES, MIN_FREE_SHARE * usage.total):
        return None
    return f"the disk of the data folder is almost full: {usage.free / 1e6:.0f} MB free of {usage.total / 1e6:.0f} MB"
