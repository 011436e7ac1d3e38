"""How a form, a query or a JSON object becomes a struct of a dialect's schema."""

from collections.abc import Mapping
from typing import Final, TypeVar

import msgspec
from flask import request
from werkzeug.datastructures import FileStorage

from svd_service.jobs.errors import InvalidParameterError

UploadedFile = FileStorage

T = TypeVar("T", bound=msgspec.Struct)

#: Fields that may be there several times.
LISTS: Final = ("formats",)


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
    name = place.rstrip("`") or next(
        (name for name in reason.split("`") if name in {*schema.__struct_fields__, *fields}), ""
    )
    return InvalidParameterError(name, f"{name}: {reason[:1].lower()}{reason[1:]}")
