import pytest
import redis

from svd_service.errors import UnavailableError
from svd_service.ledger.reservations import REMEMBER, Reservations


@pytest.fixture
def reservations(redis_client, make_settings, redis_url):
    return Reservations(redis_client, make_settings(REDIS_URL=redis_url))


def test_two_requests_that_are_alike_get_two_ids(reservations):
    assert reservations.reserve("r", 0) != reservations.reserve("r", 0)


def test_a_repetition_gets_the_id_of_what_it_repeats(reservations):
    first = reservations.reserve("r", 0)
    assert [reservations.reserve("r", times) for times in (1, 2, 3)] == [first] * 3


def test_a_repetition_of_what_never_came_gets_an_id_that_the_next_one_gets_too(reservations):
    assert reservations.reserve("r", 1) == reservations.reserve("r", 2)


def test_no_two_repetitions_get_the_same_id(reservations):
    at_once = {reservations.reserve("r", 0) for _ in range(4)}
    assert {reservations.reserve("r", 1) for _ in at_once} == at_once
    assert reservations.reserve("r", 1) not in at_once
    assert len({reservations.reserve("r", 2) for _ in range(5)} & at_once) == 4


def test_a_repetition_means_no_job_that_somebody_has_asked_for(reservations):
    lost, heard = reservations.reserve("r", 0), reservations.reserve("r", 0)
    reservations.acknowledge(heard)
    assert reservations.reserve("r", 1) == lost
    reservations.acknowledge(lost)
    assert reservations.reserve("r", 1) not in {lost, heard}


def test_another_request_or_owner_gets_another_id(reservations):
    first = reservations.reserve("r", 0, owner="ann")
    assert reservations.reserve("s", 1, owner="ann") != first
    assert reservations.reserve("r", 1, owner="bob") != first


def test_asking_again_after_a_lost_answer_changes_nothing(reservations, monkeypatch):
    monkeypatch.setattr("uuid.uuid4", iter(["a", "a", "b", "c", "d", "c"]).__next__)
    assert [reservations.reserve("r", 0) for _ in range(2)] == ["a", "a"]
    assert reservations.reserve("r", 0) == "b"
    assert reservations.reserve("r", 1) == "b"  # asked as "c"
    assert reservations.reserve("r", 0) == "d"
    assert reservations.reserve("r", 1) == "b"  # asked as "c" again, though "d" is newer by now


def test_nothing_is_remembered_for_ever(reservations, redis_client):
    reservations.reserve("r", 0)
    reservations.reserve("r", 1)
    names = redis_client.keys()
    assert len(names) == 2
    assert all(0 < redis_client.ttl(name) <= REMEMBER for name in names)


def test_requests_of_long_ago_are_forgotten_one_by_one(reservations, redis_client):
    first = reservations.reserve("r", 0)
    (sendings,) = redis_client.keys("*:sendings:*")
    redis_client.zincrby(sendings, -REMEMBER - 1, first)
    assert reservations.reserve("r", 1) != first
    assert redis_client.zrank(sendings, first) is None


def test_without_redis_nothing_is_reserved(make_settings):
    away = redis.Redis(port=1, socket_connect_timeout=0.1)
    with pytest.raises(UnavailableError):
        Reservations(away, make_settings()).reserve("r", 0)
