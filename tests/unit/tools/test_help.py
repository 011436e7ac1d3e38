"""The command lines of the tools; here, since most of them import torch."""

import runpy
import sys

import pytest

from tools.harness.local import ROOT


@pytest.mark.thorough
@pytest.mark.parametrize(
    "name",
    sorted(
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
        for path in (ROOT / "tools").rglob("*.py")
        if "__main__" in path.read_text() or path.name == "__main__.py"
    ),
)
def test_every_tool_prints_its_help(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # In this process, which has imported torch already: a new Python for each would take two minutes in total.
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    for module in (name, f"{name}.__main__"):  # which other tests may have imported
        monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(SystemExit) as done:
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    assert done.value.code in (0, None)
    assert "usage" in capsys.readouterr().out.lower()
