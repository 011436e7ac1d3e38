import subprocess
import sys

import msgspec
import pytest

from svd_service import validation

#: Uses 200 types, each in eight threads that begin at the same time. With a fault in this the process ends by a signal.
IN_THREADS = """
import sys, threading
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated

import msgspec

from svd_service import validation

NAMES = [f"field_{number}" for number in range(30)]
VALUES = dict.fromkeys(NAMES, 1)
TEXT = msgspec.json.encode(VALUES)


def used(kind, together, number):
    together.wait()
    return validation.convert(VALUES, kind) if number % 2 else validation.decode(TEXT, kind)


sys.setswitchinterval(1e-6)
with ThreadPoolExecutor(8) as threads:
    for _ in range(200):
        bounds = [msgspec.Meta(ge=0, le=1_000 + len(name)) for name in NAMES]
        kind = msgspec.defstruct("Kind", [(name, Annotated[int, bound]) for name, bound in zip(NAMES, bounds)])
        made = set(map(msgspec.json.encode, threads.map(used, [kind] * 8, [threading.Barrier(8)] * 8, range(8))))
        assert made == {TEXT}
"""


class Person(msgspec.Struct):
    name: str
    age: int = 0


def test_values_and_json_become_typed():
    assert validation.convert({"name": "Ann", "age": "7"}, Person, strict=False) == Person("Ann", 7)
    assert validation.decode(b'{"name": "Ann"}', Person) == Person("Ann")
    with pytest.raises(msgspec.ValidationError):
        validation.convert({"name": "Ann", "age": "7"}, Person)
    with pytest.raises(msgspec.DecodeError):
        validation.decode(b"{", Person)


def test_a_type_may_first_be_used_in_several_threads_at_once():
    command = [sys.executable, "-c", IN_THREADS]
    program = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert program.returncode == 0, program.stderr
