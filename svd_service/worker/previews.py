"""Previews of a video that is being generated: the latest is uploaded while generation continues."""

import logging
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from svd_service.artifacts.base import ArtifactStore
from svd_service.errors import StaleAttemptError, UnavailableError
from svd_service.jobs.job import Claim
from svd_service.jobs.job_files import preview_name
from svd_service.ledger import Ledger

logger = logging.getLogger(__name__)

#: Seconds for which the end of an attempt waits for a preview that is being uploaded. The store may be unreachable.
PATIENCE: Final = 2.0


class Previews:
    """Context manager that uploads an attempt's latest preview in its own thread, and deletes it on exit.

    Called with a function that makes a preview. When previews arrive faster than they are uploaded, only the latest
    is uploaded. A preview that fails does not affect the attempt. `sign` returns the signed version of a preview.
    """

    def __init__(
        self, claim: Claim, ledger: Ledger, artifacts: ArtifactStore, sign: Callable[[bytes], bytes] = lambda data: data
    ) -> None:
        self._sign = sign
        self._claim = claim
        self._ledger = ledger
        self._artifacts = artifacts
        self._name = preview_name(claim.job_id, claim.token)
        self._changed = threading.Condition()
        self._make: Callable[[], bytes] | None = None
        self._ended = False
        self._thread: threading.Thread | None = None

    def __call__(self, make: Callable[[], bytes]) -> None:
        """Schedule the upload of the preview that `make` returns."""
        with self._changed:
            self._make = make
            self._changed.notify()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="previews", daemon=True)
            self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(PATIENCE)

    def _run(self) -> None:
        try:
            while (make := self._next()) is not None:
                self._artifacts.put(self._name, self._sign(make()))
                self._ledger.attempts.show_preview(self._claim, self._name)
        except (UnavailableError, StaleAttemptError) as error:
            logger.info("job %s: no more previews: %s", self._claim.job_id, error)
        except Exception:
            logger.warning("job %s: no more previews", self._claim.job_id, exc_info=True)
        finally:
            try:
                self._artifacts.delete(self._name)
            except UnavailableError as error:
                logger.warning("%s is left to the sweep: %s", self._name, error)

    def _next(self) -> Callable[[], bytes] | None:
        """Return the function that makes the next preview, or `None` after the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._make is not None)
            make, self._make = self._make, None
            return None if self._ended else make
