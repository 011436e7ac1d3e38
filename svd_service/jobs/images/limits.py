"""What a decoder process may take for one image: processor time and address space, in proportion to its pixels.

The kernel enforces both limits.
"""

import contextlib
import resource
import signal
from pathlib import Path
from typing import Final

#: Seconds of processor time, and what each pixel adds. Measured on two slow cores: 0.05 µs per pixel of the slowest
#: still image (AVIF, HEIC), 0.02 of a PNG.
_SECONDS: Final = 1.2
_SECONDS_PER_PIXEL: Final = 1.2e-7

#: Bytes of address space beyond what the idle process has, and what each pixel and each byte of the file adds.
#: Measured: 15 bytes per pixel (750 MB for the largest WebP by default).
_BYTES: Final = 160_000_000
_BYTES_PER_PIXEL: Final = 20
_BYTES_PER_FILE_BYTE: Final = 4

#: Seconds that each byte adds when Content Credentials are read: 0.02 µs of a GIF, whose blocks are read one by one.
SECONDS_PER_BYTE: Final = 1.5e-7

_STATM: Final = Path("/proc/self/statm")


def allow(*, pixels: int, file_bytes: int, seconds: float = 0.0) -> None:
    """Limit what this process takes from now on, with `seconds` more. At the end of its time it ends by SIGPROF."""
    signal.setitimer(signal.ITIMER_PROF, _SECONDS + _SECONDS_PER_PIXEL * pixels + seconds)
    if (taken := address_space()) is not None:
        _limit_space(taken + _BYTES + _BYTES_PER_PIXEL * pixels + _BYTES_PER_FILE_BYTE * file_bytes)


def lift() -> None:
    """Limit nothing, as long as no image is decoded."""
    signal.setitimer(signal.ITIMER_PROF, 0)
    _limit_space(resource.RLIM_INFINITY)


def address_space() -> int | None:
    """Bytes of address space that this process has; `None` where the system does not report it (not Linux)."""
    try:
        pages = int(_STATM.read_text(encoding="utf-8").split()[0])
    except OSError:
        return None
    return pages * resource.getpagesize()


def _limit_space(size: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    soft = size if hard == resource.RLIM_INFINITY else min(size, hard) if size != resource.RLIM_INFINITY else hard
    with contextlib.suppress(ValueError, OSError):  # macOS has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
