"""Checks of what Redis holds: its settings, the version of the ledger's layout, and damage (a lost or partly restored
record, a key of the wrong type), which is repaired or reported.

A process that starts a worker or the API runs it once in the background; `svd-service ledger check` runs it on demand.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import redis

from svd_service.config import ConfigurationError, Settings
from svd_service.errors import RedisDeniedError, UnavailableError
from svd_service.ledger.birth import BIRTH, birth
from svd_service.ledger.connection import connect, reachable
from svd_service.ledger.constants import ENQUEUED, LAST_ACTIVITY
from svd_service.ledger.record import SEPARATOR
from svd_service.ledger.scripts import Scripts

logger = logging.getLogger(__name__)

#: Version of the keys' layout. 1 is that of the releases that did not store it, which this one reads as it is.
SCHEMA: Final = 2

#: Seconds within which only one process checks a ledger at its start, and between retries while Redis is unavailable.
ONCE_IN: Final = 300
RETRY: Final = 5.0

#: Number of keys, or jobs, checked in one round trip.
BATCH: Final = 100

_HASH, _ZSET, _STRING, _SET = "hash", "zset", "string", "set"

#: What was wrong with a job that has no record, as in `lua/mend.lua`.
LOST: Final = "its record is missing or damaged; dropped"

#: The type of each key of `svd_service/ledger/__init__.py`, by the first part of its name.
TYPES: Final = {
    **dict.fromkeys(("waiting", ENQUEUED, "queued", "leases", "deadlines", "ended", "ended_of", "pinned"), _ZSET),
    **dict.fromkeys(("owner", "sendings", "models", "workers", "queues", "preparing"), _ZSET),
    **dict.fromkeys(("outbox", "posted", "pending_of", "discarded", "left"), _ZSET),
    **dict.fromkeys(("job", "group", "loads", "idle_since", "arrived", "queued_of", "idempotency", "content"), _HASH),
    **dict.fromkeys(("states", "counters", "throughput"), _HASH),
    **dict.fromkeys(("model_descriptions", "worker_status", "worker_queue", "worker_device", "queue_sample"), _HASH),
    **dict.fromkeys(("preparing_status", "finish_tags", "delivery", "webhook_secrets", "keys", "signers"), _HASH),
    **dict.fromkeys(("unheard", LAST_ACTIVITY, "clock", "rate", "schema", "checked", BIRTH), _STRING),
    **dict.fromkeys(("usage", "usage_totals", "history", "paused", "held_back"), _HASH),
    "usage_owners": _SET,
    "jobs": _ZSET,
    "audit": "list",
}

#: Keys that are never deleted, whatever is in them: without API keys the service would be open.
_PRECIOUS: Final = frozenset({"keys", "webhook_secrets", "signers"})

#: Sets whose members are jobs.
_JOB_SETS: Final = (
    *("waiting", ENQUEUED, "queued", "leases", "deadlines", "ended", "ended_of", "pinned", "owner", "jobs"),
)


@dataclass
class Findings:
    """Findings of a check: `repaired` is fixed, `problems` need an operator."""

    repaired: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def require_schema(client: "redis.Redis", settings: Settings) -> None:
    """Store the version of the layout in a Redis that has none, and when the ledger began.

    Raises:
        ConfigurationError: a newer release has written to this Redis.
        UnavailableError: Redis cannot be reached.
    """
    name = f"{settings.namespace}:schema"
    with reachable():
        if client.set(name, SCHEMA, nx=True):
            _copy_throughput(client, settings.namespace)
            # The jobs of a ledger of layout 1, by which it is dated, are in one set only after the check.
            if not client.exists(f"{settings.namespace}:states"):
                birth(Scripts(client, settings.namespace))
        found = str(client.get(name))
        if found == "1":
            client.set(name, SCHEMA)
    if not found.isdecimal() or int(found) > SCHEMA:
        raise ConfigurationError(
            f"the ledger in Redis has layout {found}; this release reads up to {SCHEMA}. Start the release that wrote "
            f"it, or set SVD_NAMESPACE to begin an empty ledger, with another SVD_DATA_DIR or SVD_ARTIFACTS: two "
            f"ledgers in one store delete each other's files"
        )


def _copy_throughput(client: "redis.Redis", namespace: str) -> None:
    """Take over the throughput models of layout 1, whose scripts cannot read these: hence the new name."""
    if known := client.hgetall(f"{namespace}:paces"):
        client.hset(f"{namespace}:throughput", mapping=dict(known.items()))


def require_layout(settings: Settings) -> None:
    """Check that no newer release has written the ledger, if Redis can be reached.

    Raises:
        ConfigurationError: a newer release has written it, or Redis rejects the database or the user.
    """
    try:
        with connect(settings) as client:
            require_schema(client, settings)
    except RedisDeniedError as error:
        raise ConfigurationError(str(error)) from None
    except UnavailableError:
        pass


def check(client: "redis.Redis", settings: Settings) -> Findings:
    """Check everything, and repair what is possible.

    Raises:
        UnavailableError: Redis cannot be reached.
    """
    findings = Findings()
    scripts = Scripts(client, settings.namespace)
    with reachable():
        _check_policy(client, findings)
        try:
            ids, sets = _check_keys(client, settings.namespace, findings)
        except redis.exceptions.NoPermissionError:
            findings.problems.append("this Redis user may not run SCAN and TYPE: not checking for damaged keys")
            return findings
    for start in range(0, len(ids), BATCH):
        answer = scripts.run("mend", ids=ids[start : start + BATCH], record_ttl=settings.record_ttl)
        found = dict(zip(answer[0::2], answer[1::2], strict=True))
        with reachable():
            lost = _remove_lost(client, scripts, sets, found)
        # Without a record, and in no set: the job was deleted since its id was read.
        repaired = {job_id: what or LOST for job_id, what in found.items() if what or job_id in lost}
        findings.repaired += [f"job {job_id}: {what}" for job_id, what in repaired.items()]
    scripts.run("recount")
    return findings


def check_at_start(settings: Settings, open_client: Callable[[Settings], "redis.Redis"] = connect) -> threading.Thread:
    """Check in the background once Redis can be reached, unless another process just did; log the findings."""
    thread = threading.Thread(target=_check_once, args=(settings, open_client), name="ledger-check", daemon=True)
    thread.start()
    return thread


def _check_once(settings: Settings, open_client: Callable[[Settings], "redis.Redis"]) -> None:
    while True:
        try:
            with open_client(settings) as client:
                with reachable():
                    first = client.set(f"{settings.namespace}:checked", 1, nx=True, ex=ONCE_IN)
                if first:
                    log_findings(check(client, settings))
            return
        except RedisDeniedError as error:
            logger.error("the ledger could not be checked: %s", error)
            return
        except UnavailableError:
            time.sleep(RETRY)
        except redis.RedisError:
            logger.exception("the ledger could not be checked")
            return


def log_findings(findings: Findings) -> None:
    """Log the findings of a check."""
    for repaired in findings.repaired:
        logger.error("ledger: %s", repaired)
    for problem in findings.problems:
        logger.warning("ledger: %s", problem)


def _check_policy(client: "redis.Redis", findings: Findings) -> None:
    try:
        policy = client.info("memory").get("maxmemory_policy", "noeviction")
    except redis.exceptions.NoPermissionError:  # an ACL without `+info`
        return
    if policy != "noeviction":
        findings.problems.append(
            f"Redis' maxmemory-policy is {policy}: when memory is full it deletes jobs; set it to noeviction"
        )


def _remove_lost(client: "redis.Redis", scripts: Scripts, sets: list[str], mended: dict[str, str]) -> set[str]:
    """Remove ids without a record from every set: the script does not know the owner of such a job.

    Returns those that were in one. Those of which the script had found nothing (`""`) are counted here.
    """
    lost = [job_id for job_id in mended if not client.exists(scripts.key("job", job_id))]
    found: set[str] = set()
    for name in sets if lost else ():
        with client.pipeline(transaction=False) as pipe:
            for job_id in lost:
                pipe.zrem(name, job_id)
            found.update(job_id for job_id, removed in zip(lost, pipe.execute(), strict=True) if removed)
    if uncounted := sum(not mended[job_id] for job_id in found):
        for kind in ("job", "repaired"):
            client.hincrby(scripts.key("counters"), SEPARATOR.join(("damaged", kind)), uncounted)
    return found


def _check_keys(client: "redis.Redis", namespace: str, findings: Findings) -> tuple[list[str], list[str]]:
    """Delete keys of the wrong type; returns every id that is in a record or a set, and those sets."""
    ids: dict[str, None] = {}
    sets: list[str] = []
    for names in _batches(client.scan_iter(f"{namespace}:*", count=1_000)):
        with client.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.type(name)
            types = pipe.execute()
        for name, kind in zip(names, types, strict=True):
            first, _, rest = name.removeprefix(f"{namespace}:").partition(":")
            expected = TYPES.get(first)
            if expected is None or kind == "none":
                continue
            if kind != expected:
                _report_wrong_type(client, name, kind, findings, precious=first in _PRECIOUS)
            if first == "job":
                ids[rest] = None
            elif first in _JOB_SETS and kind == _ZSET:
                sets.append(name)
                ids.update((member, None) for member, _ in client.zscan_iter(name, count=1_000))
    return list(ids), sets


def _report_wrong_type(client: "redis.Redis", name: str, kind: str, findings: Findings, *, precious: bool) -> None:
    if precious:
        findings.problems.append(f"{name} is a {kind}; restore it from a backup, or delete it")
        return
    client.delete(name)
    findings.repaired.append(f"{name} was a {kind}; deleted")


def _batches(names: Iterator[Any]) -> Iterator[list[str]]:
    batch: list[str] = []
    for name in names:
        batch.append(str(name))
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
