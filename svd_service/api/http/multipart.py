"""Forms as they come in: a file may be large, nothing else may.

werkzeug decodes multipart; what its parts become, and how large they may be, is decided here. A part is a file if it
has a file name, in any encoding, or if its field is one for images and it is no text: some clients send images
without a name.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Final, TypeAlias
from urllib.parse import parse_qsl

import flask
from werkzeug.datastructures import FileStorage, Headers, MultiDict
from werkzeug.exceptions import BadRequest, RequestEntityTooLarge
from werkzeug.formparser import FormDataParser
from werkzeug.sansio.multipart import Data, Epilogue, Event, Field, File, MultipartDecoder, NeedData, State

Parsed: TypeAlias = tuple[IO[bytes], MultiDict[str, str], MultiDict[str, FileStorage]]

#: Bytes of the text fields together, and of a form without files: a prompt has up to 32,000 characters, which are
#: 288,000 bytes if each is one of three bytes and each byte is percent-encoded.
MAX_TEXT: Final = 400_000

#: Parts of a form; there are some thirty fields.
MAX_PARTS: Final = 100

#: Bytes of a part's headers, and of what stands before the first part.
_MAX_HEADERS: Final = 16_384

#: Bytes that are read at once.
_CHUNK: Final = 131_072

#: Fields for images, which may also be text: a data URL, as long as the request may be.
_IMAGES: Final = ("image", "input_reference")


#: Large forms are parsed one after another in each process: they take processor time alone, so that several at once
#: would end no sooner, and keep the interpreter from everybody else.
_LARGE: Final = 1_000_000
_ONE_LARGE: Final = threading.Lock()
_TURN: Final = 1.0


@contextmanager
def _turn() -> Iterator[None]:
    """The turn of a large form, or what comes of waiting a second for it."""
    taken = _ONE_LARGE.acquire(timeout=_TURN)
    try:
        yield
    finally:
        if taken:
            _ONE_LARGE.release()


class FormParser(FormDataParser):
    """Forms within limits.

    Raises:
        RequestEntityTooLarge: there are too many parts, or a part that is no image is too large.
        BadRequest: the body is not a form.
    """

    def _parse_multipart(
        self, stream: IO[bytes], mimetype: str, content_length: int | None, options: dict[str, str]
    ) -> Parsed:
        boundary = options.get("boundary", "")
        if not boundary or not boundary.isascii():
            raise BadRequest("the form has no boundary; let the HTTP client set Content-Type")
        if (content_length or 0) > _LARGE:
            # Only for a while: the body of a client that is not buffered may come slowly.
            with _turn():
                return self._parsed(stream, boundary.encode("ascii"), content_length)
        return self._parsed(stream, boundary.encode("ascii"), content_length)

    def _parsed(self, stream: IO[bytes], boundary: bytes, content_length: int | None) -> Parsed:
        form: MultiDict[str, str] = MultiDict()
        files: MultiDict[str, FileStorage] = MultiDict()
        try:
            for part in self._parts(stream, boundary, content_length):
                part.add_to(form, files)
        except ValueError as error:
            raise BadRequest("the form is damaged or cut off") from error
        return stream, self.cls(form), self.cls(files)

    def _parse_urlencoded(
        self, stream: IO[bytes], mimetype: str, content_length: int | None, options: dict[str, str]
    ) -> Parsed:
        body = stream.read(MAX_TEXT + 1)
        if len(body) > MAX_TEXT:
            raise RequestEntityTooLarge("a form this large must be multipart/form-data")
        try:
            fields = parse_qsl(body.decode(errors="replace"), keep_blank_values=True, max_num_fields=MAX_PARTS)
        except ValueError as error:
            raise RequestEntityTooLarge(f"the form has more than {MAX_PARTS} fields") from error
        return stream, self.cls(fields), self.cls()

    def _parts(self, stream: IO[bytes], boundary: bytes, content_length: int | None) -> "Iterator[_Part]":
        part: _Part | None = None
        text_left = MAX_TEXT
        try:
            for event in _events(stream, boundary):
                if isinstance(event, Field | File):
                    container = self.stream_factory(content_length, None, getattr(event, "filename", None), None)
                    part = _Part(event, container)
                elif isinstance(event, Data) and part is not None:
                    text_left -= 0 if part.may_be_large else len(event.data)
                    if text_left < 0:
                        raise RequestEntityTooLarge("the form's fields are too large")
                    part.content.write(event.data)
                    if not event.more_data:
                        complete, part = part, None
                        yield complete
        finally:
            if part is not None:
                part.content.close()


class _Part:
    """A part of a form: a file or a text."""

    def __init__(self, event: Field | File, content: IO[bytes]) -> None:
        self.name = event.name
        self.content = content
        self._headers = event.headers
        self._file_name = getattr(event, "filename", None)
        kind = str(event.headers.get("content-type", "")).partition(";")[0].strip().lower()
        is_image = str(self.name).startswith(_IMAGES)
        self._is_file = self._file_name is not None or (is_image and kind.startswith(("image/", "application/octet")))
        self.may_be_large = self._is_file or is_image

    def add_to(self, form: MultiDict[str, str], files: MultiDict[str, FileStorage]) -> None:
        """Hand it on, complete, if its field has a name."""
        empty = self.content.tell() == 0
        self.content.seek(0)
        if self.name and not self._is_file:
            text = self.content.read()
            self.content.seek(0)
            self._is_file = self.may_be_large and not _is_text(text)
            if not self._is_file:
                form.add(self.name, text.decode(errors="replace"))
        # A browser sends a file field that was left empty, without a name.
        if self.name and self._is_file and (not empty or self._file_name):
            files.add(self.name, FileStorage(self.content, self._file_name or "", self.name, headers=self._headers))
        else:
            self.content.close()


def _is_text(content: bytes) -> bool:
    """No image of a supported format is."""
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


class _Decoder(MultipartDecoder):
    """One that takes headers in any encoding."""

    def _parse_headers(self, data: bytes | bytearray) -> Headers:
        return super()._parse_headers(data.decode(errors="replace").encode())


def _events(stream: IO[bytes], boundary: bytes) -> Iterator[Event]:
    decoder = _Decoder(boundary, max_parts=MAX_PARTS)
    while True:
        chunk = stream.read(_CHUNK)
        decoder.receive_data(chunk or None)
        while not isinstance(event := decoder.next_event(), Epilogue | NeedData):
            yield event
        if isinstance(event, Epilogue) or not chunk:
            return
        if decoder.state in {State.PREAMBLE, State.PART} and len(decoder.buffer) > _MAX_HEADERS:
            raise RequestEntityTooLarge("a part's headers are too large")


class Request(flask.Request):
    """A request whose forms are read by `FormParser`."""

    form_data_parser_class = FormParser
