import base64
import time

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from svd_service.config import ConfigurationError
from svd_service.errors import ConfiguredSecretError, InvalidParameterError
from svd_service.presentation import shown_url
from svd_service.webhooks import signing as webhooks
from svd_service.webhooks.signing import (
    Message,
    WebhookSecrets,
    checked_url,
    job_id_of,
    message_id,
)

pytestmark = pytest.mark.enable_socket

MINE, OLD = (f"whsec_{base64.b64encode(bytes([number]) * 32).decode()}" for number in (1, 2))


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/hook?token=1", "http://example.com:8080", "https://me:pw@example.com/", "HTTPS://EXAMPLE.com/",
        "https://93.184.215.14/", "https://[2606:2800:21f:cb07:6820:80da:af6b:8b2c]:443/hook", "http://xn--bcher-kva.de/",
    ],
)  # fmt: skip
def test_a_public_url_is_accepted_unchanged(url, settings):
    assert checked_url(url, settings) == url


@pytest.mark.parametrize(
    "url",
    [
        "example.com/hook", "ftp://example.com/", "https://", "https:///hook", "//example.com", "http://a:b/", "http://a:0/",
        "http://a:70000/", "http://[::1/", "http://bücher.de/", "http://example.com/a b", "http://example.com/\r\nX: y",
        f"http://example.com/{'x' * 2048}", "javascript:alert(1)", "http://@/",
    ],
)  # fmt: skip
def test_an_invalid_url_is_rejected_with_the_parameters_name(url, settings):
    with pytest.raises(InvalidParameterError, match=r"^webhook_url: ") as raised:
        checked_url(url, settings)
    assert raised.value.parameter == "webhook_url"


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "127.1", "2130706433", "0x7f.1", "0", "10.1.2.3", "192.168.0.1", "172.16.0.1", "169.254.169.254",
        "[::1]", "[fe80::1]", "[fd12::1]", "[::ffff:127.0.0.1]", "localhost", "LOCALHOST.", "a.localhost",
    ],
)  # fmt: skip
def test_an_address_that_is_not_public_is_rejected_unless_a_setting_allows_it(host, make_settings):
    with pytest.raises(InvalidParameterError, match="public"):
        checked_url(f"http://{host}/", make_settings())
    assert checked_url(f"http://{host}/", make_settings(SVD_WEBHOOK_PRIVATE=True))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me:pw@example.com:8443/hook?token=1#x", "https://example.com:8443/hook?…"),
        ("http://example.com", "http://example.com"),
        ("http://[::1]:80/a", "http://[::1]:80/a"),
    ],
)
def test_possible_secrets_in_a_url_are_not_shown(url, shown):
    assert shown_url(url) == shown


def test_a_message_has_the_id_of_its_job():
    assert message_id("a-b") == "msg_a-b"
    assert job_id_of("msg_a-b") == "a-b"


def test_the_public_library_verifies_the_signature_of_each_secret():
    message = Message("msg_1", b'{"type":"job.finished"}')
    headers = message.headers([MINE, OLD], time.time())
    for secret in (MINE, OLD):
        assert Webhook(secret).verify(message.body, headers) == {"type": "job.finished"}
    for wrong in (
        lambda: Webhook(MINE).verify(b'{"type":"job.failed"}', headers),
        lambda: Webhook(MINE).verify(message.body, headers | {"webhook-id": "msg_2"}),
        lambda: Webhook(MINE).verify(message.body, message.headers([OLD], time.time())),
        lambda: Webhook(MINE).verify(message.body, message.headers([MINE], time.time() - 3_600)),
    ):
        with pytest.raises(WebhookVerificationError):
            wrong()


def test_each_owner_has_its_own_stable_secret(redis_client, settings):
    (ann,), (bob,), (everybody,) = (WebhookSecrets(redis_client, settings).of(owner) for owner in ("ann", "bob", ""))
    assert len({ann, bob, everybody}) == 3
    assert WebhookSecrets(redis_client, settings).of("ann") == [ann]
    assert ann.startswith("whsec_")
    assert len(base64.b64decode(ann.removeprefix("whsec_"))) == 32


def test_a_replaced_secret_still_signs_for_a_day(redis_client, settings, monkeypatch):
    secrets = WebhookSecrets(redis_client, settings)
    (first,) = secrets.of("ann")
    second = secrets.rotate("ann")
    assert secrets.of("ann") == [second, first]
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + webhooks.OVERLAP / 2)
    third = secrets.rotate("ann")
    assert secrets.of("ann") == [third, second, first]
    monkeypatch.setattr(time, "time", lambda: now + webhooks.OVERLAP + 60)
    assert secrets.of("ann") == [third, second]
    assert webhooks.OVERLAP == 86_400


def test_a_rotation_may_create_the_first_secret(redis_client, settings):
    secrets = WebhookSecrets(redis_client, settings)
    made = secrets.rotate("ann")
    assert secrets.of("ann") == [made]


def test_a_secret_in_the_settings_cannot_be_changed_by_a_command(redis_client, make_settings):
    secrets = WebhookSecrets(redis_client, make_settings(SVD_WEBHOOK_SECRET=f"{MINE}, {OLD}"))
    assert secrets.of("") == [MINE, OLD]
    assert secrets.of("ann")[0] not in {MINE, OLD}
    with pytest.raises(ConfiguredSecretError, match="SVD_WEBHOOK_SECRET"):
        secrets.rotate("")


@pytest.mark.parametrize("secret", ["secret", "whsec_", "whsec_c2hvcnQ=", f"{MINE} {OLD}", MINE.removeprefix("whsec_")])
def test_a_setting_that_is_no_secret_is_rejected(secret, make_settings):
    with pytest.raises(ConfigurationError, match="SVD_WEBHOOK_SECRET"):
        make_settings(SVD_WEBHOOK_SECRET=secret)


@pytest.mark.parametrize("size", [24, 25, 26, 32, 64])
def test_a_secret_of_any_permitted_length_is_accepted_only_whole(size, make_settings, redis_client):
    encoded = base64.b64encode(b"s" * size).decode()
    whole = f"whsec_{encoded}"
    secrets = WebhookSecrets(redis_client, make_settings(SVD_WEBHOOK_SECRET=whole))
    assert Message("msg_1", b"{}").headers(secrets.of(""), 0.0)
    for damaged in {whole[:-1], whole.rstrip("=")} - {whole}:
        with pytest.raises(ConfigurationError, match="Base64 after whsec_") as caught:
            make_settings(SVD_WEBHOOK_SECRET=f"{MINE},{damaged}")
        assert encoded[:20] not in str(caught.value)


@pytest.mark.parametrize("size", [23, 65])
def test_a_secret_of_another_length_is_rejected(size, make_settings):
    with pytest.raises(ConfigurationError, match=f"24 to 64 bytes in Base64 after whsec_, there are {size}"):
        make_settings(SVD_WEBHOOK_SECRET=f"whsec_{base64.b64encode(b's' * size).decode()}")
