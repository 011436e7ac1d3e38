"""Memory of a CPU process: what the model's operations free stays with the process, for the next ones.

As it comes, the C library gives every block beyond some megabytes back to the kernel when it is freed, and has it
mapped and zeroed anew, page by page, for the operation that follows: half of the time that the nano model's decoder
takes. A worker repeats the same operations for as long as it lives, so it may keep what they need.
"""

import ctypes
from typing import Final

#: mallopt(3), by the numbers of glibc's malloc.h.
_TRIM_THRESHOLD: Final = -1
_TOP_PAD: Final = -2
_MMAP_MAX: Final = -4

#: Bytes by which the heap grows at least, and the most that can be asked for.
_STRIDE: Final = 64 << 20
_NEVER: Final = 2**31 - 1


def keep() -> bool:
    """From now on, give no memory back; whether the C library is one that can be told so (glibc is)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # All from the heap, and none of the heap's end back until 2 GB of it are free.
    settings = {_MMAP_MAX: 0, _TRIM_THRESHOLD: _NEVER, _TOP_PAD: _STRIDE}
    return all(mallopt(name, value) == 1 for name, value in settings.items())
