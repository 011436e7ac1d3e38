"""The Content Credentials of an image or video as an ingredient of those of another file, which was made from it."""

import io
import json
import logging
from dataclasses import dataclass
from typing import BinaryIO, Final

from svd_service.marking import reader
from svd_service.marking.c2pa_library import INGREDIENT, reading_context

logger = logging.getLogger(__name__)

#: Maximum bytes of an ingredient, all of which each file carries that is made from it. A camera's has 20 to 500 KB.
MAX_BYTES: Final = 1_000_000


@dataclass(frozen=True)
class SourceCredentials:
    """The credentials of a file: an `archive` of the C2PA library with them alone, and the id of their manifest."""

    archive: bytes
    manifest_id: str


def source_of(file: BinaryIO, media_type: str, title: str) -> SourceCredentials | None:
    """The credentials of a seekable `file`, to be signed with what is made from it.

    `None` if there are none, if they are damaged beyond reading, or too large.
    """
    import c2pa  # noqa: PLC0415

    found = reader.read(file)
    if found is None or found.manifest_id is None:
        return None
    definition = {"title": title, "relationship": "inputTo", "label": INGREDIENT, "instance_id": INGREDIENT}
    archive = io.BytesIO()
    try:
        with reading_context() as context, c2pa.Builder("{}", context) as builder:
            file.seek(0)
            builder.add_ingredient_from_stream(json.dumps(definition), media_type, file)
            builder.write_ingredient_archive(INGREDIENT, archive)
    except c2pa.C2paError as error:
        logger.info("Content Credentials of the %s are not kept: %s", title, error)
        return None
    kept = archive.getvalue()
    return SourceCredentials(kept, found.manifest_id) if len(kept) <= MAX_BYTES else None
