"""The only EXIF tag that affects an image: its orientation (CIPA DC-008, tag 0x0112)."""

import struct
from typing import Final

_ORIENTATION: Final = 0x0112
_BYTE_ORDERS: Final = {b"II*\0": "<", b"MM\0*": ">"}

#: Entries that are looked at; cameras write some 20 into this directory.
_MAX_ENTRIES: Final = 1_000


def orientation(exif: bytes) -> int:
    """EXIF's orientation, 1 (upright) to 8; 1 where `exif` is damaged or has none."""
    content = exif.removeprefix(b"Exif\0\0")
    order = _BYTE_ORDERS.get(content[:4])
    if order is None:
        return 1
    try:
        (at,) = struct.unpack_from(f"{order}I", content, 4)
        (entries,) = struct.unpack_from(f"{order}H", content, at)
        for number in range(min(entries, _MAX_ENTRIES)):
            tag, kind, _, short = struct.unpack_from(f"{order}HHIH", content, at + 2 + 12 * number)
            if tag == _ORIENTATION:
                (value,) = struct.unpack_from(f"{order}I", content, at + 10 + 12 * number) if kind == 4 else (short,)
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1
