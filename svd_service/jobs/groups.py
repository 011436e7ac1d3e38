"""Groups of jobs: several videos of one image, submitted, found and cancelled together."""

import logging
import random
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, BinaryIO

from svd_service.artifacts.base import ArtifactStore, MissingArtifactError
from svd_service.errors import (
    InvalidParameterError,
    NotReadyError,
    UnknownGroupError,
    UnknownJobError,
)
from svd_service.jobs.enqueueing import Dispatch
from svd_service.jobs.group import Group
from svd_service.jobs.job import Still
from svd_service.jobs.job_files import delete_inputs_or_leave, file_name
from svd_service.jobs.parameters import VideoRequest
from svd_service.jobs.queries import as_due, is_id
from svd_service.jobs.removal import Removal
from svd_service.jobs.submission import GroupSubmission
from svd_service.jobs.submit import Draft, Order, Submit, cleaned_up_unless_accepted, fingerprint
from svd_service.parameters import MAX_GROUP, MAX_SEED
from svd_service.telemetry import logs

if TYPE_CHECKING:
    from svd_service.ledger import Ledger

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Seeds:
    """Which videos a group has: of the listed `seeds`, or `number` of them."""

    number: int
    listed: tuple[int, ...] = ()

    @classmethod
    def of(cls, number: int | None, listed: Sequence[int] | None, seed: int | None) -> "Seeds":
        """Check the caller's values; `seed` is that of a single video, from which several are counted up.

        Raises:
            InvalidParameterError: they contradict each other, or are out of bounds.
        """
        if listed is None:
            counted = range(seed, seed + (number or 1)) if seed is not None else ()
            return cls(number or 1, tuple(each % (MAX_SEED + 1) for each in counted))
        if not 1 <= len(listed) <= MAX_GROUP or len(set(listed)) != len(listed):
            raise InvalidParameterError("seeds", f"seeds must be 1 to {MAX_GROUP} different seeds")
        if not all(0 <= each <= MAX_SEED for each in listed):
            raise InvalidParameterError("seeds", f"seeds must be from 0 to {MAX_SEED}")
        if seed is not None:
            raise InvalidParameterError("seed", "send either seed or seeds")
        if number not in {None, len(listed)}:
            raise InvalidParameterError("n", f"n must be the number of seeds, {len(listed)}; got {number}")
        return cls(len(listed), tuple(listed))

    def drawn(self) -> tuple[int, ...]:
        """The seeds of the videos: those listed, else random ones."""
        return self.listed or tuple(random.sample(range(MAX_SEED + 1), self.number))


class Groups:
    """Submits, finds and cancels groups of an owner.

    Every method but `submit` raises `UnknownGroupError` if there is no group with that id, or it belongs to another
    owner.
    """

    def __init__(
        self,
        ledger: "Ledger",
        artifacts: ArtifactStore,
        submit: Submit,
        removal: Removal,
        dispatch: Dispatch,
    ) -> None:
        self._ledger = ledger
        self._artifacts = artifacts
        self._submit = submit
        self._removal = removal
        self._dispatch = dispatch

    def submit(self, upload: BinaryIO, order: Order, seeds: Seeds) -> Group:
        """Submit a job for each of the seeds: all are accepted, or none.

        Raises:
            RejectedError, IdempotencyConflictError, ContentFilteredError, NotAllowedError, QueueFullError,
                QuotaExceededError, PausedError, LateError, UnavailableError: as `Submit` does.
        """
        requests = [_with_seed(order.request, seed) for seed in seeds.drawn()]
        drafts = self._submit.prepare(upload, [replace(order, request=request) for request in requests])
        group_id = str(uuid.uuid4())
        accepted = self._accept(group_id, drafts, order, seeds)
        if accepted != group_id:
            self._clean_up(drafts)
        logger.info("group %s: %s", accepted, "accepted" if accepted == group_id else "submitted again")
        self._dispatch()
        return self.find(accepted, owner=order.owner)

    def find(self, group_id: str, *, owner: str = "") -> Group:
        """The group at this moment, with estimates for its jobs."""
        if is_id(group_id):
            group = self._ledger.groups.find(group_id)
            if group.owner == owner:
                jobs = self._ledger.estimates.estimate(group.jobs)
                return replace(group, jobs=tuple(map(as_due, jobs)))
        raise UnknownGroupError(f"there is no group {group_id}")

    def cancel(self, group_id: str, *, owner: str = "") -> Group:
        """Cancel every job that has not ended; no effect on the others."""
        for job in self.find(group_id, owner=owner).jobs:
            if not job.state.ended:
                with suppress(UnknownJobError):  # deleted meanwhile
                    self._removal.cancel(job.id, owner=owner)
        return self.find(group_id, owner=owner)

    def cancel_or_delete(self, group_id: str, *, owner: str = "") -> Group | None:
        """Cancel every job that has not ended; if all have ended, delete them and the group, and return `None`.

        Raises:
            ArtifactsUnavailableError: the artifacts cannot be deleted now, so the records are kept, too.
        """
        group = self.find(group_id, owner=owner)
        if not group.state.ended:
            return self.cancel(group_id, owner=owner)
        for job in group.jobs:
            with suppress(UnknownJobError):  # deleted meanwhile
                self._removal.cancel_or_delete(job.id, owner=owner)
        return None

    def contact_sheet(self, group_id: str, *, owner: str = "") -> bytes:
        """The thumbnails of the finished jobs side by side with their seeds, as JPEG.

        Raises:
            NotReadyError: no job has finished.
        """
        group = self.find(group_id, owner=owner)
        tiles: list[tuple[bytes, str]] = []
        for job in group.jobs:
            if job.result is not None:
                with (
                    suppress(MissingArtifactError),
                    self._artifacts.open(file_name(job.result.artifact, Still.THUMBNAIL)) as file,
                ):
                    tiles.append((file.read(), f"seed {job.parameters.seed}"))
        if not tiles:
            raise NotReadyError(group.state, "no job of the group has a video", group.eta_seconds)
        from svd_service.jobs.images.contact_sheet import contact_sheet  # noqa: PLC0415 - brings Pillow

        return contact_sheet(tiles)

    def _accept(self, group_id: str, drafts: list[Draft], order: Order, seeds: Seeds) -> str:
        """Store the images and write the jobs to the ledger; returns the id of the group, or of what it repeats."""
        self._ledger.jobs.ping()
        logs.add(group_id=group_id)
        with cleaned_up_unless_accepted(lambda: self._clean_up(drafts)):
            for draft in drafts:
                draft.store_input()
            return self._ledger.groups.submit(self._submission(group_id, drafts, order, seeds))

    def _submission(self, group_id: str, drafts: list[Draft], order: Order, seeds: Seeds) -> GroupSubmission:
        jobs = [self._submit.submission(draft, ahead=number) for number, draft in enumerate(drafts)]
        mark = ""
        if order.idempotency_key:
            mark = fingerprint(order.request, drafts[0].image or b"", n=seeds.number, seeds=seeds.listed)
        return GroupSubmission(
            group_id,
            [replace(job, late=jobs[-1].late, webhook="", idempotency_key="") for job in jobs],
            idempotency_key=order.idempotency_key,
            fingerprint=mark,
            webhook=order.webhook,
        )

    def _clean_up(self, drafts: list[Draft]) -> None:
        for draft in drafts:
            delete_inputs_or_leave(self._artifacts, draft.job_id)


def _with_seed(request: VideoRequest, seed: int) -> VideoRequest:
    return VideoRequest(request.model, image_sizes=request.image_sizes, **{**request.values, "seed": seed})
