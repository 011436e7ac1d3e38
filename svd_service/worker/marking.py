"""Marks a worker's files as generated: the last step before they are uploaded."""

import io
import logging
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Final

from svd_service.artifacts.base import ArtifactStore, MissingArtifactError
from svd_service.config import Settings
from svd_service.errors import UnavailableError
from svd_service.jobs.job import Job, Still
from svd_service.jobs.job_files import credentials_name
from svd_service.jobs.marks import MARKS, TYPES, Mark, library_type
from svd_service.ledger.signers import Signers
from svd_service.marking import chain as chains
from svd_service.marking.c2pa_library import is_installed
from svd_service.marking.chain import Chain
from svd_service.marking.ingredients import source_of
from svd_service.marking.signer import Claims, Signer, SigningError
from svd_service.marking.state import NOT_INSTALLED, OFF, signed_by
from svd_service.parameters import Format
from svd_service.retry import Retry

logger = logging.getLogger(__name__)


class Marking:
    """Signs the files of a worker process' results, if `signer` is given. `state`: whether and as whom."""

    def __init__(self, signer: Signer | None = None, state: str = OFF) -> None:
        self._signer = signer
        self.state = state

    def register(self, signers: Signers) -> None:
        """Record the certificate that signs, if one does, again.

        Raises:
            UnavailableError: Redis cannot be reached.
        """
        if self._signer is not None:
            _add(signers, self._signer.chain)

    def check(self) -> None:
        """Check that files can be signed, before they are made.

        Raises:
            SigningError: they cannot; an operator's certificate has expired since the start.
        """
        if self._signer is not None:
            self._signer.check()

    def source_of(self, job: Job, start: object, artifacts: ArtifactStore) -> bytes | None:
        """The credentials of what the video is made from, if it has some: of the uploaded image, or of the MP4 `start`.

        Raises:
            ArtifactsUnavailableError: the store is unavailable.
        """
        if self._signer is None:
            return None
        if isinstance(start, bytes):
            found = source_of(io.BytesIO(start), TYPES[Format.MP4], "video")
            return None if found is None else found.archive
        try:
            with artifacts.open(credentials_name(job.id)) as file:
                return file.read()
        except MissingArtifactError:
            return None

    def sign_files(self, files: Iterable[tuple[Format, Path]], job: Job, source: bytes | None = None) -> None:
        """Sign the files of a video in place. `source` has the credentials of what it was made from.

        Raises:
            SigningError: a file cannot be signed.
            OSError: a file cannot be written.
        """
        if self._signer is not None:
            for kind, path in files:
                if MARKS[kind] is Mark.EMBEDDED:
                    self._signer.sign_file(path, library_type(kind), _claims(job, source))

    def sign_still(self, job: Job, data: bytes, kind: Still) -> bytes:
        """The signed version of a still.

        Raises:
            SigningError: it cannot be signed.
        """
        return self._signed(data, kind, _claims(job))

    def sign_preview(self, job: Job, data: bytes) -> bytes:
        """The signed version of a preview, an image like the thumbnail.

        Previews are made every second and soon forgotten, so no authority stamps them.

        Raises:
            SigningError: it cannot be signed.
        """
        return self._signed(data, Still.THUMBNAIL, replace(_claims(job), timestamp=False))

    def _signed(self, data: bytes, kind: Still, claims: Claims) -> bytes:
        if self._signer is None or MARKS[kind] is not Mark.EMBEDDED:
            return data
        return self._signer.sign(data, library_type(kind), claims)


#: A worker that does not sign.
UNMARKED: Final = Marking()


def open_marking(settings: Settings, signers: Signers) -> Marking:
    """How this process marks its files; logs it.

    Waits while Redis, which shares the chain among hosts, cannot be reached.

    Raises:
        ConfigurationError: the operator's certificate cannot be used.
    """
    if settings.c2pa == "off":
        logger.warning("videos are not marked as generated: SVD_C2PA is off")
        return UNMARKED
    if not is_installed():
        logger.warning("videos are not signed: Content Credentials need pip install 'svd-service[c2pa]'")
        return Marking(state=NOT_INSTALLED)
    configured = chains.configured(settings)
    if configured is not None:
        try:
            Signer(configured).try_out()
        except SigningError as error:
            raise chains.unusable(settings, error) from None
    chain = _until_redis_answers(settings, signers, configured)
    state = signed_by(chain)
    logger.info("Content Credentials: %s (certificate %s)", state, chain.fingerprint[:16])
    return Marking(Signer(chain, settings.c2pa_timestamp_url), state)


def _until_redis_answers(settings: Settings, signers: Signers, chain: Chain | None) -> Chain:
    def register() -> Chain:
        registered = chain or _shared(settings, signers)
        _add(signers, registered)
        return registered

    return Retry(UnavailableError, first_pause=1.0, longest_pause=5.0, before_pause=_log)(register)


def _add(signers: Signers, chain: Chain) -> None:
    signers.add(chain.fingerprint, chain.signer.decode())


def _shared(settings: Settings, signers: Signers) -> Chain:
    """The installation's own chain. Redis decides between hosts that make one at once; each keeps a copy, so that the
    chain survives the loss of Redis' data.
    """
    known = signers.shared()
    own = chains.stored(settings.data_dir)
    pem = known or signers.share((own or chains.make()).pem.decode())
    chain = Chain.from_pem(pem.encode())
    if chain != own:
        try:
            chains.store(settings.data_dir, chain)
        except OSError as error:
            logger.warning("no copy of the chain is kept in %s: %s", settings.data_dir, error.strerror)
    return chain


def _log(error: Exception, pause: float) -> None:
    logger.warning("the signing chain is not known yet; retry in %.0f s: %s", pause, error)


def _claims(job: Job, source: bytes | None = None) -> Claims:
    return Claims(job.id, str(job.model["name"]), job.model.get("revision"), source)
