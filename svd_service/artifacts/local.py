"""Artifacts as files of one folder, which several machines may share if it is one file system.

A file is written in the hidden folder `.staging`, flushed to the disk (fsync), and only then renamed, which POSIX does
atomically. A writer that dies leaves only a file in `.staging`. Modes are left to the umask, so that processes of one
group can share a folder.
"""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_ISREG
from typing import BinaryIO, Final

from svd_service.artifacts.base import (
    ArtifactsUnavailableError,
    MissingArtifactError,
    Retrying,
    checked,
    once,
)
from svd_service.artifacts.staging import ATTEMPTS, DISK_TROUBLE, Staging, files, make_folder, sync

_MISSING: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR})


class LocalArtifacts:
    """An `ArtifactStore` in the folder `root`, which is created on first use."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._staging = Staging(root / ".staging")

    def ready(self) -> None:
        """See `ArtifactStore`."""
        with _translated():
            self._staging.prepare()

    def put(self, name: str, data: bytes) -> None:
        """See `ArtifactStore`."""
        with self.staged(name) as path, _translated(), path.open("xb") as file:
            file.write(data)

    @contextmanager
    def staged(self, name: str, retrying: Retrying = once) -> Iterator[Path]:
        """See `ArtifactStore`."""
        target = self._path(name)
        retrying(self.ready)
        with self._staging.file(target.suffix) as staged:
            with _translated(DISK_TROUBLE):
                yield staged
            retrying(lambda: self._commit(staged, target))

    def _commit(self, staged: Path, target: Path) -> None:
        with _translated():
            sync(staged)
            _in_folder(target.parent, lambda: staged.replace(target))

    def open(self, name: str) -> BinaryIO:
        """See `ArtifactStore`."""
        with _translated(missing=name):
            return self._path(name).open("rb")

    def size(self, name: str) -> int:
        """See `ArtifactStore`."""
        with _translated(missing=name):
            status = self._path(name).stat()
        if not S_ISREG(status.st_mode):
            raise MissingArtifactError(f"there is no artifact {name}")
        return status.st_size

    def delete(self, name: str) -> None:
        """See `ArtifactStore`. Also deletes folders that become empty."""
        path = self._path(name)
        with suppress(MissingArtifactError), _translated(missing=name):
            path.unlink()
        # `rmdir` deletes only empty folders, so a file that another process just created is safe.
        for folder in path.relative_to(self._root).parents[:-1]:
            with suppress(OSError):
                (self._root / folder).rmdir()

    def names(self, folder: str = "") -> Iterator[tuple[str, float]]:
        """See `ArtifactStore`."""
        start = self._path(folder.removesuffix("/")) if folder else self._root
        with _translated():
            for path, status in files(start):
                yield path.relative_to(self._root).as_posix(), status.st_mtime

    def sweep_staging(self, older_than: float) -> int:
        """See `ArtifactStore`."""
        with _translated():
            return self._staging.sweep(older_than)

    def link(self, name: str, seconds: float) -> None:
        """See `ArtifactStore`: files have no URL."""

    def _path(self, name: str) -> Path:
        return self._root / checked(name)


@contextmanager
def _translated(trouble: frozenset[int] | None = None, missing: str | None = None) -> Iterator[None]:
    """Translate an `OSError` (only those of `trouble`, if given) into the contract's errors."""
    try:
        yield
    except OSError as error:
        if missing is not None and error.errno in _MISSING:
            raise MissingArtifactError(f"there is no artifact {missing}") from None
        if trouble is not None and error.errno not in trouble:
            raise
        raise ArtifactsUnavailableError(f"the artifact store fails: {error.strerror or error}") from error


def _in_folder(folder: Path, act: Callable[[], object]) -> None:
    """Create `folder` if necessary, act, and flush the result to the disk."""
    for left in reversed(range(ATTEMPTS)):
        make_folder(folder)
        try:
            act()
        except FileNotFoundError:
            if not left:
                raise
        else:
            with suppress(FileNotFoundError):  # The new file may have been deleted already.
                sync(folder)
            return
