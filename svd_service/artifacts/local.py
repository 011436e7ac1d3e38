"""Artifacts as files of one folder, which several machines may share as long as it is one file system.

A file is written in the hidden folder `.staging`, brought to the disk's surface (fsync), and only then renamed to its
place, which POSIX does atomically. A writer that dies leaves no more than a file in `.staging`. Modes are left to the
umask, so that processes of one group can share a folder.
"""

import errno
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_ISREG
from typing import BinaryIO, Final

from svd_service.artifacts import ArtifactsUnavailableError, MissingArtifactError, checked, is_name

_STAGING: Final = ".staging"

#: What tells that the disk is full or failing, whoever was writing to it.
_DISK_TROUBLE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.ESTALE})

_MISSING: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EISDIR})

#: Between the making of a folder and the use of it, `delete` may prune it as empty. As often as that the maker repeats.
_TRIES: Final = 100


class LocalArtifacts:
    """An `ArtifactStore` in the folder `root`, which is made when it is first written to."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._staging = root / _STAGING

    def put(self, name: str, data: bytes) -> None:
        """As the contract says."""
        with self.staged(name) as path, _translated(), path.open("xb") as file:
            file.write(data)

    @contextmanager
    def staged(self, name: str) -> Iterator[Path]:
        """As the contract says."""
        target = self._path(name)
        staged = self._staging / f"{uuid.uuid4().hex}{target.suffix}"
        with _translated():
            _make_folder(self._staging)
        try:
            with _translated(_DISK_TROUBLE):
                yield staged
            with _translated():
                _sync(staged)
                _in_folder(target.parent, lambda: staged.replace(target))
        finally:
            with suppress(OSError):
                staged.unlink(missing_ok=True)

    def open(self, name: str) -> BinaryIO:
        """As the contract says."""
        with _translated(missing=name):
            return self._path(name).open("rb")

    def size(self, name: str) -> int:
        """As the contract says."""
        with _translated(missing=name):
            status = self._path(name).stat()
        if not S_ISREG(status.st_mode):
            raise MissingArtifactError(f"there is no artifact {name}")
        return status.st_size

    def delete(self, name: str) -> None:
        """As the contract says. Folders that are left empty go too."""
        path = self._path(name)
        with suppress(MissingArtifactError), _translated(missing=name):
            path.unlink()
        # `rmdir` takes only what is empty, so that a file which another just put there is safe.
        for folder in path.relative_to(self._root).parents[:-1]:
            with suppress(OSError):
                (self._root / folder).rmdir()

    def names(self, folder: str = "") -> Iterator[tuple[str, float]]:
        """As the contract says."""
        start = self._path(folder.removesuffix("/")) if folder else self._root
        with _translated():
            for path, status in _files(start):
                yield path.relative_to(self._root).as_posix(), status.st_mtime

    def sweep_staging(self, older_than: float) -> int:
        """As the contract says."""
        limit, removed = time.time() - older_than, 0
        with _translated():
            for path, status in _files(self._staging):
                if status.st_mtime < limit:
                    path.unlink(missing_ok=True)
                    removed += 1
        return removed

    def _path(self, name: str) -> Path:
        return self._root / checked(name)


@contextmanager
def _translated(trouble: frozenset[int] | None = None, missing: str | None = None) -> Iterator[None]:
    """Turns an `OSError` (if `trouble` is given, one of those alone) into one of the contract's errors."""
    try:
        yield
    except OSError as error:
        if missing is not None and error.errno in _MISSING:
            raise MissingArtifactError(f"there is no artifact {missing}") from None
        if trouble is not None and error.errno not in trouble:
            raise
        raise ArtifactsUnavailableError(f"the store of pictures and videos fails: {error.strerror or error}") from error


def _files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Every file beneath `folder` that is still there when it is its turn, and may be ours (as `lost+found` is not)."""
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        for entry in entries:
            if not is_name(entry.name):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _files(Path(entry.path))
            else:
                with suppress(FileNotFoundError):
                    yield Path(entry.path), entry.stat(follow_symlinks=False)


def _in_folder(folder: Path, act: Callable[[], object]) -> None:
    """Acts once `folder` is there, and makes what was done there survive a loss of power."""
    for left in reversed(range(_TRIES)):
        _make_folder(folder)
        try:
            act()
        except FileNotFoundError:
            if not left:
                raise
        else:
            with suppress(FileNotFoundError):  # What was put there may have been deleted again.
                _sync(folder)
            return


def _make_folder(folder: Path) -> None:
    for left in reversed(range(_TRIES)):
        try:
            missing = [path for path in (folder, *folder.parents) if not path.exists()]
            for path in reversed(missing):
                path.mkdir(exist_ok=True)
                _sync(path.parent)
            return
        except (FileNotFoundError, FileExistsError):
            # Somebody deletes the folder at the same time: it went before a part of it was made, or after it was there
            # already and before it could be seen to be a folder.
            if not left:
                raise


def _sync(path: Path) -> None:
    """Has the disk hold all of a file, or all names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
