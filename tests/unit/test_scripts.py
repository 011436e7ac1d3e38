import os
import shutil
import subprocess
import sys
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


#: `svd-service`, which records its environment, and for `up` its working directory and `.env` there.
RECORDER = """#!/bin/sh
env >"$RECORDS/$1"
[ "$1" = generate ] || { { pwd; cat .env; } >"$RECORDS/folder"; echo Ready; exec sleep 60; }
"""


def test_the_demo_ignores_the_settings_of_another_service(tmp_path: Path) -> None:
    checkout, records = tmp_path / "checkout", tmp_path / "records"
    programs = checkout / ".venv" / "bin"
    for folder in (programs, records):
        folder.mkdir(parents=True)
    shutil.copytree(ROOT / "scripts", checkout / "scripts")
    (checkout / "scripts" / "environment.sh").write_text("say() { :; }\nensure_environment() { :; }\n")
    (programs / "python").symlink_to(sys.executable)
    (programs / "svd-service").write_text(RECORDER)
    (programs / "svd-service").chmod(0o755)
    (checkout / ".env").write_text("SVD_ARTIFACTS=/elsewhere\nHF_TOKEN=hf_test\nREDIS_SENTINELS=127.0.0.1:1\n")
    foreign = {"SVD_API_KEYS": "a:b", "SVD_API_KEY": "c", "REDIS_CA_FILE": "/ca.pem", "SVD_PROFILES": "draft"}
    variables = {"PATH": os.environ["PATH"], "RECORDS": str(records), "SVD_DEVICES": "cpu", **foreign}
    subprocess.run(["bash", checkout / "scripts" / "demo.sh"], cwd=tmp_path, env=variables, timeout=60, check=True)
    given = {
        name: dict(line.split("=", 1) for line in (records / name).read_text().splitlines())
        for name in ("up", "generate")
    }
    assert (records / "folder").read_text() == f"{given['up']['SVD_DATA_DIR']}\nHF_TOKEN=hf_test\n"
    assert given["up"]["SVD_DEVICES"] == "cpu"
    assert {*given["up"], *given["generate"]}.isdisjoint(foreign)
