"""Where pictures and videos live. One contract, kept by every store and checked by one suite of tests.

A name is relative and uses `/`, such as `inputs/<job>.png` or `results/<job>/<token>.mp4`. An artifact is written once,
whole, and is either there with all of its bytes or not at all.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from svd_service.errors import JobError, UnavailableError

# No part begins with a dot: that keeps `..` out, and leaves such names to the stores themselves.
_PART: Final = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}"
_NAME: Final = re.compile(rf"{_PART}(/{_PART}){{0,7}}")


class ArtifactsUnavailableError(UnavailableError):
    """The store cannot be written or read right now: it is full, away, or closed to us."""

    code = "artifacts_unavailable"


class MissingArtifactError(JobError):
    """There is no artifact of that name (any more)."""

    code = "missing_artifact"


#: Calls an operation, and decides whether and how long to retry it while the store is away (`svd_service/retry.py`).
Retrying = Callable[[Callable[[], None]], None]


def once(operation: Callable[[], None]) -> None:
    """The `Retrying` that never retries."""
    operation()


class ArtifactStore(Protocol):
    """A store of artifacts. All of it may be used by many processes and threads at once.

    Raises:
        ArtifactsUnavailableError: from everything here. What was to be written is then not there, or (should only the
            last step have failed) there whole; never in part.
        ValueError: from everything that takes a name, if that is not one; a bug of ours, since we make the names.
    """

    def ready(self) -> None:
        """Make sure, cheaply, that the store can be reached."""
        ...

    def put(self, name: str, data: bytes) -> None:
        """Upload `data` as `name`; returns when it would survive a loss of power. Replaces an existing artifact."""
        ...

    def staged(self, name: str, retrying: Retrying = once) -> AbstractContextManager[Path]:
        """A private path on the local disk, ending like `name`, where the block is to write a file.

        The file is uploaded as `put` does when the block ends well, and removed when it raises. Whatever it raises
        goes on unchanged, except for an `OSError` because the disk is full or failing. `retrying` calls what needs the
        store: the preparation before the block is entered, and the upload.
        """
        ...

    def open(self, name: str) -> BinaryIO:
        """The artifact's bytes, seekable. Once open, they can be read to the end even if `name` is deleted; after a
        `seek`, a store elsewhere may raise instead. Reading raises what is raised here.

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
        """A URL at which whoever has it can read the artifact for so long; `None` if this store has no such thing.

        Whether there is an artifact of that name is not looked at.
        """
        ...

    def delete(self, name: str) -> None:
        """Removes the artifact, if there is one."""
        ...

    def names(self, folder: str = "") -> Iterator[tuple[str, float]]:
        """Every artifact beneath `folder` (`""`: every one), in any order, and when it was written (seconds since the
        epoch, by the store's clock). What appears or goes meanwhile may or may not be told.
        """
        ...

    def sweep_staging(self, older_than: float) -> int:
        """Removes what unfinished writers left behind and was last written to more than `older_than` seconds ago.

        Choose more than an attempt may take, since a writer that is alive but slow would lose its work.

        Returns:
            How many leftovers were removed.
        """
        ...


def is_name(text: str) -> bool:
    """Whether an artifact, or a folder of them, may be called so; nothing that leads out of a store is."""
    return _NAME.fullmatch(text) is not None


def checked(name: str) -> str:
    """`name`, if it is one.

    Raises:
        ValueError: it is not.
    """
    if not is_name(name):
        raise ValueError(f"not an artifact's name: {name!r}")
    return name
