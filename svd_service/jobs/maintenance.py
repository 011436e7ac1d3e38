"""Maintenance of the jobs, repeated by every worker: requeue lost ones, apply retention, sweep orphaned artifacts.

Which ones are lost: `ledger/lua/reap.lua`.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Final

from svd_service.artifacts.base import ArtifactStore, ArtifactsUnavailableError
from svd_service.config import Settings
from svd_service.jobs.enqueueing import Dispatch
from svd_service.jobs.job_files import INPUTS, RESULTS, credentials_name, delete_all, file_name, job_of, result_name
from svd_service.parameters import Format

if TYPE_CHECKING:
    from svd_service.ledger import Ledger
    from svd_service.ledger.jobs import NeededArtifacts

logger = logging.getLogger(__name__)

#: Seconds for which an artifact may exist without a job that needs it: longer than any submission takes.
ORPHAN_AGE: Final = 3_600.0

#: Number of consecutive deletions that must fail before the store is taken to be unavailable.
MAX_FAILURES: Final = 100

#: Number of artifacts whose jobs are looked up at once.
BATCH: Final = 200


class Maintenance:
    """Each method may run in several processes at once; it raises `UnavailableError` without Redis or the store."""

    def __init__(self, ledger: "Ledger", artifacts: ArtifactStore, dispatch: Dispatch, settings: Settings) -> None:
        self._ledger = ledger
        self._artifacts = artifacts
        self._dispatch = dispatch
        self._settings = settings
        self._kept = 0

    def reap(self) -> list[str]:
        """Requeue the jobs of lost workers, and re-enqueue lost messages; returns the ids of the former."""
        reaped = self._ledger.maintenance.reap()
        self._dispatch.enqueue(reaped.overdue)
        self._dispatch()
        return reaped.lost

    def expire(self) -> int:
        """Apply retention to the results and records that are due; returns how many."""
        due = self._ledger.maintenance.expire()
        failures = Failures()
        for job_id in due:
            with failures.collected():
                delete_all(self._artifacts, job_id)
        failures.raise_last()
        return len(due)

    def sweep_orphans(self) -> int:
        """Delete the artifacts that no job needs, left by a crash between two steps; returns how many.

        Those of unknown jobs that are older than the ledger stay: Redis may have lost its data, and get it back.
        """
        swept = self._artifacts.sweep_staging(max(ORPHAN_AGE, self._settings.job_timeout))
        kept, failures = 0, Failures()
        # Other files in the same folder or bucket are not ours.
        names = chain.from_iterable(self._artifacts.names(folder) for folder in (INPUTS, RESULTS))
        for batch in _batches(names, BATCH):
            old = {name: modified for name, modified in batch if modified < time.time() - ORPHAN_AGE}
            wanted = self._ledger.jobs.needed_artifacts({job_of(name) for name in old})
            # Behind the look-up: Redis may come back empty at any moment.
            birth = self._ledger.maintenance.birth()
            for name, modified in old.items():
                needed = wanted.get(job_of(name))
                if needed is None or _is_wanted(name, needed):
                    continue
                if not needed.known and modified < birth:
                    kept += 1
                    continue
                with failures.collected():
                    self._artifacts.delete(name)
                    swept += 1
        self._report_kept(kept)
        failures.raise_last()
        return swept

    def _report_kept(self, kept: int) -> None:
        # They stay until an operator acts: one line, and again only when they have become more.
        if kept > self._kept:
            logger.warning(
                "%d files in the store belong to unknown jobs and are older than the ledger in Redis; they are kept. "
                "If Redis has lost its data, stop the service and restore Redis; if it was to begin empty, delete the "
                'files (docs/operations.md, "Back up and restore")',
                kept,
            )
        self._kept = kept


class Failures:
    """Failed deletions. One artifact that cannot be deleted hinders no others; a store that is down ends the loop."""

    def __init__(self) -> None:
        self._last: ArtifactsUnavailableError | None = None
        self._consecutive = 0

    @contextmanager
    def collected(self) -> Iterator[None]:
        """Keep a failure for the end; after `MAX_FAILURES` in a row, raise it."""
        try:
            yield
            self._consecutive = 0
        except ArtifactsUnavailableError as error:
            self._last = error
            self._consecutive += 1
            if self._consecutive == MAX_FAILURES:
                raise

    def raise_last(self) -> None:
        """Raise the last failure, if there was one."""
        if self._last is not None:
            raise self._last


def _is_wanted(name: str, wanted: "NeededArtifacts") -> bool:
    # All files of a result are needed as long as its MP4 is.
    video = file_name(name.partition(".")[0], Format.MP4)
    written = result_name(job_of(name), wanted.token) if wanted.token else None
    inputs = {wanted.input, credentials_name(job_of(name))} if wanted.input else set()
    return name in inputs or video in {wanted.result, written}


def _batches(names: Iterator[tuple[str, float]], size: int) -> Iterator[list[tuple[str, float]]]:
    batch: list[tuple[str, float]] = []
    for name in names:
        batch.append(name)
        if len(batch) == size:
            yield batch
            batch = []
    yield batch
