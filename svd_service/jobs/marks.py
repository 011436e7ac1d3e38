"""How each file of a result is marked as generated. `video/formats.py` names all places that a new format needs."""

from enum import StrEnum
from typing import Final

from svd_service.jobs.job import ResultFile, Still
from svd_service.jobs.parameters import MEDIA_TYPES
from svd_service.parameters import Format


class Mark(StrEnum):
    """How a file is marked."""

    EMBEDDED = "content credentials"  # signed, inside of the file
    METADATA = "metadata"  # the container's own tags alone, unsigned


#: C2PA has no binding for Matroska, the container of WebM.
MARKS: Final[dict[ResultFile, Mark]] = {
    Format.MP4: Mark.EMBEDDED,
    Format.WEBM: Mark.METADATA,
    Format.WEBP: Mark.EMBEDDED,
    Format.GIF: Mark.EMBEDDED,
    Format.ZIP: Mark.EMBEDDED,
    Still.THUMBNAIL: Mark.EMBEDDED,
    Still.SPRITESHEET: Mark.EMBEDDED,
}

#: The media type of each file.
TYPES: Final[dict[ResultFile, str]] = {
    **{kind: media_type for kind, media_type in MEDIA_TYPES.items()},  # noqa: C416 - widens the keys' type
    Still.THUMBNAIL: "image/webp",
    Still.SPRITESHEET: "image/jpeg",
}

#: The C2PA library's own names where they differ.
_LIBRARY_TYPES: Final = {"application/zip": "zip"}


def library_type(kind: ResultFile) -> str:
    """The media type of a file as C2PA's library knows it."""
    return _LIBRARY_TYPES.get(TYPES[kind], TYPES[kind])
