"""The Lua scripts that change the ledger, loaded from a folder and run in one namespace.

A script's first lines are comments: what it does, its arguments, what it returns; then

- `-- include: name, …`: files of `lua/lib` that it needs (each of which may include others), and
- `-- flags: allow-oom` or `no-writes`, for Redis: it also runs when memory is full, or where Redis accepts no writes.
  Redis rejects a script without flags that adds something when memory is full.

It takes one namespace as key and one JSON object as argument.
"""

import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Final

import redis

from svd_service.ledger.connection import reachable
from svd_service.ledger.constants import Constants

#: Folder of the ledger's scripts.
LUA: Final = Path(__file__).parent / "lua"

_HEAD: Final = re.compile(r"^-- (include|flags): (.+)$", re.MULTILINE)


class Scripts:
    """The scripts of a folder, over one client and namespace. Each is read when it is first used.

    Every method raises `UnavailableError` when Redis cannot be reached or does not answer in time. The script may then
    have run or not; running it again with the same arguments is safe.

    `clock` gives the time in seconds since the epoch; by default it is Redis' own.
    """

    def __init__(
        self,
        client: "redis.Redis",
        namespace: str,
        folder: Path = LUA,
        constants: Constants | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.redis = client
        self.namespace = namespace
        self._folder = folder
        self._constants = constants or Constants()
        self._clock = clock
        self._loaded: dict[str, Any] = {}

    def run(self, name: str, /, **arguments: object) -> Any:
        """Run the script `name`; returns its answer. Arguments that are `None` are left out."""
        script = self._loaded.get(name)
        if script is None:
            script = self._loaded[name] = self.redis.register_script(source(name, self._folder, self._constants))
        given = {key: value for key, value in arguments.items() if value is not None}
        if self._clock is not None:
            given["now"] = self._clock()
        with reachable():
            return script(keys=[self.namespace], args=[json.dumps(given, ensure_ascii=False, separators=(",", ":"))])

    def now(self) -> float:
        """The time of the scripts, in seconds since the epoch."""
        if self._clock is not None:
            return self._clock()
        with reachable():
            seconds, microseconds = self.redis.time()
        return float(seconds) + microseconds / 1e6

    def key(self, *parts: str) -> str:
        """The name of a key of this namespace."""
        return ":".join((self.namespace, *parts))


@cache
def source(name: str, folder: Path, constants: Constants) -> str:
    """The whole text of a script: its flags, the constants, what it includes, itself."""
    text = (folder / f"{name}.lua").read_text(encoding="utf-8")
    head = dict(_HEAD.findall(text))
    libraries: dict[Path, str] = {}
    for included in _names(head.get("include", "base")):
        _include(included, folder, libraries)
    shebang = f"#!lua flags={head['flags']}\n" if "flags" in head else ""
    return shebang + "\n".join([constants.as_lua(), *libraries.values(), text])


def _include(name: str, folder: Path, libraries: dict[Path, str]) -> None:
    """Add a library behind those that it includes itself."""
    path = next(where for each in (folder, LUA) if (where := each / "lib" / f"{name}.lua").is_file())
    if path in libraries:
        return
    text = path.read_text(encoding="utf-8")
    for included in _names(dict(_HEAD.findall(text)).get("include", "")):
        _include(included, folder, libraries)
    libraries[path] = text


def _names(listed: str) -> list[str]:
    return [name for name in listed.replace(" ", "").split(",") if name]
