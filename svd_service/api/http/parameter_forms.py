"""The parameters of the table (`svd_service/parameters.py`) as fields of a dialect's form."""

from collections.abc import Callable
from typing import Annotated, Any, Final, TypeVar, cast

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from svd_service.api.http import forms
from svd_service.errors import InvalidParameterError
from svd_service.jobs.parameters import VideoRequest
from svd_service.parameters import OF_THE_VIDEO, TABLE, Parameter, RequestParameters, VideoParameters


class ParameterForm(Struct, kw_only=True, forbid_unknown_fields=True):
    """A form with parameters of the table; `takes_parameters` adds the fields."""

    def parameters(self) -> RequestParameters:
        """The parameters that the request sets.

        Raises:
            InvalidParameterError: a list has a value that does not exist.
        """
        given = {name: getattr(self, name) for name in self.__struct_fields__ if name in TABLE}
        values = {
            name: list_of(TABLE[name], value) if TABLE[name].is_list else value
            for name, value in given.items()
            if value is not UNSET
        }
        return cast(RequestParameters, values)


T = TypeVar("T", bound=ParameterForm)


def takes_parameters(*names: str) -> Callable[[type[T]], type[T]]:
    """Give the decorated form a field for each named parameter, by default for all of the table.

    A field that the form declares itself is left as it is: a dialect may have its own limits or description.
    """

    def extend(form: type[T]) -> type[T]:
        chosen = [TABLE[name] for name in names or TABLE if name not in form.__struct_fields__]
        extended = msgspec.defstruct(
            form.__name__,
            [(row.name, *_field(row)) for row in chosen],
            bases=(form,),
            module=form.__module__,
            namespace={"__doc__": form.__doc__},
            kw_only=True,
            forbid_unknown_fields=True,
        )
        return cast(type[T], extended)

    return extend


def _field(row: Parameter) -> tuple[Any, Any]:
    """Type and default of a parameter's field."""
    if row.is_list:
        return _list_type(row), UNSET
    limits = {
        "ge": row.spec.minimum,
        "le": row.spec.maximum,
        "multiple_of": row.spec.multiple_of,
        "max_length": row.spec.max_length,
    }
    applied: dict[str, Any] = {name: limit for name, limit in limits.items() if limit is not None}
    # What a request omits may also come from the video that it extends. So such a parameter has no default, which
    # generated clients would send.
    is_inherited = row.name in OF_THE_VIDEO or row.spec.default is None
    shown = None if is_inherited else {"default": row.spec.default}
    return Annotated[
        row.kind, Meta(description=row.spec.description, extra_json_schema=shown, **applied)
    ] | UnsetType, UNSET


def _list_type(row: Parameter) -> Any:
    """Text with commas between the values, such as `webp,gif`, or a list of them."""
    choices = [str(value) for value in row.kind]  # type: ignore[attr-defined]  # lists are of enums
    any_of: Final = "|".join(choices)
    # As a union of text and list, with a pattern, msgspec 0.22 frees something twice; so `list_of` validates instead.
    return Annotated[
        Any,
        Meta(
            description=row.spec.description,
            extra_json_schema={
                "anyOf": [
                    # A form's empty field counts as missing.
                    {"type": "string", "pattern": f"^( *({any_of})( *, *({any_of}))* *)?$"},
                    {"type": "array", "items": {"type": "string", "enum": choices}},
                ]
            },
        ),
    ]


def list_of(row: Parameter, value: object) -> tuple[Any, ...]:
    """The values of a list parameter.

    Raises:
        InvalidParameterError: a value does not exist.
    """
    # A form may have the field several times, and each of the values may itself have commas.
    texts = value if isinstance(value, list) else [value]
    names = [name.strip() if isinstance(text, str) else "" for text in texts for name in str(text).split(",")]
    try:
        return tuple(map(row.kind, names))
    except ValueError:
        choices = ", ".join(map(str, row.kind))  # type: ignore[call-overload]
        raise InvalidParameterError(row.name, f"{row.name}: any of {choices}; got {forms.shown(value)}") from None


def video_request(parameters: RequestParameters, *, model: str | None) -> VideoRequest:
    """The part of `parameters` that the video depends on, as a request for `model`; `None`: for the service's own."""
    values = {name: value for name, value in parameters.items() if name in OF_THE_VIDEO}
    return VideoRequest(model or None, **cast(VideoParameters, values))
