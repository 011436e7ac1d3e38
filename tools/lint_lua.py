"""Check the Lua scripts: each parses, uses only defined names, uses all of its locals, and documents its contract.

    python -m tools.lint_lua

Redis would report an undefined name only when the line runs.
"""

import argparse
import re
import sys
from collections.abc import Iterator
from functools import singledispatchmethod
from pathlib import Path
from typing import Any, Final

from luaparser import ast, astnodes

from svd_service.ledger.constants import Constants
from svd_service.ledger.scripts import LUA, source

ROOT: Final = Path(__file__).parent.parent
FOLDERS: Final = (LUA, ROOT / "svd_service" / "webhooks" / "lua")

#: Maximum lines of a file.
LINES: Final = 100

#: The global names that Redis provides.
GLOBALS: Final = {
    *("KEYS", "ARGV", "redis", "cjson", "math", "string", "table"),
    *("ipairs", "pairs", "pcall", "select", "tonumber", "tostring", "type", "unpack"),
}


class Scope:
    """The names of one block, each with whether it was used."""

    def __init__(self, parent: "Scope | None" = None) -> None:
        self.parent = parent
        self.names: dict[str, bool] = {}

    def use(self, name: str) -> bool:
        """Record that a name is used; return whether it is defined."""
        if name in self.names:
            self.names[name] = True
            return True
        return self.parent.use(name) if self.parent else name in GLOBALS


class Linter:
    """Walks one script and collects undefined and unused names."""

    def __init__(self) -> None:
        self.undefined: set[str] = set()
        self.unused: set[str] = set()

    def block(self, statements: list[Any], parent: Scope | None, names: tuple[str, ...] = ()) -> None:
        """Walk the statements of a block whose scope starts with `names`."""
        scope = Scope(parent)
        scope.names.update(dict.fromkeys(names, True))  # a parameter that a caller passes may be unused
        for statement in statements:
            self.node(statement, scope)
        self.unused |= {name for name, used in scope.names.items() if not used and not name.startswith("_")}

    @singledispatchmethod
    def node(self, node: Any, scope: Scope) -> None:
        """Walk a node within `scope`."""
        if isinstance(node, astnodes.Node):
            for part in _parts(node):
                self.node(part, scope)

    @node.register
    def _local(self, node: astnodes.LocalAssign, scope: Scope) -> None:
        for value in node.values or []:
            self.node(value, scope)
        scope.names.update({target.id: False for target in node.targets})

    @node.register
    def _local_function(self, node: astnodes.LocalFunction, scope: Scope) -> None:
        scope.names[node.name.id] = False
        self._function(node, scope)

    @node.register
    def _anonymous(self, node: astnodes.AnonymousFunction, scope: Scope) -> None:
        self._function(node, scope)

    @node.register
    def _count(self, node: astnodes.Fornum, scope: Scope) -> None:
        for part in (node.start, node.stop, node.step):
            self.node(part, scope)
        self.block(node.body.body, scope, (node.target.id,))

    @node.register
    def _iterate(self, node: astnodes.Forin, scope: Scope) -> None:
        for part in node.iter:
            self.node(part, scope)
        self.block(node.body.body, scope, tuple(target.id for target in node.targets))

    @node.register
    def _block(self, node: astnodes.Block, scope: Scope) -> None:
        self.block(node.body, scope)

    @node.register
    def _index(self, node: astnodes.Index, scope: Scope) -> None:
        self.node(node.value, scope)
        if node.notation == astnodes.IndexNotation.SQUARE:
            self.node(node.idx, scope)

    @node.register
    def _field(self, node: astnodes.Field, scope: Scope) -> None:
        self.node(node.value, scope)
        if not isinstance(node.key, astnodes.Name):
            self.node(node.key, scope)

    @node.register
    def _name(self, node: astnodes.Name, scope: Scope) -> None:
        if not scope.use(node.id):
            self.undefined.add(node.id)

    def _function(self, node: Any, scope: Scope) -> None:
        names = tuple(argument.id for argument in node.args if isinstance(argument, astnodes.Name))
        self.block(node.body.body, scope, names)


def _parts(node: Any) -> Iterator[Any]:
    for value in vars(node).values():
        if isinstance(value, astnodes.Node):
            yield value
        elif isinstance(value, list):
            yield from (each for each in value if isinstance(each, astnodes.Node))


def lint(path: Path, folder: Path) -> list[str]:
    """Return the problems of a script."""
    text = path.read_text()
    whole = source(path.stem, folder, Constants())
    linter = Linter()
    linter.block(ast.parse(re.sub(r"^#!.*\n", "", whole)).body.body, None)
    own = set(re.findall(r"\blocal (?:function )?(\w+)", text))
    found = [f"{path.name}: {name} is not defined" for name in sorted(linter.undefined)]
    found += [f"{path.name}: {name} is not used" for name in sorted(linter.unused & own)]
    head = text.split("\n-- include:", 1)[0]
    found += [f"{path.name}: the head has no {word!r}" for word in ("rguments", "eturns") if word not in head]
    return found


def main() -> int:
    """Print all problems; return 1 if there are any."""
    argparse.ArgumentParser(prog="python -m tools.lint_lua", description="Check the Lua scripts.").parse_args()
    found = []
    for folder in FOLDERS:
        for path in sorted(folder.glob("*.lua")):
            found += lint(path, folder)
        for path in sorted(folder.rglob("*.lua")):
            lines = len(path.read_text().splitlines())
            found += [f"{path.name}: {lines} lines; at most {LINES}"] if lines > LINES else []
    print("\n".join(found) or "the Lua scripts have no problems")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
