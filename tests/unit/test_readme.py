"""The README's commands work as described, typed one after the other."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tools.harness.stand_in import JOB, Answer, StandIn, error_answer

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()

pytestmark = pytest.mark.enable_socket


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_curl_commands_typed_without_pauses_end_with_the_video(tmp_path: Path) -> None:
    lines = re.findall(r"^curl .*localhost:8000/(?:generate|status|results)\S*$", README, re.MULTILINE)[:3]
    assert [line.rpartition("8000/")[2].partition("/")[0] for line in lines] == ["generate", "status", "results"]
    service = StandIn()
    try:
        job = Answer(json.dumps({"task_id": JOB, "status": "queued"}).encode())
        not_ready = error_answer(409, "not_ready", "the job has no result: it is queued", state="queued")
        not_ready.headers["Retry-After"] = "1"
        service.answer("POST /generate", job)
        service.answer(f"GET /status/{JOB}", job)
        service.answer(f"GET /results/{JOB}", not_ready, not_ready, Answer(b"a video"))
        (tmp_path / "cat.jpg").write_bytes(b"a cat")
        for line in lines:
            typed = line.replace("http://localhost:8000", service.url).replace("5ef6…", JOB)
            subprocess.run(["sh", "-c", typed], cwd=tmp_path, check=True, capture_output=True, timeout=60)
    finally:
        service.stop()
    assert (tmp_path / "out.mp4").read_bytes() == b"a video"
