"""`svd-service keys`, over a real Redis, and what the server says where there is no key."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from svd_service import bootstrap
from svd_service.cli import keys
from svd_service.cli.up import processes, registry
from svd_service.cli.up.preflight import only_one
from svd_service.config import Settings
from svd_service.ledger.api_keys import Keyring, start_warning
from svd_service.webhooks.signing import WebhookSecrets

pytestmark = pytest.mark.enable_socket


@pytest.fixture
def run(redis_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., str]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REDIS_URL", redis_url)

    def command(*words: str) -> str:
        return CliRunner().invoke(keys.app, words, catch_exceptions=False).output

    return command


def test_a_key_is_shown_once_listed_and_revoked(run, redis_client, settings):
    said = run("create", "ann", "--priority", "1")
    secret = re.search(r"sk-svd-\S+", said)
    assert secret
    assert "It is the first one" in said
    assert "It is the first one" not in run("create", "bob")
    keyring = Keyring(redis_client, settings)
    ann = keyring.identify(secret[0])
    assert ann
    assert (ann.name, ann.priority) == ("ann", 1)
    listed = run("list")
    assert ann.id in listed
    assert secret[0] not in listed
    assert "ann" in run("revoke", ann.id)
    assert [key.revoked_at is None for key in keyring.list()] == [False, True]
    run("forget-all", "--yes")
    assert "There are no keys" in run("list")


def test_webhooks_of_a_key_have_a_place_and_a_secret_that_can_be_changed(run, redis_client, settings):
    said = run("create", "ann", "--webhook", "https://me:pw@example.com/ann?token=1")
    key = re.search(r"sk-svd-\S+", said)
    secret = re.search(r"whsec_[\w/+=]+", said)
    assert key
    assert secret
    ann = Keyring(redis_client, settings).identify(key[0])
    assert ann
    assert ann.webhook_url == "https://me:pw@example.com/ann?token=1"
    assert "https://example.com/" in run("list")
    assert "pw" not in run("list")
    assert "example.org" in run("webhook", ann.id, "https://example.org/")
    assert "none" in run("webhook", ann.id)
    assert [key.webhook_url for key in Keyring(redis_client, settings).list()] == [""]
    assert run("secret", ann.id).strip() == secret[0]
    rotated = run("secret", ann.id, "--rotate")
    assert rotated.startswith("whsec_")
    assert secret[0] not in rotated
    assert "24 hours" in rotated
    assert run("secret").strip() == run("secret").strip() not in {secret[0], rotated.splitlines()[0]}
    assert WebhookSecrets(redis_client, settings).of(ann.id) == [rotated.splitlines()[0], secret[0]]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["revoke", "nothing"], "there is no key nothing"),
        (["webhook", "nothing"], "there is no key nothing"),
        (["secret", "nothing"], "there is no key nothing"),
        (["create", "ann", "--webhook", "http://localhost/"], "public Internet"),
        (["list"], "is the service running"),
    ],
)
def test_what_goes_wrong_is_a_sentence(run, monkeypatch, words, said):
    if words == ["list"]:
        monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    with pytest.raises(SystemExit, match=said):
        keys.run(words)


def test_the_redis_of_an_up_on_this_data_folder_is_found(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings()
    assert processes.with_running_redis(settings) is settings
    started = processes.redis_of(settings)
    assert started is not None
    assert processes.with_running_redis(settings).redis == started.url
    named = make_settings(REDIS_URL="redis://example/0")
    assert processes.with_running_redis(named) is named


def test_the_redis_of_a_running_up_is_found_from_another_folder(
    redis_url: str, redis_client, settings, make_settings, monkeypatch, tmp_path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    service = make_settings(REDIS_URL=redis_url, SVD_DATA_DIR=str(tmp_path / "data"))
    with only_one(service.data_dir):
        registry.note(service)
        CliRunner().invoke(keys.app, ["create", "ann"], catch_exceptions=False)
        assert [key.name for key in Keyring(redis_client, settings).list()] == ["ann"]
        other = make_settings(REDIS_URL=redis_url, SVD_DATA_DIR=str(tmp_path / "other"))
        with only_one(other.data_dir):
            registry.note(other)
            with pytest.raises(SystemExit, match="set SVD_DATA_DIR to one of"):
                keys.run(["list"])
    # Stopped services do not count.
    assert registry.of_running(make_settings(SVD_DATA_DIR=str(elsewhere / "data"))).redis_url is None


@pytest.mark.parametrize(
    ("bind", "keyed", "warned"),
    [
        ("127.0.0.1:8000", False, False),
        ("[::1]:8000", False, False),
        ("localhost:8000", False, False),
        ("unix:/run/svd.sock", False, False),
        ("0.0.0.0:8000", False, True),
        (":8000", False, True),
        ("[::]:8000", False, True),
        ("192.0.2.1:8000", False, True),
        ("0.0.0.0:8000", True, False),
    ],
)
def test_an_open_service_that_others_reach_says_so_at_start(
    redis_client, redis_url, make_settings, bind, keyed, warned
):
    settings = make_settings(REDIS_URL=redis_url, SVD_BIND=bind)
    if keyed:
        Keyring(redis_client, settings).create("ann")
    assert bool(start_warning(bootstrap.keyring(settings), settings)) == warned
