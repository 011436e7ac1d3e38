"""The content cache: a job that repeats an earlier one gets a copy of its video."""

import hashlib
import json
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING

from svd_service import __version__
from svd_service.artifacts.base import ArtifactStore, MissingArtifactError
from svd_service.config import Settings
from svd_service.errors import UnknownJobError
from svd_service.jobs import job_files
from svd_service.jobs.job import Result
from svd_service.jobs.job_files import delete_or_leave, file_name, result_name
from svd_service.jobs.model import Model
from svd_service.jobs.parameters import Parameters, VideoRequest
from svd_service.jobs.queries import Queries
from svd_service.jobs.submission import CachedVideo

if TYPE_CHECKING:
    from svd_service.ledger import Ledger


class ContentCache:
    """Finds and copies the videos of an owner's earlier jobs, if the settings enable it."""

    def __init__(self, queries: Queries, ledger: "Ledger", artifacts: ArtifactStore, settings: Settings) -> None:
        self._queries = queries
        self._ledger = ledger
        self._artifacts = artifacts
        self._settings = settings

    def may_have(self, request: VideoRequest) -> bool:
        """Whether an earlier job may have made the video of `request`: without a seed, each video is different."""
        return self._settings.content_cache and "seed" in request.values

    def digest(self, input: bytes, parameters: Parameters, model: Model, manifest_id: str = "") -> str:
        """A digest of everything that a video depends on except the device; `""` if there is no cache.

        `input` is the fitted image, or stands for the video to be extended. `manifest_id` is that of the image's
        Content Credentials, which the video carries on.
        """
        if not self._settings.content_cache:
            return ""
        content = {
            "image": hashlib.sha256(input).hexdigest(),
            "parameters": parameters.to_dict(),
            "model": {"source": model.source, **model.summary()},
            "optimizations": self._settings.optimizations,
            "version": __version__,
            **({"credentials": manifest_id} if manifest_id else {}),
            # A video that was not moderated is no copy for one that is to be.
            **({"moderated": True} if self._settings.moderation_results else {}),
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def copy(self, content: str, model: str, *, job_id: str, owner: str) -> CachedVideo | None:
        """An earlier job with the same `content`, and a copy of its files as the result of job `job_id`.

        Raises:
            UnavailableError: Redis or the store is unavailable; no copy is left.
        """
        same = self._ledger.jobs.find_same(owner, content, model)
        result = self._result_of(same, owner) if same else None
        if result is None:
            return None
        cached = CachedVideo(same, replace(result, artifact=result_name(job_id, uuid.uuid4().hex)))
        try:
            self._copy_files(result, cached.copy)
        except MissingArtifactError:  # deleted or expired in the meantime
            self.drop(cached)
            return None
        except BaseException:
            self.drop(cached)
            raise
        return cached

    def drop(self, cached: CachedVideo) -> None:
        """Delete a copy that no job needs."""
        for kind in cached.copy.kinds:
            delete_or_leave(self._artifacts, file_name(cached.copy.artifact, kind))

    def _result_of(self, job_id: str, owner: str) -> Result | None:
        try:
            return self._queries.find(job_id, owner=owner).result
        except UnknownJobError:  # deleted in the meantime
            return None

    def _copy_files(self, original: Result, copy: Result) -> None:
        for kind in original.kinds:
            job_files.copy(self._artifacts, file_name(original.artifact, kind), file_name(copy.artifact, kind))
