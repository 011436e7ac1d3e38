"""From a mapping of environment variables to checked settings.

`kind` is a struct whose fields are named like their variables when encoded, with the types of `types.py`.
"""

import functools
import typing
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from svd_service import validation
from svd_service.environment import ConfigurationError, checks
from svd_service.environment.types import Check, SecretMark

_Struct = TypeVar("_Struct", bound=msgspec.Struct)


def convert(kind: type[_Struct], values: Mapping[str, object]) -> _Struct:
    """A `kind` from a mapping of variable names; an empty value counts as missing, other names are ignored.

    Secrets lose surrounding whitespace: those of Kubernetes often end in the newline of the file that they came from.

    Raises:
        ConfigurationError: a variable has an invalid value.
    """
    values = {**values, **_stripped(values, secrets(kind))}
    names = [field.encode_name for field in msgspec.structs.fields(kind)]
    given = {name: values[name] for name in names if is_set(values, name)}
    # One by one, so that the message names the variable and its value.
    for name, value in given.items():
        try:
            validation.convert({name: value}, kind, strict=False, dec_hook=_path)
        except (msgspec.ValidationError, ValueError, RuntimeError) as error:  # RuntimeError: ~ of an unknown user
            raise _invalid(kind, name, value, str(error).removesuffix(f" - at `$.{name}`")) from None
    made = validation.convert(given, kind, strict=False, dec_hook=_path)
    for field in msgspec.structs.fields(kind):
        value = getattr(made, field.name)
        for fault in _faults(value, _marks(kind)[field.encode_name]):
            raise _invalid(kind, field.encode_name, value, fault)
    return made


def is_set(values: Mapping[str, object], name: str) -> bool:
    """Whether `values` has a value for the variable `name` that is not empty."""
    return values.get(name) not in {None, ""}


def secrets(kind: type[msgspec.Struct]) -> frozenset[str]:
    """The variables of the fields that are `types.Secret`."""
    return frozenset(name for name, marks in _marks(kind).items() if SecretMark in marks)


def _stripped(values: Mapping[str, object], names: Iterable[str]) -> dict[str, str]:
    return {name: value.strip() for name in names if isinstance(value := values.get(name), str)}


@functools.cache
def _marks(kind: type[msgspec.Struct]) -> dict[str, tuple[object, ...]]:
    """The parts of each field's type, by variable: the annotations among them."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return {field.encode_name: tuple(_parts(hints[field.name])) for field in msgspec.structs.fields(kind)}


def _parts(hint: object) -> Iterator[object]:
    for part in typing.get_args(hint):
        yield part
        yield from _parts(part)


def _faults(value: object, marks: tuple[object, ...]) -> Iterator[str]:
    """What is wrong with a value although it is of the right type."""
    if value is None or value == "":
        return
    numbers = [Check(checks.count)] if type(value) is int else [Check(checks.seconds)] if type(value) is float else []
    for check in [*numbers, *(mark for mark in marks if isinstance(mark, Check))]:
        if fault := check.fault(value):
            yield fault


def _invalid(kind: type[msgspec.Struct], name: str, value: object, reason: str) -> ConfigurationError:
    shown = "***" if name in secrets(kind) else repr(str(value) if isinstance(value, Path) else value)
    return ConfigurationError(f"{name}={shown}: {reason}")


def _path(kind: type, value: Any) -> Any:
    if kind is Path:
        return Path(value).expanduser().resolve()
    raise NotImplementedError(kind)
