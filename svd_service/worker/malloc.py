"""Memory of a CPU process: keep what the model's operations free for the next operations.

By default the C library returns every freed block of more than a few megabytes to the kernel, which maps and zeroes it
again, page by page, for the next operation: half of the time of the nano model's decoder. A worker repeats the same
operations for as long as it runs, so it can keep their memory.
"""

import ctypes
from typing import Final

#: Parameters of mallopt(3), from glibc's malloc.h.
_TRIM_THRESHOLD: Final = -1
_TOP_PAD: Final = -2
_MMAP_MAX: Final = -4

#: Minimum bytes by which the heap grows, and the maximum value of a parameter.
_STRIDE: Final = 64 << 20
_NEVER: Final = 2**31 - 1


def keep() -> bool:
    """Stop returning memory to the kernel; returns whether the C library supports that (glibc does)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # Allocate everything from the heap, and trim the heap only when 2 GB at its end are free.
    settings = {_MMAP_MAX: 0, _TRIM_THRESHOLD: _NEVER, _TOP_PAD: _STRIDE}
    return all(mallopt(name, value) == 1 for name, value in settings.items())
