"""What a caller may see of a video that is being made: the latest preview, published beside the work that makes it."""

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

#: Seconds for which the end of an attempt waits for a preview that is just being written. The store may be away.
PATIENCE: Final = 2.0


class Previews:
    """Publishes an attempt's latest preview in a thread of its own, while its block lasts; then there is none left.

    Called with what makes one. Of previews that come faster than they are published only the latest counts. A preview
    that fails costs the attempt nothing.
    """

    def __init__(self, claim: Claim, ledger: Ledger, artifacts: ArtifactStore) -> None:
        self._claim = claim
        self._ledger = ledger
        self._artifacts = artifacts
        self._name = preview_name(claim.job_id, claim.token)
        self._changed = threading.Condition()
        self._make: Callable[[], bytes] | None = None
        self._ended = False
        self._thread: threading.Thread | None = None

    def __call__(self, make: Callable[[], bytes]) -> None:
        """Publish what `make` gives, soon."""
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
                self._artifacts.put(self._name, make())
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
        """What makes the next preview; `None` when there will be no more."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._make is not None)
            make, self._make = self._make, None
            return None if self._ended else make
