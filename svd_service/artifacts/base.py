"""The store of images and videos: one contract, which one test suite checks for every implementation.

A name is relative and uses `/`, such as `inputs/<job>.png` or `results/<job>/<token>.mp4`. An artifact is written once,
whole, and is either there with all of its bytes or not at all.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from svd_service.errors import JobError, UnavailableError

# No part begins with a dot: that excludes `..`, and reserves such names for the stores themselves.
_PART: Final = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}"
_NAME: Final = re.compile(rf"{_PART}(/{_PART}){{0,7}}")


class ArtifactsUnavailableError(UnavailableError):
    """The store cannot be written or read at the moment: it is full, unreachable, or denies access."""

    code = "artifacts_unavailable"


class MissingArtifactError(JobError):
    """There is no artifact of that name, or it was deleted."""

    code = "missing_artifact"


#: Calls an operation, and decides whether and how long to retry it while the store is unreachable
#: (`svd_service/retry.py`).
Retrying = Callable[[Callable[[], None]], None]


def once(operation: Callable[[], None]) -> None:
    """The `Retrying` that never retries."""
    operation()


class ArtifactStore(Protocol):
    """A store of artifacts, safe for use by many processes and threads at once.

    Raises:
        ArtifactsUnavailableError: from every method. The artifact to be written then does not exist, or (if only the
            last step failed) exists completely; never in part.
        ValueError: from every method with a name, if it is invalid: a programming error, since names are not user
        input.
    """

    def ready(self) -> None:
        """Check, cheaply, that the store can be reached."""
        ...

    def put(self, name: str, data: bytes) -> None:
        """Upload `data` as `name`; return when it would survive a power failure. Replaces an existing artifact."""
        ...

    def staged(self, name: str, retrying: Retrying = once) -> AbstractContextManager[Path]:
        """A private path on the local disk, with the suffix of `name`, for the block to write a file to.

        The file is uploaded as `put` does when the block succeeds, and removed when it raises. Its exceptions propagate
        unchanged, except for an `OSError` because the disk is full or failing. `retrying` calls what needs the
        store: the preparation before the block is entered, and the upload.
        """
        ...

    def open(self, name: str) -> BinaryIO:
        """The artifact's bytes, seekable. Once open, they can be read to the end even if `name` is deleted; after a
        `seek`, a remote store may raise instead. Reading raises the same errors.

        Raises:
            MissingArtifactError: there is none.
        """
        ...

    def size(self, name: str) -> int:
        """The artifact's length in bytes.

        Raises:
            MissingArtifactError: there is none.
        """
        ...

    def link(self, name: str, seconds: float) -> str | None:
        """A URL at which anybody can read the artifact for so many seconds; `None` if this store has no URLs.

        Does not check whether there is an artifact of that name.
        """
        ...

    def delete(self, name: str) -> None:
        """Delete the artifact, if there is one."""
        ...

    def names(self, folder: str = "") -> Iterator[tuple[str, float]]:
        """Every artifact beneath `folder` (`""`: every one), in any order, and when it was written (seconds since the
        epoch, by the store's clock). Artifacts created or deleted meanwhile may or may not be included.
        """
        ...

    def sweep_staging(self, older_than: float) -> int:
        """Delete files of unfinished writers that were last written more than `older_than` seconds ago.

        Choose more than an attempt may take, since a slow writer would lose its work.

        Returns:
            The number of deleted files.
        """
        ...


def is_name(text: str) -> bool:
    """Whether `text` is a valid name of an artifact or a folder of them; no valid name leads out of a store."""
    return _NAME.fullmatch(text) is not None


def checked(name: str) -> str:
    """`name`, if it is valid.

    Raises:
        ValueError: it is not.
    """
    if not is_name(name):
        raise ValueError(f"not an artifact's name: {name!r}")
    return name
