import redis

from svd_service.celery_app import Enqueuer


def test_enqueueing_sends_the_message_and_nothing_else(make_settings, redis_url: str):
    client = redis.Redis.from_url(redis_url, decode_responses=True)
    with client.pubsub() as events:
        events.psubscribe("*celeryev*")
        assert events.get_message(timeout=5)  # of the subscription
        # An event would be sent by one dispatcher for all threads, under a lock: with Redis away they wait in a row.
        Enqueuer(make_settings(REDIS_URL=redis_url))("a", "svd.tiny")
        assert client.llen("svd.tiny") == 1
        assert events.get_message(timeout=0.2) is None
