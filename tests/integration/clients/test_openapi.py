"""The running service conforms to its OpenAPI document, by all checks of schemathesis."""

import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from svd_service.artifacts.local import LocalArtifacts
from svd_service.config import Settings
from svd_service.jobs.job import RESULT_FILES, File, Holder, Result, Still
from svd_service.jobs.job_files import file_name, preview_name, result_name
from svd_service.ledger import open_ledger
from svd_service.ledger.api_keys import Keyring
from svd_service.parameters import Format
from tools.harness.stack import Stack

HERE = Path(__file__).parent
EXAMPLES = 16

#: Operations that only a job's owner may call: of their few examples, those of the other user get 404.
FOR_OWNERS = ("POST /jobs/{task_id}/share\n", "PUT /jobs/{task_id}/pin\n")

_WEBP = io.BytesIO()
Image.new("RGB", (64, 64), "teal").save(_WEBP, "WEBP")
THUMBNAIL = _WEBP.getvalue()

#: The finished job's formats besides MP4.
FURTHER: list[Format] = [kind for kind in Format if kind is not Format.MP4]


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """An API that requires keys, without workers: submitted jobs stay queued."""
    stack = Stack(tmp_path_factory.mktemp("keyed"), {"SVD_STREAM_LIFETIME": "0.3"})
    stack.start_redis()
    stack.start_api()
    yield stack
    stack.stop_all()


@pytest.fixture(scope="module")
def settings_of(keyed: Stack) -> Settings:
    return Settings.from_mapping(keyed.environment)


def finish(stack: Stack, settings: Settings, job_id: str) -> None:
    """Finish a job in place of a worker."""
    ledger = open_ledger(stack.redis, settings)
    claim = ledger.attempts.claim(job_id, Holder("host/0", "cpu", "instance", 1))
    assert claim is not None
    name, video = result_name(job_id, claim.token), bytes(2_000)
    for variant in RESULT_FILES:
        content = THUMBNAIL if variant is Still.THUMBNAIL else video  # a contact sheet is made of thumbnails
        LocalArtifacts(settings.data_dir).put(file_name(name, variant), content)
    further = {kind: File(len(video), "ab" * 32) for kind in FURTHER}
    result = Result(name, len(video), "ab" * 32, 64, 64, 3, further=further)
    ledger.attempts.finish(claim, result, device="cpu", seconds={"sampling": 1.0}, steps=1)


def start(stack: Stack, settings: Settings, job_id: str) -> None:
    """Start a job and upload a preview in place of a worker."""
    ledger = open_ledger(stack.redis, settings)
    claim = ledger.attempts.claim(job_id, Holder("host/0", "cpu", "instance", 1))
    assert claim is not None
    name = preview_name(job_id, claim.token)
    LocalArtifacts(settings.data_dir).put(name, bytes(200))
    ledger.attempts.show_preview(claim, name)


def users(folder: Path, secrets: dict[str, str]) -> Path:
    """Write schemathesis' file of users; with two of them it also checks whether one can access the other's jobs."""
    file = folder / "users.json"
    entries = [
        {"name": name, "fixedHeaders": [{"name": "Authorization", "value": f"Bearer {secret}"}]}
        for name, secret in secrets.items()
    ]
    file.write_text(json.dumps({"auth": entries}))
    return file


@pytest.mark.thorough
@pytest.mark.timeout(400)
def test_every_response_matches_the_openapi_document(
    keyed: Stack, settings_of: Settings, photo: bytes, tmp_path: Path
) -> None:
    keyring = Keyring(keyed.redis, settings_of)
    secrets = {name: keyring.create(name, priority=2)[1] for name in ("ann", "bob")}
    keyed.http.headers["Authorization"] = f"Bearer {secrets['ann']}"
    finished, started = keyed.submit(photo, formats=",".join(FURTHER)), keyed.submit(photo)
    finish(keyed, settings_of, finished)
    group = keyed.http.post("/groups", files={"image": photo}).json()
    finish(keyed, settings_of, group["jobs"][0]["task_id"])
    start(keyed, settings_of, started)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", HERE / "schemathesis.toml", "run"),
            f"{keyed.url}/openapi.json",
            *("--auth-wfc", users(tmp_path, secrets)),
            *("--request-timeout", "20"),
            *("--max-examples", str(EXAMPLES), "--continue-on-failure"),  # all checks are enabled by default
            *("--generation-deterministic", "--no-color"),
        ],
        cwd=tmp_path,
        env={
            **keyed.environment,
            "SCHEMATHESIS_HOOKS": "tests.integration.clients.schemathesis_hooks",
            "FINISHED_JOB": finished,
            "FINISHED_GROUP": group["group_id"],
            "STARTED_JOB": started,
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=380,
    )
    assert done.returncode == 0, done.stdout[-6_000:] + done.stderr[-2_000:]
    tested = re.search(r"Tested: +(\d+)", done.stdout)
    assert tested
    assert int(tested[1]) >= 10
    missing = re.search(r"Missing test data:.*\n\n((?:  - .+\n)+)", done.stdout)
    assert set(missing[1].split("  - ")) <= {"", *FOR_OWNERS} if missing else True, done.stdout[-3_000:]
