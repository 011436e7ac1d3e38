import time
from typing import Any

import pytest

from svd_service.config import Settings
from svd_service.errors import ExpiredLinkError, InvalidLinkError
from svd_service.ledger.share_links import ShareLinks

pytestmark = pytest.mark.enable_socket

#: Later than this module's last test, however slow the machine is.
LATER = int(time.time()) + 86_400


def processes(redis_client: Any, settings: Settings) -> tuple[ShareLinks, ShareLinks]:
    return ShareLinks(redis_client, settings), ShareLinks(redis_client, settings)


def test_a_link_is_valid_in_every_process_and_for_nothing_else(redis_client: Any, settings: Settings) -> None:
    one, other = processes(redis_client, settings)
    signature = one.sign("job", LATER)
    other.verify("job", LATER, signature)
    for changed in (("another", LATER, signature), ("job", LATER + 1, signature), ("job", LATER, signature[:-1])):
        with pytest.raises(InvalidLinkError):
            other.verify(*changed)


def test_a_link_expires(redis_client: Any, settings: Settings) -> None:
    links, _ = processes(redis_client, settings)
    past = int(time.time()) - 1
    with pytest.raises(ExpiredLinkError):
        links.verify("job", past, links.sign("job", past))


def test_after_redis_has_lost_its_data_processes_agree_on_a_new_secret(redis_client: Any, settings: Settings) -> None:
    one, other = processes(redis_client, settings)
    old = one.sign("job", LATER)
    other.verify("job", LATER, old)
    redis_client.flushall()
    other.verify("job", LATER, one.sign("job", LATER))
    with pytest.raises(InvalidLinkError):
        one.verify("job", LATER, old)
