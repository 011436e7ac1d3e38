"""The ledger and the outbox, on the session's Redis and with the test's `settings`."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import redis
from werkzeug.routing import Rule

from svd_service.config import Settings
from svd_service.jobs.job import ResultFile
from svd_service.ledger import Ledger, open_ledger
from svd_service.marking import chain as chains
from svd_service.marking.chain import Chain
from svd_service.webhooks.outbox import Outbox


@pytest.fixture(scope="session", autouse=True)
def _compile_each_route_once() -> Iterator[None]:
    """Keep what Werkzeug compiles of a route for the next app: 45 of the 50 ms that each of 1,500 apps takes."""
    compiled: dict[tuple[Any, ...], Callable[..., tuple[str, str]]] = {}
    compile_builder = Rule._compile_builder

    def compile_once(rule: Rule, append_unknown: bool = True) -> Callable[..., tuple[str, str]]:
        # All that the compiled function depends on; it takes the converters from its rule.
        key = (rule.rule, repr(rule._trace), repr(rule.defaults), append_unknown)
        if key not in compiled:
            compiled[key] = compile_builder(rule, append_unknown)
        return compiled[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Rule, "_compile_builder", compile_once)
        yield


@pytest.fixture
def ledger(redis_client: "redis.Redis", settings: Settings) -> Ledger:
    return open_ledger(redis_client, settings)


@pytest.fixture
def outbox(redis_client: "redis.Redis", settings: Settings) -> Outbox:
    return Outbox(redis_client, settings)


@pytest.fixture(scope="session")
def chain() -> Chain:
    """A self-signed chain."""
    return chains.make()


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Mapping[ResultFile, bytes]:
    """A video in every format, and its still images."""
    from tests.unit.marking.samples import make_files  # importing the encoders takes a second

    return make_files(tmp_path_factory.mktemp("files"))
