"""`svd-service keys` over a real Redis, and the server's warning if there is no key."""

import re
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest
from typer.testing import CliRunner

from svd_service import bootstrap
from svd_service.api import create_app
from svd_service.cli import keys
from svd_service.cli.up import processes, registry
from svd_service.cli.up.preflight import only_one
from svd_service.client.errors import ClientError
from svd_service.config import Settings
from svd_service.jobs.allowance import Allowance
from svd_service.ledger import open_ledger
from svd_service.ledger.api_keys import Keyring, start_warning
from svd_service.ledger.key import Key
from svd_service.webhooks.signing import WebhookSecrets
from tests.unit.ledger.samples import HOLDER, finish, submit

pytestmark = pytest.mark.enable_socket


@pytest.fixture
def run(redis_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., str]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REDIS_URL", redis_url)

    def command(*words: str) -> str:
        output = CliRunner().invoke(keys.app, words, catch_exceptions=False).output
        first, _, rest = output.partition("\n")
        assert first == f"Redis {redis_url}, namespace svd"
        return rest

    return command


@pytest.fixture
def remote(make_settings: Callable[..., Settings], redis_url: str, redis_client) -> Iterator[Callable[..., str]]:
    """Runs commands with `--url` on a served API, as an operator."""
    settings = make_settings(REDIS_URL=redis_url)
    _, secret = Keyring(redis_client, settings).create("olga", scopes=("admin",))
    with make_server("127.0.0.1", 0, create_app(settings), handler_class=QuietHandler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"

        def command(*words: str, api_key: str = secret) -> str:
            output = CliRunner().invoke(keys.app, [*words, "--url", url, "--api-key", api_key], catch_exceptions=False)
            assert output.output.startswith(f"service {url}\n")
            return output.output.partition("\n")[2]

        yield command
        server.shutdown()
        thread.join()


class QuietHandler(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        """Log nothing."""


def test_a_key_is_shown_once_listed_and_revoked(run, redis_client, settings):
    output = run("create", "ann", "--priority", "1")
    secret = re.search(r"sk-svd-\S+", output)
    assert secret
    assert "It is the first one" in output
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


def test_the_webhook_url_and_secret_of_a_key_can_be_changed(run, redis_client, settings):
    output = run("create", "ann", "--webhook", "https://me:pw@example.com/ann?token=1")
    key = re.search(r"sk-svd-\S+", output)
    secret = re.search(r"whsec_[\w/+=]+", output)
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


def test_usage_is_shown_by_key_and_by_day(run, redis_client, settings):
    secret = re.search(r"sk-svd-\S+", run("create", "ann"))
    assert secret
    ann = Keyring(redis_client, settings).identify(secret[0])
    assert ann
    ledger = open_ledger(redis_client, settings)
    submit(ledger, owner=ann.id)
    claim = ledger.attempts.claim("a", HOLDER)
    assert claim
    finish(ledger, claim)
    lines = run("usage", "--csv").splitlines()
    assert lines[0].startswith("owner,submitted,finished,")
    assert f"{ann.id} (ann),1,1,0,0,0,3.0,0.0,8,1000" in lines
    assert f"{datetime.now(UTC).date()},1,1,0" in run("usage", ann.id, "--csv")
    assert "tiny,1,1,0" in run("usage", ann.id, "--csv", "--group", "model")
    assert "1000" in run("usage", ann.id)
    assert run("usage", ann.id, "--csv", "--to", "2026-01-01").splitlines()[1:] == []
    with pytest.raises(SystemExit):
        keys.run(["usage", ann.id, "--from", "2020-01-01"])


def test_limits_of_a_key_are_set_changed_and_removed(run, redis_client, settings):
    run("create", "ann", "--jobs-per-day", "3", "--profile", "draft", "--expires", "2099-12-31")
    keyring = Keyring(redis_client, settings)
    (ann,) = keyring.list()
    assert ann.allowance == Allowance(jobs_per_day=3, profiles=("draft",))
    assert ann.expires_at == datetime(2100, 1, 1, tzinfo=UTC).timestamp()
    output = run("limit", ann.id, "--seconds-per-day", "90.5", "--concurrent", "2", "--model", "a", "--model", "b")
    assert "3 jobs/day, 90.5 s/day, 2 jobs at a time, a b, draft" in output
    assert "3 jobs/day" in run("list")
    run("limit", ann.id, "--jobs-per-day", "0", "--profile", "all", "--expires", "never")
    (ann,) = keyring.list()
    assert ann.allowance == Allowance(device_seconds_per_day=90.5, concurrent_jobs=2, models=("a", "b"))
    assert ann.expires_at is None
    with pytest.raises(SystemExit):
        keys.run(["limit", ann.id, "--expires", "soon"])
    run("limit", ann.id, "--expires", "2020-01-01")
    assert [key.is_valid for key in keyring.list()] == [False]


def test_keys_of_one_owner_and_a_rotation(run, redis_client, settings):
    run("create", "laptop", "--owner", "team", "--jobs-per-day", "3")
    assert "one of the owner team" in run("create", "server", "--owner", "team")
    keyring = Keyring(redis_client, settings)
    laptop, server = keyring.list()
    assert (laptop.owner, server.owner, server.allowance) == ("team", "team", Allowance(jobs_per_day=3))
    output = run("rotate", laptop.id, "--grace", "2")
    new = re.search(r"sk-svd-\S+", output)
    assert new
    assert f"replaces {laptop.id}, which is valid for 2 more hours" in output
    replacing = keyring.identify(new[0])
    assert replacing
    assert f"(replaced by {replacing.id})" in run("list")
    assert "team (no" not in (usage := run("usage", "--csv"))
    assert "team (laptop, server),0" in usage.replace('"', "")
    secret = run("secret", laptop.id)
    assert secret == run("secret", server.id) == run("secret", "team")


def test_the_commands_work_on_a_remote_service_as_an_operator(remote, redis_client, settings):
    output = remote(
        "create", "ann", "--owner", "team", "--jobs-per-day", "3", "--model", "a", "--expires", "2099-12-31"
    )
    secret = re.search(r"sk-svd-\S+", output)
    assert secret
    assert "whsec_" in output
    keyring = Keyring(redis_client, settings)
    ann = keyring.identify(secret[0])
    assert ann
    assert (ann.owner, ann.allowance) == ("team", Allowance(jobs_per_day=3, models=("a",)))
    listed = remote("list")
    assert "team" in listed
    assert "3 jobs/day, a" in listed
    assert "2100-01-01 00:00" in listed
    assert "4 jobs/day, draft" in remote("limit", ann.id, "--jobs-per-day", "4", "--model", "all", "--profile", "draft")
    new = re.search(r"sk-svd-\S+", remote("rotate", ann.id))
    assert new
    assert "Revoked" in remote("revoke", ann.id)
    assert [key.revoked_at is None for key in keyring.list()] == [True, False, True]
    assert "team (ann)" in remote("usage")
    assert remote("usage", "team", "--csv").startswith("day,submitted")


def test_errors_of_a_remote_service_are_shown(remote):
    with pytest.raises(ClientError, match="not valid"):
        remote("list", api_key="sk-svd-wrong")
    with pytest.raises(ClientError, match="there is no key nothing"):
        remote("revoke", "nothing")
    with pytest.raises(SystemExit, match="Cannot connect to"):
        keys.run(["list", "--url", "http://127.0.0.1:9", "--api-key", "x"])


def test_the_record_of_a_key_of_another_release_can_be_read():
    assert Key.from_json('{"id": "1", "name": "ann", "priority": 1}') == Key("1", "ann", 1)
    newer = '{"id": "1", "name": "ann", "color": "red", "allowance": {"jobs_per_day": 2, "words": 3}}'
    assert Key.from_json(newer) == Key("1", "ann", allowance=Allowance(jobs_per_day=2))


@pytest.mark.parametrize(
    ("words", "output"),
    [
        (["revoke", "nothing"], "there is no key nothing"),
        (["usage", "nothing"], "there is no key or owner nothing"),
        (["webhook", "nothing"], "there is no key nothing"),
        (["secret", "nothing"], "there is no key or owner nothing"),
        (["create", "ann", "--webhook", "http://localhost/"], "public Internet"),
        (["create", "ann", "--expires", "2020-01-01"], "expires must not be in the past; got 2020-01-01"),
        (["list"], "is the service running"),
    ],
)
def test_errors_are_reported_in_one_line(run, monkeypatch, words, output):
    if words == ["list"]:
        monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    with pytest.raises(SystemExit, match=output):
        keys.run(words)


def test_the_name_of_a_key_is_printed_as_it_is(run):
    assert "of ann :bug: [red]." in run("create", "ann :bug: [red]")
    assert "ann :bug: [red]" in run("list")


def test_a_key_may_be_valid_for_the_rest_of_the_day(run, redis_client, settings):
    run("create", "ann", "--expires", str(datetime.now(UTC).date()))
    assert [key.is_valid for key in Keyring(redis_client, settings).list()] == [True]


def test_a_database_that_redis_does_not_have_is_reported_in_one_line(run, monkeypatch, redis_url):
    monkeypatch.setenv("REDIS_URL", f"{redis_url.rpartition('/')[0]}/99")
    with pytest.raises(SystemExit, match=r"^Redis rejects .*REDIS_URL: DB index is out of range$"):
        keys.run(["list"])


def test_the_redis_of_up_on_this_data_folder_is_found(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings()
    assert processes.with_running_redis(settings) is settings
    started = processes.redis_of(settings)
    assert started is not None
    with only_one(settings.data_dir):
        assert processes.with_running_redis(settings).redis == started.url
    named = make_settings(REDIS_URL="redis://example/0")
    assert processes.with_running_redis(named) is named
    # It has ended.
    assert processes.with_running_redis(settings) is settings


def test_the_redis_of_an_earlier_up_is_not_used(make_settings: Callable[..., Settings]) -> None:
    processes.redis_of(make_settings())
    external = make_settings(REDIS_URL="redis://example/0")
    with only_one(external.data_dir):
        processes.redis_of(external)
        registry.note(external)
        assert processes.with_running_redis(make_settings()).redis == "redis://example/0"


def test_a_data_folder_that_cannot_be_read_is_reported_in_one_line(monkeypatch, tmp_path) -> None:
    lock = tmp_path / "data" / "up.lock"
    lock.parent.mkdir()
    lock.symlink_to(lock.name)
    monkeypatch.setenv("SVD_DATA_DIR", str(lock.parent))
    with pytest.raises(SystemExit, match=r"SVD_DATA_DIR=.*/data: Too many levels"):
        keys.run(["list"])


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


def test_without_a_home_folder_no_service_is_found(settings, monkeypatch, tmp_path) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    registry.note(settings)
    assert registry.of_running(settings) is settings


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
def test_an_open_service_reachable_by_others_logs_a_warning_at_start(
    redis_client, redis_url, make_settings, bind, keyed, warned
):
    settings = make_settings(REDIS_URL=redis_url, SVD_BIND=bind)
    if keyed:
        Keyring(redis_client, settings).create("ann")
    assert bool(start_warning(bootstrap.keyring(settings), settings)) == warned
