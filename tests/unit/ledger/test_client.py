from collections.abc import Callable, Iterator

import pytest
import redis
from redis.sentinel import SentinelConnectionPool, SentinelManagedSSLConnection

from svd_service.config import Settings
from svd_service.errors import UnavailableError
from svd_service.ledger import open_ledger
from svd_service.ledger.client import broker_options, connect, reachable

MakeSettings = Callable[..., Settings]


def test_a_password_is_taken_from_the_url_as_it_was_meant(make_settings: MakeSettings):
    client = connect(make_settings(REDIS_URL="rediss://svd:p%40ss%2F@h:7/2", REDIS_CA_FILE="/ca.pem"))
    options = client.connection_pool.connection_kwargs
    assert client.connection_pool.connection_class is redis.SSLConnection
    assert (options["username"], options["password"], options["db"]) == ("svd", "p@ss/", 2)
    assert (options["ssl_cert_reqs"], options["ssl_ca_certs"]) == ("required", "/ca.pem")


def test_without_tls_none_of_its_options_is_given(make_settings: MakeSettings):
    options = connect(make_settings(REDIS_URL="redis://h:7/2")).connection_pool.connection_kwargs
    assert not [name for name in options if name.startswith("ssl")]


def test_sentinels_are_asked_for_the_master_and_both_are_spoken_to_with_tls(make_settings: MakeSettings):
    settings = make_settings(
        REDIS_URL="rediss://svd:p%40ss@Ours/2",
        REDIS_CA_FILE="/ca.pem",
        REDIS_SENTINELS="a:1,b:2",
        REDIS_SENTINEL_AUTH="watch:it",
    )
    pool = connect(settings, timeout=2).connection_pool
    assert isinstance(pool, SentinelConnectionPool)
    assert pool.service_name == "Ours"
    assert pool.connection_class is SentinelManagedSSLConnection
    assert [pool.connection_kwargs[name] for name in ("username", "password", "db")] == ["svd", "p@ss", 2]
    asked = [client.connection_pool for client in pool.sentinel_manager.sentinels]
    assert [(each.connection_kwargs["host"], each.connection_kwargs["port"]) for each in asked] == [("a", 1), ("b", 2)]
    for each in asked:
        assert each.connection_class is redis.SSLConnection
        assert [each.connection_kwargs[name] for name in ("username", "password")] == ["watch", "it"]
        assert each.connection_kwargs["ssl_ca_certs"] == "/ca.pem"
        # Two that are silent leave a caller within its time.
        assert each.connection_kwargs["socket_timeout"] == each.connection_kwargs["socket_connect_timeout"] == 1
        assert each.connection_kwargs["retry"].get_retries() == 0


def test_celery_asks_the_same_sentinels(make_settings: MakeSettings):
    assert broker_options(make_settings(), timeout=1) == {}
    options = broker_options(make_settings(REDIS_URL="redis://Ours/0", REDIS_SENTINELS="a:1"), timeout=1)
    assert options["master_name"] == "Ours"
    assert options["sentinel_kwargs"]["socket_timeout"] == 1
    assert "ssl" not in options["sentinel_kwargs"]


@pytest.fixture
def lonely_master(redis_client: redis.Redis) -> Iterator[None]:
    """Redis is a master that wants a replica (docs/operations.md advises it), and has none."""
    redis_client.config_set("min-replicas-to-write", 1)
    yield
    redis_client.config_set("min-replicas-to-write", 0)


@pytest.mark.usefixtures("lonely_master")
def test_a_master_that_takes_no_writes_for_want_of_a_replica_is_away(redis_url: str, make_settings: MakeSettings):
    settings = make_settings(REDIS_URL=redis_url)
    client = connect(settings)
    with pytest.raises(UnavailableError, match="NOREPLICAS"), reachable():
        client.set("a", "b")
    with pytest.raises(UnavailableError, match="NOREPLICAS"):
        open_ledger(client, settings).workers.leave("host/0")
