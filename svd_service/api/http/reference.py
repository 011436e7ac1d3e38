"""The image of a request: a file of the form, a data URL, or an http(s) URL. `field` is its name in the dialect."""

import base64
import binascii
import io
import re
from typing import BinaryIO, Final, cast
from urllib.parse import unquote_to_bytes

from flask import request

from svd_service.api.http.context import jobs
from svd_service.api.http.forms import UploadedFile
from svd_service.errors import ImageTooLargeError, InvalidParameterError, MissingImageError

#: A data URL as browsers take it (WHATWG, Fetch): the media type may be missing, and spaces may stand before `base64`.
#: The type is ignored, since the bytes themselves say what they are.
_DATA_URL: Final = re.compile(r"\s*data:[^,]{0,1000}?(; *base64 *)?,", re.IGNORECASE)

#: What Base64 in a data URL may have between its letters, and how URLs write its last two (RFC 4648, section 5).
_WHITESPACE: Final = b" \t\n\f\r"
_LETTERS: Final = bytes.maketrans(b"-_", b"+/")

#: Percent escapes of a data URL. Each takes 0.3 µs and for a while 70 bytes; Base64 needs next to none.
_MAX_ESCAPES: Final = 1_000_000

#: Bytes allowed beside the image, for the other fields of a request; a prompt may have 32,000 characters.
_OVERHEAD: Final = 262_144


def accept_data_urls() -> None:
    """Raise the size limit of the current request: Base64 makes four characters of three bytes."""
    most = jobs().settings.max_upload_bytes * 4 // 3 + _OVERHEAD
    request.max_content_length = request.max_form_memory_size = most


def read(reference: object, field: str) -> BinaryIO:
    """The bytes of the image in `reference`: an uploaded file, a data URL, an http(s) URL, or `{"image_url": …}`.

    Raises:
        MissingImageError: it is empty.
        InvalidParameterError: it is of another kind, or cannot be read.
        ImageTooLargeError: the image behind an http(s) URL is too large.
    """
    if isinstance(reference, UploadedFile):
        return cast(BinaryIO, reference.stream)
    if isinstance(reference, dict):
        reference = reference.get("image_url", reference)
    if isinstance(reference, str) and (data := _DATA_URL.match(reference)):
        return io.BytesIO(_decoded(reference[data.end() :], field, base64_coded=data.group(1) is not None))
    if isinstance(reference, str) and reference.lower().startswith(("http:", "https:")):
        return io.BytesIO(_fetched(reference, field))
    if reference:
        raise InvalidParameterError(field, f"{field} must be a file, a data URL, or an object with such an image_url")
    raise MissingImageError(f"Stable Video Diffusion makes videos from images: send one as {field}")


def _decoded(text: str, field: str, *, base64_coded: bool) -> bytes:
    # Some write the plus and the slash of Base64 as URLs must. A fragment is no part of the data.
    content = _percent_decoded(text.partition("#")[0])
    if not base64_coded:
        return content
    letters = content.translate(_LETTERS, _WHITESPACE).rstrip(b"=")
    try:
        return base64.b64decode(letters + b"=" * (-len(letters) % 4), validate=True)
    except binascii.Error:
        raise InvalidParameterError(field, f"{field}: the data URL is not valid Base64") from None


def _percent_decoded(text: str) -> bytes:
    escapes = text.count("%")
    if escapes > _MAX_ESCAPES:
        raise ImageTooLargeError(f"the data URL has more than {_MAX_ESCAPES:,} percent escapes; use Base64 instead")
    content = text.encode(errors="replace")
    return unquote_to_bytes(content) if escapes else content


def _fetched(url: str, field: str) -> bytes:
    settings = jobs().settings
    if not settings.fetch_urls:
        raise InvalidParameterError(field, f"{field}: URLs are not fetched here; send the image or a data URL")
    # Only where it is used: with TLS it would be a part of the time that this process takes to start.
    from svd_service.api.http.fetch import fetch  # noqa: PLC0415

    return fetch(url, parameter=field, max_bytes=settings.max_upload_bytes)
