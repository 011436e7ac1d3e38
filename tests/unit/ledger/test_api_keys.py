import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from svd_service.config import ConfigurationError, Settings
from svd_service.errors import InvalidParameterError, UnauthorizedError, UnavailableError, UnknownKeyError
from svd_service.jobs.allowance import Allowance
from svd_service.ledger import api_keys as keys
from svd_service.ledger.api_keys import Keyring
from svd_service.ledger.connection import connect
from svd_service.ledger.key import Key, digest_of

pytestmark = pytest.mark.enable_socket


@pytest.fixture
def make_keyring(redis_client: Any, make_settings: Callable[..., Settings]) -> Callable[..., Keyring]:
    def make(**variables: object) -> Keyring:
        return Keyring(redis_client, make_settings(**variables))

    return make


def test_without_keys_every_request_is_accepted(make_keyring):
    keyring = make_keyring()
    assert keyring.is_open()
    assert keyring.identify("") is None
    assert keyring.identify("anything") is None


def test_with_one_key_every_other_secret_is_rejected(make_keyring):
    key, secret = make_keyring().create("ann", priority=1)
    keyring = make_keyring()
    assert keyring.identify(secret) == key
    assert (key.name, key.priority) == ("ann", 1)
    for wrong in ("", "anything", secret + "x", secret[:-1], digest_of(secret)):
        with pytest.raises(UnauthorizedError):
            keyring.identify(wrong)


def test_a_key_has_a_recognizable_prefix_and_cannot_be_guessed(make_keyring):
    secrets = {make_keyring().create("ann")[1] for _ in range(20)}
    assert len(secrets) == 20
    assert all(secret.startswith("sk-svd-") and len(secret) >= 7 + 32 for secret in secrets)


def test_only_the_hash_of_a_key_is_stored(make_keyring, redis_client):
    _, secret = make_keyring().create("ann")
    stored = redis_client.hgetall("svd:keys")
    assert list(stored) == [hashlib.sha256(secret.encode()).hexdigest()]
    assert secret not in json.dumps(stored)
    assert secret.removeprefix("sk-svd-") not in json.dumps(stored)


def test_a_revoked_key_is_rejected_and_revoking_the_last_does_not_open_the_service(make_keyring):
    key, secret = make_keyring().create("ann")
    assert make_keyring().revoke(key.id).revoked_at
    keyring = make_keyring()
    assert not keyring.is_open()
    for shown in (secret, ""):
        with pytest.raises(UnauthorizedError):
            keyring.identify(shown)
    (listed,) = keyring.list()
    assert listed.revoked_at


def test_a_process_rejects_a_revoked_key_within_seconds(make_keyring, monkeypatch):
    keyring = make_keyring()
    key, secret = keyring.create("ann")
    assert keyring.identify(secret) == key
    make_keyring().revoke(key.id)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + keys.CACHE_TTL + 0.1)
    with pytest.raises(UnauthorizedError):
        keyring.identify(secret)
    assert keys.CACHE_TTL <= 5


def test_wrong_keys_do_not_fill_the_memory(make_keyring, monkeypatch):
    monkeypatch.setattr(keys, "CACHE_SIZE", 10)
    keyring = make_keyring()
    for number in range(50):
        keyring.identify(str(number))
    assert len(keyring._cache) <= 10


def test_keys_are_listed_by_age(make_keyring):
    keyring = make_keyring()
    made = [keyring.create(name)[0] for name in ("ann", "bob", "cid")]
    assert keyring.list() == made


def test_revoking_an_unknown_key_is_an_error(make_keyring):
    with pytest.raises(UnknownKeyError):
        make_keyring().revoke("nothing")


def test_forgetting_all_keys_opens_the_service(make_keyring):
    make_keyring().create("ann")
    assert make_keyring().forget_all() == 1
    assert make_keyring().is_open()


def test_a_key_has_the_same_owner_in_the_settings_and_in_redis(make_keyring):
    key, secret = make_keyring().create("ann")
    make_keyring().forget_all()
    keyring = make_keyring(SVD_API_KEYS=f"ann:{digest_of(secret)}, bob:{digest_of('other')}:2")
    assert not keyring.is_open()
    assert keyring.identify(secret).id == key.id
    assert (keyring.identify("other").name, keyring.identify("other").priority) == ("bob", 2)
    with pytest.raises(UnauthorizedError):
        keyring.identify("")
    assert [key.name for key in keyring.list()] == ["ann", "bob"]


@pytest.mark.parametrize(
    "setting", ["ann", "ann:sk-svd-secret", f"ann:{'0' * 64}:3", f"ann:{'0' * 64} bob", f"{'0' * 64}"]
)
def test_a_setting_that_is_no_list_of_hashes_is_rejected(make_settings, setting):
    with pytest.raises(ConfigurationError, match="SVD_API_KEYS"):
        make_settings(SVD_API_KEYS=setting)


def test_without_redis_identification_raises_unavailable(make_settings):
    settings = make_settings(REDIS_URL="redis://127.0.0.1:1/0", SVD_API_KEYS=f"ann:{digest_of('secret')}")
    keyring = Keyring(connect(settings), settings)
    assert keyring.identify("secret")
    for shown in ("", "another"):
        with pytest.raises(UnavailableError):
            keyring.identify(shown)


@pytest.mark.enable_socket
def test_concurrent_commands_do_not_undo_each_other(redis_client, settings, monkeypatch):
    keyring, other = Keyring(redis_client, settings), Keyring(redis_client, settings)
    key, secret = keyring.create("ann")
    overtaken: list[Key] = []

    def slowly(*args: Any, **changes: Any) -> Any:
        if "webhook_url" in changes and not overtaken:
            overtaken.append(other.revoke(key.id))
        return replace(*args, **changes)

    monkeypatch.setattr(keys, "replace", slowly)
    changed = keyring.set_webhook(key.id, "https://example.com/")
    assert overtaken
    assert (changed.revoked_at is not None, changed.webhook_url) == (True, "https://example.com/")
    with pytest.raises(UnauthorizedError):
        Keyring(redis_client, settings).identify(secret)


def test_a_service_that_had_keys_stays_closed_when_redis_loses_them(redis_client, make_keyring, caplog):
    make_keyring().create("ann")
    redis_client.flushall()
    for keyring in (make_keyring(), make_keyring()):
        assert not keyring.is_open()
        with pytest.raises(UnauthorizedError):
            keyring.identify("")
        assert keyring.has_lost_its_keys()
    assert "forget-all" in caplog.text
    key, secret = make_keyring().create("bob")
    assert make_keyring().identify(secret) == key
    assert not make_keyring().has_lost_its_keys()


def test_a_process_that_has_seen_keys_stays_closed_too(redis_client, make_settings, redis_url, tmp_path):
    here, there = (make_settings(REDIS_URL=redis_url, SVD_DATA_DIR=tmp_path / name) for name in ("here", "there"))
    Keyring(redis_client, here).create("ann")
    assert not Keyring(redis_client, there).is_open()
    redis_client.flushall()
    assert not Keyring(redis_client, there).is_open()


def test_forgetting_all_keys_opens_the_service_on_every_host(redis_client, make_settings, redis_url, tmp_path):
    here, there = (make_settings(REDIS_URL=redis_url, SVD_DATA_DIR=tmp_path / name) for name in ("here", "there"))
    Keyring(redis_client, here).create("ann")
    assert not Keyring(redis_client, there).is_open()
    redis_client.flushall()
    Keyring(redis_client, here).forget_all()
    assert Keyring(redis_client, there).is_open()
    redis_client.flushall()
    assert Keyring(redis_client, there).is_open()  # no marker file is left


def test_keys_work_with_a_folder_that_cannot_be_written(redis_client, make_settings, redis_url, tmp_path):
    (tmp_path / "file").touch()
    keyring = Keyring(redis_client, make_settings(REDIS_URL=redis_url, SVD_DATA_DIR=tmp_path / "file" / "data"))
    key, secret = keyring.create("ann")
    assert keyring.identify(secret) == key


@pytest.mark.parametrize(
    ("bind", "open_", "is_open"),
    [("127.0.0.1:8000", "0", True), ("0.0.0.0:8000", "0", False), ("0.0.0.0:8000", "1", True), (":8000", "0", False)],
)
def test_without_keys_the_service_is_open_only_on_loopback_or_by_a_setting(
    redis_client, make_settings, redis_url, bind, open_, is_open
):
    keyring = Keyring(redis_client, make_settings(REDIS_URL=redis_url, SVD_BIND=bind, SVD_OPEN=open_))
    assert keyring.is_open() == is_open


def test_keys_of_one_owner_share_its_limits_and_are_revoked_separately(make_keyring):
    keyring = make_keyring()
    first, _ = keyring.create("laptop", allowance=Allowance(jobs_per_day=3))
    second, secret = keyring.create("server", owner=first.id)
    third, _ = keyring.create("phone", owner=second.id)
    assert {key.owner for key in keyring.list()} == {first.id}
    assert second.allowance == third.allowance == first.allowance
    other, _ = keyring.create("bob")
    keyring.change(third.id, lambda key: replace(key, priority=2, allowance=Allowance(jobs_per_day=5)))
    limits = {key.id: (key.priority, key.allowance.jobs_per_day) for key in keyring.list()}
    assert limits == {first.id: (0, 5), second.id: (0, 5), third.id: (2, 5), other.id: (0, 0)}
    keyring.revoke(first.id)
    assert keyring.identify(secret).owner == first.id
    assert keyring.is_current(first.id)
    keyring.revoke(second.id)
    keyring.revoke(third.id)
    assert not keyring.is_current(first.id)


def test_an_owner_has_one_name_and_one_set_of_limits(make_keyring):
    keyring = make_keyring()
    first, _ = keyring.create("ann", owner="team-a", allowance=Allowance(jobs_per_day=3))
    assert (first.owner, keyring.owner_of(first.id), keyring.owner_of("team-a")) == ("team-a", "team-a", "team-a")
    assert keyring.create("bob", owner="team-a")[0].allowance == Allowance(jobs_per_day=3)
    with pytest.raises(InvalidParameterError, match="team-a has keys already"):
        keyring.create("eve", owner="team-a", allowance=Allowance(jobs_per_day=9))
    for name in ("a b", "a|b", "a:b", "-", "other", "x" * 65):
        with pytest.raises(InvalidParameterError, match="owner must have"):
            keyring.create("eve", owner=name)
    assert keyring.count() == 2
    with pytest.raises(UnknownKeyError, match="team-b"):
        keyring.known_owner("team-b")


def test_a_rotated_key_keeps_its_attributes_and_the_old_secret_is_valid_for_a_time(make_keyring, monkeypatch):
    monkeypatch.setattr(keys, "CACHE_TTL", 0.0)
    keyring = make_keyring()
    old, old_secret = keyring.create(
        "ann", priority=2, webhook_url="https://a.example/", allowance=Allowance(jobs_per_day=3), scopes=("admin",)
    )
    new, new_secret = keyring.rotate(old.id, grace=100)
    assert new == replace(old, id=new.id, created_at=new.created_at, tenant=old.id)
    assert new_secret != old_secret
    assert keyring.identify(old_secret).owner == keyring.identify(new_secret).owner == old.id
    replaced = next(key for key in keyring.list() if key.id == old.id)
    assert (replaced.successor, replaced.expires_at) == (new.id, pytest.approx(time.time() + 100, abs=20))
    newest, newest_secret = keyring.rotate(new.id, grace=0)
    with pytest.raises(UnauthorizedError, match="expired"):
        keyring.identify(new_secret)
    assert keyring.identify(newest_secret).owner == old.id
    with pytest.raises(UnknownKeyError, match=f"create another with --owner {old.id}"):
        keyring.rotate(new.id)
    assert (newest.tenant, newest.expires_at) == (old.id, None)


def test_a_rotation_does_not_extend_the_validity_of_a_key(make_keyring):
    keyring = make_keyring()
    end = time.time() + 50
    old, _ = keyring.create("ann", expires_at=end)
    new, _ = keyring.rotate(old.id)
    assert [key.expires_at for key in keyring.list()] == [end, end] == [new.expires_at, end]


def test_links_are_valid_with_their_key_or_the_one_that_replaced_it(make_keyring):
    keyring = make_keyring()
    one, _ = keyring.create("one", owner="team")
    two, _ = keyring.create("two", owner="team")
    assert keyring.honors(one.id, "team")
    assert not keyring.honors(one.id, "another")
    assert not keyring.honors("nothing", "team")
    new, _ = keyring.rotate(one.id, grace=0)
    newest, _ = keyring.rotate(new.id, grace=0)
    assert keyring.honors(one.id, "team")
    keyring.revoke(newest.id)
    assert not keyring.honors(one.id, "team")
    assert keyring.honors(two.id, "team")
    keyring.revoke(two.id)
    assert not keyring.honors(two.id, "team")


def test_links_of_an_earlier_release_are_valid_with_any_key_of_the_owner(make_keyring):
    keyring = make_keyring()
    one, _ = keyring.create("one", owner="team")
    two, _ = keyring.create("two", owner="team")
    keyring.revoke(one.id)
    assert keyring.honors("", "team")
    keyring.revoke(two.id)
    assert not keyring.honors("", "team")
