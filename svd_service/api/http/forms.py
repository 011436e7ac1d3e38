"""How a form, a query or a JSON object becomes a struct of a dialect's schema."""

import difflib
import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from enum import Enum
from types import UnionType
from typing import Annotated, Final, TypeVar, Union, get_args, get_origin

import msgspec
from flask import json, request
from werkzeug.datastructures import FileStorage
from werkzeug.exceptions import BadRequest, UnsupportedMediaType

from svd_service import validation
from svd_service.errors import InvalidParameterError
from svd_service.parameters import TABLE

UploadedFile = FileStorage

T = TypeVar("T", bound=msgspec.Struct)

#: msgspec's message for a value that is not one of the choices; and its names of types, in plain words.
_NOT_ONE_OF: Final = "Invalid enum value"
_KINDS: Final = {"`int`": "a whole number", "`float`": "a number", "`str`": "text", "`bool`": "true or false"}

#: Characters of a wrong value that are worth repeating, and bits of a number.
_REPEATED: Final = 60
_MAX_BITS: Final = 200

#: Numbers as people and programs write them: `7`, `+7`, `7.0`; and with fractions and exponents.
_WHOLE: Final = re.compile(r"([+-]?[0-9]{1,20})(?:\.0{0,20})?")
_NUMBER: Final = re.compile(r"[+-]?(?:[0-9]{1,40}(?:\.[0-9]{0,40})?|\.[0-9]{1,40})(?:[eE][+-]?[0-9]{1,3})?")

#: Content types of a form.
_FORMS: Final = frozenset({"multipart/form-data", "application/x-www-form-urlencoded"})

#: Fields that may be present several times.
LISTS: Final = (*(name for name, row in TABLE.items() if row.is_list), "seeds")


def parse(schema: type[T]) -> T:
    """The present request's form or JSON object as a `schema`; without a body, one without fields.

    Raises:
        InvalidParameterError: a field is unknown, missing or out of bounds; the error names it.
        BadRequest: the body says that it is JSON, and is no JSON object.
        UnsupportedMediaType: the body is neither a form nor JSON.
    """
    # Some HTTP clients name JSON as the content type of every request, also of one without a body.
    return convert(schema, json_fields() if request.is_json and request.get_data() else form_fields())


def parse_form(schema: type[T]) -> T:
    """The present request's form and files as a `schema`, which has files and therefore no JSON.

    Raises:
        InvalidParameterError: a field is unknown, missing or out of bounds; the error names it.
        UnsupportedMediaType: the body is no form.
    """
    return convert(schema, form_fields(accepted="multipart/form-data"))


def form_fields(accepted: str = "multipart/form-data or application/json") -> dict[str, object]:
    """The present request's form and files by name; an empty field is no field. `accepted` is for the error's message.

    Raises:
        UnsupportedMediaType: there is a body, and it is no form: its fields would be ignored.
    """
    if request.mimetype not in _FORMS and request.stream.read(1):
        kind = shown(request.mimetype) if request.mimetype else "none"
        raise UnsupportedMediaType(f"the request's Content-Type must be {accepted}; got {kind}")
    fields: dict[str, object] = {name: value for name, value in request.form.items() if value.strip()}
    for name in LISTS:
        # `name[]` is how the `openai` package writes a list.
        fields.pop(f"{name}[]", None)
        values = [value for each in (name, f"{name}[]") for value in request.form.getlist(each) if value.strip()]
        if len(values) > 1 or (values and name not in fields):
            fields[name] = values
    return fields | dict(request.files.items())


def json_fields() -> dict[str, object]:
    """The present request's JSON object; `null` is no field.

    Raises:
        BadRequest: the body is no JSON object.
    """
    body = request.get_json(silent=True)
    if not isinstance(body, dict):
        raise BadRequest("the request's body must be a JSON object")
    return {name: value for name, value in body.items() if value is not None}


def decoded_object(value: object) -> object:
    """The JSON object that a text is, as forms write objects; any other value as it is."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        with suppress(ValueError):
            return json.loads(value)
    return value


def parse_query(schema: type[T]) -> T:
    """The present request's query as a `schema`; an empty parameter is none.

    Raises:
        InvalidParameterError: a parameter is out of bounds; the error names it.
    """
    return convert(schema, {name: value for name, value in request.args.items() if value.strip()})


def convert(schema: type[T], fields: Mapping[str, object]) -> T:
    """`fields` as a `schema`; texts may stand for numbers.

    Raises:
        InvalidParameterError: a field is unknown, missing or out of bounds; the error names it.
    """
    known = schema.__struct_encode_fields__
    unknown = next(iter(fields.keys() - {*known}), None)
    if schema.__struct_config__.forbid_unknown_fields and unknown is not None:
        raise _unknown(unknown, known)
    plain = {name: _plain(name, value, _kinds_of(schema)[name]) for name, value in fields.items() if name in known}
    try:
        return validation.convert(plain, schema, strict=False)
    except msgspec.ValidationError as error:
        raise _named(schema, fields, error) from None


def _unknown(name: str, known: Sequence[str]) -> InvalidParameterError:
    # A name may have 25 MB; comparing takes time in proportion to the square of its length.
    short = name if len(name) <= _REPEATED else f"{name[:_REPEATED]}…"
    near = difflib.get_close_matches(short.lower(), known, n=1)
    return InvalidParameterError(short, f"there is no field {short}" + (f"; do you mean {near[0]}?" if near else ""))


def _plain(name: str, value: object, kinds: frozenset[object]) -> object:
    """A value without what people and programs write around it: spaces, a plus, the fraction of a whole number.

    Raises:
        InvalidParameterError: text stands for a number, and is none.
    """
    if isinstance(value, float) and float not in kinds and value.is_integer():
        return int(value) if int in kinds else value
    if not isinstance(value, str) or str in kinds or not kinds & {int, float, *_enums(kinds)}:
        return value
    text = value.strip()
    if float in kinds:
        if not _NUMBER.fullmatch(text):
            raise InvalidParameterError(name, f"{name} must be a number; got {shown(value)}")
        return float(text)
    whole = _WHOLE.fullmatch(text) if int in kinds else None
    return int(whole[1]) if whole else text


def _enums(kinds: frozenset[object]) -> set[object]:
    return {kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Enum)}


@functools.cache
def _kinds_of(schema: type[msgspec.Struct]) -> dict[str, frozenset[object]]:
    """The types that each field takes, without what annotations and unions say beside them."""

    def leaves(kind: object) -> Iterator[object]:
        if get_origin(kind) is Annotated:
            yield from leaves(get_args(kind)[0])
        elif get_origin(kind) in {Union, UnionType}:
            for each in get_args(kind):
                yield from leaves(each)
        else:
            yield kind

    return {field.encode_name: frozenset(leaves(field.type)) for field in msgspec.structs.fields(schema)}


def _named(schema: type[T], fields: Mapping[str, object], error: msgspec.ValidationError) -> InvalidParameterError:
    """Msgspec names the field at the end of its message, if at all: `… - at `$.seed``, or "field `seed`"."""
    reason, _, place = str(error).rpartition(" - at `$.")
    reason, name = (reason, place.rstrip("`")) if reason else (place, place.split("`")[1] if "`" in place else "")
    name = re.split(r"[.\[]", name, maxsplit=1)[0]
    if name not in fields:
        return InvalidParameterError(name, f"{name} is missing")
    if reason.startswith(_NOT_ONE_OF):
        wanted = "one of " + ", ".join(_values_of(schema, name))
    elif reason.startswith("Invalid RFC3339"):
        wanted = "a date such as 2026-01-31"
    else:
        wanted = reason.removeprefix("Expected ").partition(", got")[0]
        wanted = re.sub("`[a-z]+`", lambda kind: _KINDS.get(kind[0], kind[0]), wanted)
    return InvalidParameterError(name, f"{name} must be {wanted}; got {shown(fields[name])}")


def _values_of(schema: type[T], name: str) -> list[str]:
    """The values that there are for a field that takes an enum's or a literal's."""
    (kind,) = (each.type for each in msgspec.structs.fields(schema) if each.encode_name == name)
    while get_args(kind) and not isinstance(get_args(kind)[0], str):
        kind = get_args(kind)[0]  # what an annotation or a union is about
    return [str(value) for value in get_args(kind) or kind]


def shown(value: object) -> str:
    """A wrong value as an error repeats it, cut before it is looked at: it may have 25 MB, or a thousand levels."""
    if isinstance(value, UploadedFile):
        return "a file"
    if isinstance(value, list | tuple | dict):
        return "a list" if isinstance(value, list | tuple) else "an object"
    if isinstance(value, int) and value.bit_length() > _MAX_BITS:
        return "a larger number"
    text = repr(value[: _REPEATED + 1] if isinstance(value, str) else value)
    return text if len(text) <= _REPEATED else f"{text[:_REPEATED]}…"
