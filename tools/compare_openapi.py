"""Compare two OpenAPI documents, apart from descriptions.

    python -m tools.compare_openapi BEFORE.json AFTER.json

Prints each difference with its JSON pointer, and how many descriptions and summaries differ. Exits with 1 if anything
else differs. With `--write FILE` it writes the document of this checkout instead:

    python -m tools.compare_openapi --write AFTER.json
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from svd_service.api import create_app
from svd_service.config import Settings

#: Keywords whose value is a description if it is a string.
TEXTS: Final = {"description", "summary"}


def differences(before: Any, after: Any, at: str = "") -> Iterator[tuple[str, str]]:
    """Yield pointer and kind of each difference: `removed`, `added`, `text` (a description) or `changed`."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name in sorted({*before, *after}):
            where = f"{at}/{name.replace('~', '~0').replace('/', '~1')}"
            if name in TEXTS and all(isinstance(each.get(name, ""), str) for each in (before, after)):
                if before.get(name) != after.get(name):
                    yield where, "text"
            elif name not in after:
                yield where, "removed"
            elif name not in before:
                yield where, "added"
            else:
                yield from differences(before[name], after[name], where)
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, pair in enumerate(zip(before, after, strict=True)):
            yield from differences(*pair, f"{at}/{index}")
    elif before != after:
        yield at, "changed"


def document() -> Any:
    """Return the OpenAPI document of this checkout, with default settings."""
    with tempfile.TemporaryDirectory() as folder:
        app = create_app(Settings.from_mapping({"SVD_DEVICES": "cpu", "SVD_DATA_DIR": folder}))
        return app.test_client().get("/openapi.json").get_json()


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", nargs="?", type=Path, metavar="BEFORE.json")
    parser.add_argument("after", nargs="?", type=Path, metavar="AFTER.json")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write this checkout's document to FILE")
    options = parser.parse_args(arguments)
    if options.write:
        options.write.write_text(json.dumps(document(), indent=1, sort_keys=True), encoding="utf-8")
        return 0
    if not options.before or not options.after:
        parser.error("two documents are required")
    documents = (json.loads(path.read_text(encoding="utf-8")) for path in (options.before, options.after))
    found = list(differences(*documents))
    others = [(where, kind) for where, kind in found if kind != "text"]
    for where, kind in others:
        print(f"{kind}: {where}")
    print(f"{len(found) - len(others)} texts differ, {len(others)} other differences")
    return 1 if others else 0


if __name__ == "__main__":
    sys.exit(main())
