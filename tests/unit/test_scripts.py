import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(
    path
    for folder in ("scripts", "tools/images")
    for path in (ROOT / folder).glob("*.sh")
    if "show_usage" in path.read_text() and path.name != "usage.sh"
)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_help_prints_the_first_lines_of_a_script_from_any_folder(script: Path, tmp_path: Path) -> None:
    ran = subprocess.run(
        ["bash", script, "--help"], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=True
    )
    comment = script.read_text().partition("\nset ")[0].splitlines()[1:]
    assert ran.stdout.splitlines() == [line.removeprefix("#").removeprefix(" ") for line in comment]
    assert "usage: " in ran.stdout
