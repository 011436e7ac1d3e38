"""Verifying a file: was it made by this installation, elsewhere, or is it unmarked?"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO

from svd_service import validation
from svd_service.config import Settings
from svd_service.errors import NotInstalledError, UnavailableError, UnknownJobError, UnreadableFileError
from svd_service.jobs.job import Job
from svd_service.jobs.queries import Queries
from svd_service.marking.c2pa_library import is_installed
from svd_service.marking.findings import Credentials, Verdict


@dataclass(frozen=True)
class Verification:
    """The `credentials` of a file, if it has any, and the caller's `job` that made it, if its record still exists."""

    credentials: Credentials | None
    job: Job | None = None


class Verify:
    """Reads the Content Credentials of files, in the processes that decode images.

    `certificates` returns all certificates (PEM) with which this installation ever signed.
    """

    def __init__(self, queries: Queries, certificates: Callable[[], list[str]], settings: Settings) -> None:
        self._queries = queries
        self._certificates = certificates
        self._settings = settings

    def __call__(self, upload: BinaryIO, *, owner: str = "") -> Verification:
        """Verify the file `upload`.

        Raises:
            NotInstalledError: the C2PA library is missing.
            ImageTooLargeError: it has more bytes than an upload may have.
            UnreadableFileError: reading it needs too much time or memory.
            UnavailableError: Redis cannot be reached, or all decoder processes are busy.
        """
        if not is_installed():
            raise NotInstalledError("files cannot be verified: this service lacks the package of the extra c2pa")
        credentials = self._read(upload, "".join(self._certificates()))
        return Verification(credentials, self._job_of(credentials, owner))

    def _read(self, upload: BinaryIO, certificates: str) -> Credentials | None:
        # Loaded with the first file: the web process must start fast.
        from svd_service.jobs.images.pool import DecoderEndedError, pool  # noqa: PLC0415

        with pool(self._settings.image_decoders).decoder() as decoder:
            size = decoder.fill(upload, self._settings.max_upload_bytes, "file")
            try:
                answer = decoder.request(do="verify", bytes=size, certificates=certificates)
            except DecoderEndedError as error:
                if error.is_from_outside:
                    raise UnavailableError("the file's reader was stopped; retry in a few seconds") from error
                raise UnreadableFileError(
                    "the file's Content Credentials need too much time or memory to read"
                ) from error
        found = answer["credentials"]
        return None if found is None else validation.convert(found, Credentials)

    def _job_of(self, credentials: Credentials | None, owner: str) -> Job | None:
        # What others state about a job of this service is no proof.
        if credentials is None or credentials.verdict is not Verdict.MADE_HERE or credentials.job_id is None:
            return None
        with suppress(UnknownJobError):
            return self._queries.find(credentials.job_id, owner=owner)
        return None
