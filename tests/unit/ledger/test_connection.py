import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import redis
from redis.sentinel import SentinelConnectionPool, SentinelManagedSSLConnection

from svd_service.config import ConfigurationError, Settings
from svd_service.errors import RedisDeniedError, UnavailableError, WriteRefusedError
from svd_service.ledger import open_ledger
from svd_service.ledger.check import check_at_start, require_layout
from svd_service.ledger.connection import broker_options, connect, reachable

MakeSettings = Callable[..., Settings]


def test_the_password_of_the_url_is_decoded(make_settings: MakeSettings):
    client = connect(make_settings(REDIS_URL="rediss://svd:p%40ss%2F@h:7/2", REDIS_CA_FILE="/ca.pem"))
    options = client.connection_pool.connection_kwargs
    assert client.connection_pool.connection_class is redis.SSLConnection
    assert (options["username"], options["password"], options["db"]) == ("svd", "p@ss/", 2)
    assert (options["ssl_cert_reqs"], options["ssl_ca_certs"]) == ("required", "/ca.pem")


def test_without_tls_no_tls_option_is_passed(make_settings: MakeSettings):
    options = connect(make_settings(REDIS_URL="redis://h:7/2")).connection_pool.connection_kwargs
    assert not [name for name in options if name.startswith("ssl")]


def test_as_many_threads_as_there_are_have_a_connection_each(make_settings: MakeSettings, redis_url: str):
    pool = connect(make_settings(REDIS_URL=redis_url)).connection_pool
    connections = [pool.get_connection() for _ in range(150)]
    for each in connections:
        pool.release(each)
    pool.disconnect()


def test_sentinels_resolve_the_master_and_both_use_tls(make_settings: MakeSettings):
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
    sentinels = [client.connection_pool for client in pool.sentinel_manager.sentinels]
    assert [(each.connection_kwargs["host"], each.connection_kwargs["port"]) for each in sentinels] == [
        ("a", 1),
        ("b", 2),
    ]
    for each in sentinels:
        assert each.connection_class is redis.SSLConnection
        assert [each.connection_kwargs[name] for name in ("username", "password")] == ["watch", "it"]
        assert each.connection_kwargs["ssl_ca_certs"] == "/ca.pem"
        # Two unresponsive sentinels leave a caller within its timeout.
        assert each.connection_kwargs["socket_timeout"] == each.connection_kwargs["socket_connect_timeout"] == 1
        assert each.connection_kwargs["retry"].get_retries() == 0
        assert each.max_connections >= 1_000


def test_celery_uses_the_same_sentinels(make_settings: MakeSettings):
    assert broker_options(make_settings(), timeout=1) == {}
    options = broker_options(make_settings(REDIS_URL="redis://Ours/0", REDIS_SENTINELS="a:1"), timeout=1)
    assert options["master_name"] == "Ours"
    assert options["sentinel_kwargs"]["socket_timeout"] == 1
    assert "ssl" not in options["sentinel_kwargs"]


@pytest.fixture
def master_without_replica(redis_client: redis.Redis) -> Iterator[None]:
    """Redis is a master that requires a replica (docs/operations.md advises it) and has none."""
    redis_client.config_set("min-replicas-to-write", 1)
    yield
    redis_client.config_set("min-replicas-to-write", 0)


@pytest.mark.usefixtures("master_without_replica")
def test_a_master_that_rejects_writes_without_a_replica_is_unavailable(redis_url: str, make_settings: MakeSettings):
    settings = make_settings(REDIS_URL=redis_url)
    client = connect(settings)
    with pytest.raises(UnavailableError, match="NOREPLICAS"), reachable():
        client.set("a", "b")
    with pytest.raises(UnavailableError, match="NOREPLICAS"):
        open_ledger(client, settings).workers.leave("host/0")


@pytest.fixture
def weak_user(redis_url: str, redis_client: redis.Redis) -> Iterator[str]:
    """URL of that Redis with a user who may only read, in scripts too."""
    rights = ("+get", "+multi", "+exec", "+evalsha", "+script", "+client|setinfo", "+select", "+ping")
    redis_client.execute_command("ACL", "SETUSER", "weak", "on", ">word", "~*", *rights)
    yield redis_url.replace("redis://", "redis://weak:word@")
    redis_client.execute_command("ACL", "DELUSER", "weak")


def test_a_user_with_too_few_rights_is_denied(
    weak_user: str, make_settings: MakeSettings, caplog: pytest.LogCaptureFixture
):
    settings = make_settings(REDIS_URL=weak_user)
    with connect(settings) as client:
        for transaction in (True, False):
            with client.pipeline(transaction=transaction) as pipe:
                pipe.set("a", "b")
                with pytest.raises(RedisDeniedError, match=r"REDIS_URL.*'set' command"), reachable():
                    pipe.execute()
        with pytest.raises(RedisDeniedError, match=r"REDIS_URL.*permissions"):
            open_ledger(client, settings).workers.leave("host/0")
    with pytest.raises(ConfigurationError, match="REDIS_URL"):
        require_layout(settings)
    check_at_start(settings).join(30)
    assert "the ledger could not be checked" in caplog.text


def test_a_database_that_redis_does_not_have_is_denied(redis_url: str, make_settings: MakeSettings):
    settings = make_settings(REDIS_URL=f"{redis_url.rpartition('/')[0]}/99")
    with connect(settings) as client, pytest.raises(RedisDeniedError, match=r"REDIS_URL.*DB index"), reachable():
        client.ping()
    with pytest.raises(ConfigurationError, match="REDIS_URL"):
        require_layout(settings)


@contextmanager
def answering_sets(*answers: bytes) -> Iterator[str]:
    """Run a server that answers `SET` on its first connection with the first answer, and so on; yields its URL."""
    connections = iter(answers)

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            to_set = next(connections)
            while head := self.rfile.readline():
                words = []
                for _ in range(int(head[1:])):
                    size = int(self.rfile.readline()[1:])
                    words.append(self.rfile.read(size + 2)[:-2])
                self.wfile.write(to_set if words[0] == b"SET" else b"+OK\r\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"redis://127.0.0.1:{server.server_address[1]}/0?protocol=2"
        finally:
            server.shutdown()


READ_ONLY = b"-READONLY You can't write against a read only replica.\r\n"


def test_after_a_failover_behind_its_address_the_client_connects_again(make_settings: MakeSettings):
    with answering_sets(READ_ONLY, b"+OK\r\n") as url, connect(make_settings(REDIS_URL=url)) as client:
        assert client.set("key", "value")


def test_a_redis_that_stays_a_replica_refuses_writes(make_settings: MakeSettings):
    with (
        answering_sets(READ_ONLY, READ_ONLY) as url,
        connect(make_settings(REDIS_URL=url)) as client,
        pytest.raises(WriteRefusedError),
        reachable(),
    ):
        client.set("key", "value")
