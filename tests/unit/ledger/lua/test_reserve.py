import pytest
import redis

from svd_service.errors import (
    UnavailableError,
)
from svd_service.ledger.reservations import REMEMBER, Reservations

pytestmark = pytest.mark.enable_socket


@pytest.fixture
def reservations(redis_client, settings, scripts):
    return Reservations(redis_client, settings, scripts)


def test_two_equal_requests_get_two_ids(reservations):
    assert reservations.reserve("r", 0) != reservations.reserve("r", 0)


def test_a_repeated_request_gets_the_id_of_the_first(reservations):
    first = reservations.reserve("r", 0)
    assert [reservations.reserve("r", times) for times in (1, 2, 3)] == [first] * 3


def test_a_repetition_of_a_lost_request_gets_the_id_that_the_next_one_gets(reservations):
    assert reservations.reserve("r", 1) == reservations.reserve("r", 2)


def test_no_two_repetitions_get_the_same_id(reservations):
    at_once = {reservations.reserve("r", 0) for _ in range(4)}
    assert {reservations.reserve("r", 1) for _ in at_once} == at_once
    assert reservations.reserve("r", 1) not in at_once
    assert len({reservations.reserve("r", 2) for _ in range(5)} & at_once) == 4


def test_a_repetition_never_gets_the_id_of_an_acknowledged_job(reservations):
    lost, known = reservations.reserve("r", 0), reservations.reserve("r", 0)
    reservations.acknowledge(known)
    assert reservations.reserve("r", 1) == lost
    reservations.acknowledge(lost)
    assert reservations.reserve("r", 1) not in {lost, known}


def test_another_request_or_owner_gets_another_id(reservations):
    first = reservations.reserve("r", 0, owner="ann")
    assert reservations.reserve("s", 1, owner="ann") != first
    assert reservations.reserve("r", 1, owner="bob") != first


def test_the_script_repeated_after_a_lost_answer_changes_nothing(reservations, monkeypatch):
    monkeypatch.setattr("uuid.uuid4", iter(["a", "a", "b", "c", "d", "c"]).__next__)
    assert [reservations.reserve("r", 0) for _ in range(2)] == ["a", "a"]
    assert reservations.reserve("r", 0) == "b"
    assert reservations.reserve("r", 1) == "b"  # sent as "c"
    assert reservations.reserve("r", 0) == "d"
    assert reservations.reserve("r", 1) == "b"  # sent as "c" again, though "d" is newer by now


def test_every_key_expires(reservations, redis_client):
    reservations.reserve("r", 0)
    reservations.reserve("r", 1)
    names = redis_client.keys()
    assert len(names) == 2
    assert all(0 < redis_client.ttl(name) <= REMEMBER for name in names)


def test_old_requests_are_deleted_one_by_one(reservations, redis_client, clock):
    first = reservations.reserve("r", 0)
    (sendings,) = redis_client.keys("*:sendings:*")
    clock.advance(REMEMBER + 1)
    assert reservations.reserve("r", 1) != first
    assert redis_client.zrank(sendings, first) is None


def test_without_redis_nothing_is_reserved(make_settings):
    away = redis.Redis(port=1, socket_connect_timeout=0.1)
    with pytest.raises(UnavailableError):
        Reservations(away, make_settings()).reserve("r", 0)
