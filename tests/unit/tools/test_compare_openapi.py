import json
from pathlib import Path
from typing import Any

import pytest

from tools import compare_openapi

DOCUMENT: dict[str, Any] = {
    "paths": {"/a": {"get": {"summary": "A", "parameters": [{"name": "x", "description": "X"}]}}},
    "components": {"schemas": {"A": {"properties": {"description": {"type": "string"}}}}},
}


def compared(after: Any) -> list[tuple[str, str]]:
    return list(compare_openapi.differences(DOCUMENT, after))


def changed(old: str, new: str) -> Any:
    return json.loads(json.dumps(DOCUMENT).replace(old, new))


@pytest.mark.parametrize(
    ("after", "found"),
    [
        (changed('"X"', '"Y"'), [("/paths/~1a/get/parameters/0/description", "text")]),
        (changed(', "description": "X"', ""), [("/paths/~1a/get/parameters/0/description", "text")]),
        (changed('"A", "par', '"B", "par'), [("/paths/~1a/get/summary", "text")]),
        (changed('"x"', '"y"'), [("/paths/~1a/get/parameters/0/name", "changed")]),
        (changed('"string"', '"number"'), [("/components/schemas/A/properties/description/type", "changed")]),
        (changed('"/a"', '"/b"'), [("/paths/~1a", "removed"), ("/paths/~1b", "added")]),
    ],
)
def test_texts_are_distinguished_from_other_differences(after: Any, found: list[tuple[str, str]]) -> None:
    assert compared(after) == found


def test_the_exit_status_is_1_if_more_than_texts_differ(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = []
    for name, content in (("before", DOCUMENT), ("text", changed('"X"', '"Y"')), ("name", changed('"x"', '"y"'))):
        path = tmp_path / name
        path.write_text(json.dumps(content))
        paths.append(str(path))
    before, text, name = paths
    assert compare_openapi.main([before, text]) == 0
    assert capsys.readouterr().out == "1 texts differ, 0 other differences\n"
    assert compare_openapi.main([before, name]) == 1


def test_the_document_of_this_checkout_equals_itself(tmp_path: Path) -> None:
    path = tmp_path / "now.json"
    assert compare_openapi.main(["--write", str(path)]) == 0
    assert compare_openapi.main([str(path), str(path)]) == 0
