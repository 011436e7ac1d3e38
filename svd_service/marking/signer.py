"""Signs files with Content Credentials."""

import io
import json
import logging
import time
import uuid
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Final

from svd_service import __version__
from svd_service.errors import JobError
from svd_service.marking.c2pa_library import INGREDIENT, JOB, context
from svd_service.marking.chain import Chain

logger = logging.getLogger(__name__)

#: IPTC's term for media that a trained model generated.
GENERATED: Final = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"


#: Maximum bytes of a file that is signed in memory. The library reads a GIF and a ZIP in 30,000 small pieces for 5 MB,
#: which takes a third longer from a file.
IN_MEMORY: Final = 64_000_000

#: Seconds without time stamps after one could not be had: a request to an authority that hangs takes 30.
NO_TIME_STAMPS: Final = 60.0

#: A GIF of one pixel.
_PIXEL: Final = b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0;"


class SigningError(JobError):
    """A file could not be signed."""

    code = "signing_failed"


@dataclass(frozen=True)
class Claims:
    """What a signature states: the job, and the name and revision of the model. No prompt and no parameter.

    `source` is the archive of the credentials of what the file was made from (`ingredients.SourceCredentials`). With
    `timestamp`, an authority confirms the time, if there is one.
    """

    job_id: str
    model: str
    revision: str | None = None
    source: bytes | None = None
    timestamp: bool = True

    def manifest(self, at: datetime) -> dict[str, Any]:
        """The manifest of a file that was generated at `at`, as C2PA's library takes it."""
        agent = {"name": self.model, **({"version": self.revision} if self.revision else {})}
        action = {
            "action": "c2pa.created",
            "when": at.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "digitalSourceType": GENERATED,
            "softwareAgent": agent,
            **({"parameters": {"ingredientIds": [INGREDIENT]}} if self.source is not None else {}),
        }
        return {
            "claim_generator_info": [{"name": "svd-service", "version": __version__}],
            "title": self.job_id,
            "assertions": [
                {"label": "c2pa.actions.v2", "data": {"actions": [action]}},
                {"label": JOB, "data": {"id": self.job_id}},
            ],
        }


class Signer:
    """Signs with `chain`. `timestamp_url` is the time-stamp authority, if any.

    The library must not be loaded before a fork. Safe for use by several threads.
    """

    def __init__(self, chain: Chain, timestamp_url: str | None = None) -> None:
        self.chain = chain
        self._timestamp_url = timestamp_url
        self._stamps_from = 0.0

    def check(self) -> None:
        """Check that the chain can be used now, before there is something to sign.

        Raises:
            SigningError: it cannot.
        """
        try:
            self.chain.check()
        except ValueError as error:
            raise SigningError(f"Content Credentials cannot be made: {error}") from None

    def try_out(self) -> None:
        """Sign a picture of one pixel: not every certificate that is valid may sign.

        Raises:
            SigningError: the chain cannot be used.
        """
        self.sign(_PIXEL, "image/gif", Claims("", "", timestamp=False))

    def sign_file(self, path: Path, media_type: str, claims: Claims) -> None:
        """Replace the file at `path` by its signed version; if that fails, it is unchanged.

        Raises:
            OSError: the signed file cannot be written.
            SigningError: the file is not of `media_type`, or the chain cannot be used.
        """
        # A valid name of a staged file, so that the sweep deletes it if this process is killed.
        new = path.with_name(f"{uuid.uuid4().hex}{path.suffix}")
        try:
            if path.stat().st_size <= IN_MEMORY:
                new.write_bytes(self.sign(path.read_bytes(), media_type, claims))
            else:
                # Unbuffered: the library seeks before each of its small reads, which would fill the buffer each time.
                with path.open("rb", buffering=0) as source, _Target(new) as target:
                    self._sign(source, target, media_type, claims)
            new.replace(path)
        finally:
            new.unlink(missing_ok=True)

    def sign(self, data: bytes, media_type: str, claims: Claims) -> bytes:
        """The signed version of `data`.

        Raises:
            SigningError: as in `sign_file`.
        """
        target = io.BytesIO()
        self._sign(io.BytesIO(data), target, media_type, claims)
        return target.getvalue()

    def _sign(self, source: BinaryIO, target: "BinaryIO | _Target", media_type: str, claims: Claims) -> None:
        import c2pa  # noqa: PLC0415

        if self._timestamp_url is None or time.monotonic() < self._stamps_from:
            claims = replace(claims, timestamp=False)
        while True:
            try:
                return self._sign_once(source, target, media_type, claims)
            except c2pa.C2paError as error:
                if isinstance(target, _Target) and target.failure is not None:
                    raise target.failure from None
                if (simpler := self._without_extras(claims, error)) is None:
                    raise SigningError(f"Content Credentials could not be added to {media_type}: {error}") from error
                claims = simpler
                source.seek(0)
                target.seek(0)
                target.truncate()

    def _without_extras(self, claims: Claims, error: Exception) -> Claims | None:
        """What can be signed though `error` occurred: without the source, or without a time stamp."""
        import c2pa  # noqa: PLC0415

        # A source that the library rejects is an error of another kind.
        if claims.timestamp and (claims.source is None or isinstance(error, c2pa.C2paError.Signature)):
            logger.warning("signed without a time stamp: %s: %s", self._timestamp_url, error)
            self._stamps_from = time.monotonic() + NO_TIME_STAMPS
            return replace(claims, timestamp=False)
        if claims.source is not None:
            logger.warning("job %s: signed without the credentials of its source: %s", claims.job_id, error)
            return replace(claims, source=None)
        return None

    def _sign_once(self, source: BinaryIO, target: Any, media_type: str, claims: Claims) -> None:
        import c2pa  # noqa: PLC0415

        chain = self.chain
        timestamp_url = self._timestamp_url if claims.timestamp else None
        information = c2pa.C2paSignerInfo(chain.algorithm, chain.certificates, chain.key, timestamp_url)
        with (
            context() as settings,
            c2pa.Signer.from_info(information) as signer,
            c2pa.Builder(json.dumps(claims.manifest(datetime.now(UTC))), settings) as builder,
        ):
            if claims.source is not None:
                builder.add_ingredient_from_archive(io.BytesIO(claims.source))
            builder.sign(signer, media_type, source, target)


class _Target(io.FileIO):
    """A new file. `failure` is the error of a failed write, which the library replaces by one of its own."""

    failure: OSError | None = None

    def __init__(self, path: Path) -> None:
        super().__init__(path, "x+")

    def write(self, data: Any, /) -> int:
        """Write all of `data`: a raw file writes only a part of it on a full disk, without an error."""
        try:
            view = memoryview(data)
            done = 0
            while done < len(view):
                done += super().write(view[done:]) or 0
        except OSError as error:
            self.failure = error
            raise
        return done
