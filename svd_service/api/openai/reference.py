"""The picture that a caller refers to: a file of the form, a data URL, or an http(s) URL."""

import base64
import binascii
import io
import re
from typing import BinaryIO, Final, cast
from urllib.parse import unquote_to_bytes

from svd_service.api.http.context import jobs
from svd_service.api.http.forms import UploadedFile
from svd_service.errors import InvalidParameterError, MissingImageError

#: RFC 2397; the media type is ignored, since the bytes themselves say what they are.
_DATA_URL: Final = re.compile(r"data:[^,]{0,200}?(;base64)?,", re.IGNORECASE)

FIELD: Final = "input_reference"


def read(reference: object) -> BinaryIO:
    """The bytes of the picture that `reference` stands for.

    Raises:
        MissingImageError: it is nothing.
        InvalidParameterError: it is nothing that is taken here, or cannot be read.
        ImageTooLargeError: the picture behind an http(s) URL is too large.
    """
    if isinstance(reference, UploadedFile):
        return cast(BinaryIO, reference.stream)
    if isinstance(reference, dict):
        reference = reference.get("image_url", reference)
    if isinstance(reference, str) and (data := _DATA_URL.match(reference)):
        return io.BytesIO(_decoded(reference[data.end() :], base64_coded=data.group(1) is not None))
    if isinstance(reference, str) and reference.lower().startswith(("http:", "https:")):
        return io.BytesIO(_fetched(reference))
    if reference:
        raise InvalidParameterError(FIELD, f"{FIELD} must be a file, or an image_url that is a data URL")
    raise MissingImageError(f"Stable Video Diffusion makes videos of pictures: send one as {FIELD}")


def _decoded(text: str, *, base64_coded: bool) -> bytes:
    # Some write the plus and the slash of Base64 as URLs must.
    content = unquote_to_bytes(text)
    if not base64_coded:
        return content
    try:
        return base64.b64decode(content, validate=True)
    except binascii.Error:
        raise InvalidParameterError(FIELD, f"{FIELD}: the data URL is no Base64") from None


def _fetched(url: str) -> bytes:
    settings = jobs().settings
    if not settings.fetch_urls:
        raise InvalidParameterError(FIELD, f"{FIELD}: URLs are not fetched here; send the picture or a data URL")
    # Only where it is used: with TLS it would be a part of the time that this process takes to start.
    from svd_service.api.http.fetch import fetch  # noqa: PLC0415

    return fetch(url, parameter=FIELD, max_bytes=settings.max_upload_bytes)
