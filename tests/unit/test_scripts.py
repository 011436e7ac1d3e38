import os
import re
import shutil
import signal
import subprocess
import sys
import time
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


def program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def copy_of_the_scripts(folder: Path) -> tuple[Path, Path]:
    """A folder with scripts/ and an environment that needs no installation, and one for records."""
    checkout, records = folder / "checkout", folder / "records"
    for each in (checkout / ".venv" / "bin", records):
        each.mkdir(parents=True)
    shutil.copytree(ROOT / "scripts", checkout / "scripts")
    (checkout / "scripts" / "environment.sh").write_text("say() { :; }\nensure_environment() { :; }\n")
    (checkout / ".venv" / "bin" / "python").symlink_to(sys.executable)
    return checkout, records


#: `svd-service`, which records its environment, and for `up` its working directory and `.env` there.
RECORDER = """#!/bin/sh
env >"$RECORDS/$1"
[ "$1" = generate ] || { { pwd; cat .env; } >"$RECORDS/folder"; echo Ready; exec sleep 60; }
"""


def test_the_demo_ignores_the_settings_of_another_service(tmp_path: Path) -> None:
    checkout, records = copy_of_the_scripts(tmp_path)
    program(checkout / ".venv" / "bin" / "svd-service", RECORDER)
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


#: Of bash 4 and of GNU's tools; macOS has bash 3.2 and BSD's.
NOT_ON_MACOS = re.compile(
    r"(declare|local) -[An]|mapfile|readarray|wait -n|\|&|&>>|\$\{\w+[,^@]"
    r"|(tail|head|wc|sort) .*--|sed -i|readlink -f|xargs -r"
    # An array that may be empty, without `${array[@]+…}`.
    r'|(?<!\+)"\$\{(marked|coverage|arguments)\[@\]'
)


@pytest.mark.parametrize("name", ["build_images", "check", "demo", "environment", "test", "usage"])
def test_the_scripts_run_on_macos(name: str) -> None:
    assert NOT_ON_MACOS.findall((ROOT / "scripts" / f"{name}.sh").read_text()) == []


def start_tests(checkout: Path, records: Path, lane: str) -> "subprocess.Popen[str]":
    """Start scripts/test.sh in a process group of its own, with `lane`, a shell script, instead of Python."""
    program(checkout / "scripts" / "check.sh", "#!/bin/sh\n")
    (checkout / ".venv" / "bin" / "python").unlink()
    program(checkout / ".venv" / "bin" / "python", f"#!/bin/sh\necho $3\n{lane}\n")
    return subprocess.Popen(
        ["bash", checkout / "scripts" / "test.sh"],
        env={"PATH": os.environ["PATH"], "RECORDS": str(records), "TMPDIR": str(checkout)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_lanes_run_at_once_and_are_shown_one_after_the_other(tmp_path: Path) -> None:
    checkout, records = copy_of_the_scripts(tmp_path)
    wait_for_all = 'touch "$RECORDS/$$"; until [ "$(ls "$RECORDS" | wc -l)" -eq 6 ]; do sleep 0.1; done'
    with start_tests(checkout, records, f"{wait_for_all}; echo end; [ $3 != tests/unit/api ] || exit 3") as script:
        output, _ = script.communicate(timeout=60)
    lanes = ["integration", "integration/faults", "browser", "unit/video", "unit/api", "unit"]
    assert output.splitlines() == [line for lane in lanes for line in (f"tests/{lane}", "end")]
    assert script.returncode == 3


def test_the_tests_fail_if_a_lane_is_killed(tmp_path: Path) -> None:
    checkout, _ = copy_of_the_scripts(tmp_path)
    with start_tests(checkout, tmp_path, "[ $3 != tests/unit/api ] || kill -KILL $PPID") as script:
        script.communicate(timeout=60)
    assert script.returncode == 1


def test_an_interrupt_ends_all_lanes(tmp_path: Path) -> None:
    checkout, records = copy_of_the_scripts(tmp_path)
    note = 'trap \'touch "$RECORDS/$$.end"; exit 2\' INT; touch "$RECORDS/$$"; while :; do sleep 0.1; done'
    with start_tests(checkout, records, note) as script:
        assert script.stdout
        assert script.stdout.readline() == "tests/integration\n"  # while the lane is running
        while len(list(records.iterdir())) < 6:
            time.sleep(0.05)
        os.killpg(script.pid, signal.SIGINT)
        assert script.wait(timeout=60) != 0
    assert len(list(records.glob("*.end"))) == 6
    assert list(checkout.glob("tmp.*")) == []
