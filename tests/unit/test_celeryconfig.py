import socket
import sys

import pytest
from kombu import Connection

import celeryconfig


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other such options, or none")
def test_the_brokers_connections_detect_a_vanished_host(redis_url: str) -> None:
    with Connection(redis_url, transport_options=celeryconfig.broker_transport_options) as connection:
        pool = connection.default_channel.client.connection_pool  # type: ignore[attr-defined]
        opened = pool.get_connection()
        opened.connect()
        try:
            chosen = {
                name: opened._sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, name))
                for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")
            }
        finally:
            pool.release(opened)
    # Ten seconds, with or without unacknowledged data.
    assert chosen["TCP_USER_TIMEOUT"] == 10_000
    assert chosen["TCP_KEEPIDLE"] + chosen["TCP_KEEPINTVL"] * chosen["TCP_KEEPCNT"] <= 11
