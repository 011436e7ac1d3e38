"""How a form, a query or a JSON object becomes a struct of a dialect's schema."""

import difflib
import re
from collections.abc import Mapping
from typing import Final, TypeVar, get_args

import msgspec
from flask import request
from werkzeug.datastructures import FileStorage

from svd_service.errors import InvalidParameterError
from svd_service.parameters import TABLE

UploadedFile = FileStorage

T = TypeVar("T", bound=msgspec.Struct)

#: How msgspec says that a value is none of those that there are; and what it calls kinds of values, in plain words.
_NOT_ONE_OF: Final = "Invalid enum value"
_KINDS: Final = {"`int`": "a whole number", "`float`": "a number", "`str`": "text", "`bool`": "true or false"}

#: Characters of a wrong value that are worth repeating.
_REPEATED: Final = 60

#: Fields that may be present several times.
LISTS: Final = tuple(name for name, row in TABLE.items() if row.is_list)


def parse(schema: type[T]) -> T:
    """The present request's form and files as a `schema`; an empty field is no field.

    Raises:
        InvalidParameterError: a field is unknown, missing or out of bounds; the error names it.
    """
    return convert(schema, form_fields())


def form_fields() -> dict[str, object]:
    """The present request's form and files by name; an empty field is no field."""
    fields: dict[str, object] = {name: value for name, value in request.form.items() if value.strip()}
    for name in LISTS:
        # `name[]` is how the `openai` package writes a list.
        fields.pop(f"{name}[]", None)
        values = [value for each in (name, f"{name}[]") for value in request.form.getlist(each) if value.strip()]
        if len(values) > 1 or (values and name not in fields):
            fields[name] = values
    fields.update({name: file for name, file in request.files.items() if file.filename or file.content_length})
    return fields


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
    try:
        return msgspec.convert(fields, schema, strict=False)
    except msgspec.ValidationError as error:
        raise _named(schema, fields, error) from None


def _named(schema: type[T], fields: Mapping[str, object], error: msgspec.ValidationError) -> InvalidParameterError:
    """Msgspec names the field at the end of its message, if at all: `… - at `$.seed``, or "field `seed`"."""
    reason, _, place = str(error).partition(" - at `$.")
    known = schema.__struct_fields__
    name = place.rstrip("`") or next((name for name in reason.split("`") if name in {*known, *fields}), "")
    if name not in known:
        near = difflib.get_close_matches(name.lower(), known, n=1)
        return InvalidParameterError(name, f"there is no field {name}" + (f"; do you mean {near[0]}?" if near else ""))
    if name not in fields:
        return InvalidParameterError(name, f"{name} is missing")
    if reason.startswith(_NOT_ONE_OF):
        wanted = "one of " + ", ".join(_values_of(schema, name))
    else:
        wanted = reason.removeprefix("Expected ").partition(", got")[0]
        wanted = re.sub("`[a-z]+`", lambda kind: _KINDS.get(kind[0], kind[0]), wanted)
    return InvalidParameterError(name, f"{name} must be {wanted}; got {_repeated(fields[name])}")


def _values_of(schema: type[T], name: str) -> list[str]:
    """The values that there are for a field that takes an enum's or a literal's."""
    (kind,) = (each.type for each in msgspec.structs.fields(schema) if each.name == name)
    while get_args(kind) and not isinstance(get_args(kind)[0], str):
        kind = get_args(kind)[0]  # what an annotation or a union is about
    return [str(value) for value in get_args(kind) or kind]


def _repeated(value: object) -> str:
    if isinstance(value, UploadedFile):
        return "a file"
    said = repr(value)
    return said if len(said) <= _REPEATED else f"{said[:_REPEATED]}…"
