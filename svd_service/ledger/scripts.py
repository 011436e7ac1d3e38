"""The Lua scripts that change the ledger, loaded from a folder and run in one namespace."""

from pathlib import Path
from typing import Any, Final

import redis

from svd_service.ledger.client import reachable

#: Folder of the ledger's scripts.
LUA: Final = Path(__file__).parent / "lua"


class Scripts:
    """The scripts of a folder, over one client and namespace. Each is read when it is first used.

    Every method raises `UnavailableError` when Redis cannot be reached or does not answer in time. The script may then
    have run or not; running it again with the same arguments is safe.
    """

    def __init__(self, client: "redis.Redis", namespace: str, folder: Path = LUA) -> None:
        self.redis = client
        self.namespace = namespace
        self._folder = folder
        self._loaded: dict[str, Any] = {}

    def run(self, name: str, *args: str | float) -> Any:
        """Run the script `name`; returns its answer."""
        script = self._loaded.get(name) or self._load(name)
        with reachable():
            return script(keys=[self.namespace], args=list(args))

    def key(self, *parts: str) -> str:
        """The name of a key of this namespace."""
        return ":".join((self.namespace, *parts))

    def _load(self, name: str) -> Any:
        prelude = (LUA / "prelude.lua").read_text()
        script = self.redis.register_script(prelude + (self._folder / f"{name}.lua").read_text())
        self._loaded[name] = script
        return script
