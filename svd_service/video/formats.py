"""Formats of a video besides the MP4, written on request from the same frames as they are generated.

A new format needs a member of `parameters.Format`, its media type in `jobs.parameters.MEDIA_TYPES`, and here a `Kind`
of `encoder.py`, or a `Writer` of its own; its cost in `jobs/eta.py`, its mark in `jobs/marks.py`, its variant in
`api/openai/schema.py` and its name in the page's `options.js`; and a line in `README.md`, `docs/api.md` (`formats`),
`docs/dialects.md` and `docs/marking.md`. Forms, routes, OpenAPI document, command line and client with their
descriptions follow from these. `tests/unit/video/test_formats.py` fails for each one that is missing.
"""

import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from PIL import Image

from svd_service.parameters import Format
from svd_service.video.encoder import GIF, MP4, WEBM, WEBP, Encoder, Kind
from svd_service.video.writer import Frame, Writer

#: Formats that FFmpeg's encoders write.
KINDS: Final[dict[Format, Kind]] = {Format.MP4: MP4, Format.WEBM: WEBM, Format.WEBP: WEBP, Format.GIF: GIF}

#: Modification time of the files in a ZIP: the earliest possible, so that the same frames give the same bytes.
_NO_TIME: Final = (1980, 1, 1, 0, 0, 0)

#: zlib's lowest level: 1 MB per frame instead of 0.9, in a sixth of the time.
_COMPRESS_LEVEL: Final = 1

#: The name of the last file in a ZIP.
PROVENANCE: Final = "provenance.json"


def writer(
    kind: Format, path: Path, size: tuple[int, int], fps: int, tags: Mapping[str, str], origin: Mapping[str, Any]
) -> Writer:
    """Return a writer for a video of `size` (width, height in pixels) and `fps` frames per second at `path`.

    `tags` are the container's, where it has any; `origin` is the provenance as JSON values.
    """
    if kind is Format.ZIP:
        return Zip(path, *size, origin)
    return Encoder(path, *size, fps, tags, KINDS[kind])


class Zip(Writer):
    """Writes frames to a ZIP: `frame-0001.png` and so on without loss, then `provenance.json`.

    The same frames and provenance give the same bytes. PNG is compressed already, so that the ZIP only stores.
    """

    def __init__(self, path: Path, width: int, height: int, origin: Mapping[str, Any]) -> None:
        super().__init__(path, width, height)
        self._origin = dict(origin)

    def _write(self, frames: Iterator[Frame]) -> None:
        with zipfile.ZipFile(self._path, "w", zipfile.ZIP_STORED) as archive:
            for number, frame in enumerate(frames, start=1):
                buffer = io.BytesIO()
                Image.fromarray(frame).save(buffer, "PNG", compress_level=_COMPRESS_LEVEL)
                archive.writestr(zipfile.ZipInfo(f"frame-{number:04}.png", _NO_TIME), buffer.getvalue())
            provenance = json.dumps(self._origin, indent=1, sort_keys=True)
            archive.writestr(zipfile.ZipInfo(PROVENANCE, _NO_TIME), provenance)
