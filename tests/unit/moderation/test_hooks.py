"""The two kinds of hooks: their input, and every way in which one gives no verdict."""

import json
import sys
import time
from collections.abc import Iterator

import pytest
import standardwebhooks

from svd_service.moderation.hooks import CommandHook, HTTPHook
from svd_service.moderation.verdict import HookError, HookImage, HookRequest, parse
from svd_service.webhooks.signing import WebhookSecrets
from tests.unit.moderation.samples import Service, serving

REQUEST = HookRequest("moderation.image", "a-job", "a-key", [HookImage.of(b"pixels", "image/png")])
SECRET = "whsec_" + "QUJD" * 8


class Secrets(WebhookSecrets):
    def __init__(self) -> None:
        pass

    def of(self, owner: str) -> list[str]:
        assert owner == ""
        return [SECRET]


@pytest.fixture
def service() -> Iterator[Service]:
    with serving() as server:
        yield server


@pytest.fixture
def hook(service):
    return HTTPHook(service.url, Secrets(), 1.0)


@pytest.mark.enable_socket
def test_a_request_is_signed_like_webhooks_and_has_the_image(hook, service):
    assert parse(hook(REQUEST)) is None
    ((headers, body),) = service.received
    standardwebhooks.Webhook(SECRET).verify(body, {name.lower(): value for name, value in headers.items()})
    assert json.loads(body) == {
        "type": "moderation.image",
        "job_id": "a-job",
        "owner": "a-key",
        "images": [{"media_type": "image/png", "data": "cGl4ZWxz"}],
    }


@pytest.mark.enable_socket
@pytest.mark.parametrize("status", [204, 301, 404, 500])
def test_a_status_other_than_200_is_no_verdict(hook, service, status):
    service.status = status
    with pytest.raises(HookError, match=str(status)):
        hook(REQUEST)


@pytest.mark.enable_socket
def test_a_slow_hook_times_out_without_a_verdict(service):
    service.delay = 2
    began = time.monotonic()
    with pytest.raises(HookError, match="timed out"):
        HTTPHook(service.url, Secrets(), 0.3)(REQUEST)
    assert time.monotonic() - began < 1.5


@pytest.mark.enable_socket
def test_a_hook_that_is_down_gives_no_verdict():
    with pytest.raises(HookError, match="refused"):
        HTTPHook("http://127.0.0.1:9/", Secrets(), 1.0)(REQUEST)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"yes",
        b"{}",
        b'{"verdict": "maybe"}',
        b'{"verdict": true}',
        b'["allow"]',
        b'{"verdict": "allow"',
        b"\xff",
        '{"verdict": "reject", "reason": "Müll"}'.encode("latin-1"),
        b'{"verdict": "allow", "scores": ' + b"[" * 9999,
    ],
)
def test_an_answer_that_is_no_verdict_is_an_error(answer):
    with pytest.raises(HookError, match="invalid answer"):
        parse(answer)


def test_the_reason_of_a_rejection_can_be_shown():
    assert parse(b'{"verdict": "reject", "reason": "a face", "score": 0.9}') == "a face"
    for nothing in (b"", b', "reason": null', b', "reason": ""'):
        assert parse(b'{"verdict": "reject"' + nothing + b"}") == "the content is not allowed here"
    assert parse(json.dumps({"verdict": "reject", "reason": "b" * 60_000}).encode()) == "b" * 300
    assert parse(json.dumps({"verdict": "reject", "reason": "a\n\x1b[31m" + "b" * 999}).encode()) == "a[31m" + "b" * 295
    assert parse(b'{"verdict": "allow", "reason": "nothing"}') is None


def command(program: str, timeout: float = 20.0) -> CommandHook:
    return CommandHook(f"{sys.executable} -S -c '{program}'", timeout)


def test_a_command_gets_the_image_on_its_input_and_no_secret(monkeypatch):
    monkeypatch.setenv("SVD_WEBHOOK_SECRET", SECRET)
    program = """
import json, os, sys
question = json.load(sys.stdin)
assert not any(name.startswith("SVD_") for name in os.environ)
print(json.dumps({"verdict": "reject", "reason": question["type"] + " " + question["images"][0]["data"]}))
"""
    assert parse(command(program)(REQUEST)) == "moderation.image cGl4ZWxz"


@pytest.mark.parametrize(
    ("program", "reason"),
    [("raise SystemExit(3)", "status 3"), ("import os; os.abort()", "status -6")],
)
def test_a_command_that_fails_gives_no_verdict(program, reason):
    with pytest.raises(HookError, match=reason):
        command(program)(REQUEST)


def test_a_command_may_answer_without_reading_its_input():
    large = HookRequest("moderation.image", "a-job", "", [HookImage.of(bytes(1_000_000), "image/png")])
    assert parse(command('print("{\\"verdict\\": \\"allow\\"}")')(large)) is None


def test_a_command_that_hangs_is_killed_with_its_children(tmp_path):
    left = tmp_path / "left"
    program = (
        "import subprocess, sys, time; "
        f'subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(3); open(\\"{left}\\", \\"w\\")"]); '
        "time.sleep(60)"
    )
    began = time.monotonic()
    with pytest.raises(HookError, match="timed out"):
        command(program, timeout=1.5)(REQUEST)
    assert time.monotonic() - began < 20
    time.sleep(4)
    assert not left.exists()


def test_a_command_that_does_not_exist_gives_no_verdict():
    with pytest.raises(HookError, match="cannot be run: No such file"):
        CommandHook("/nowhere/moderate", 1.0)(REQUEST)
