"""Where a file lies while it is written: a hidden folder of the local disk, whatever store it will go to."""

import errno
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from svd_service.artifacts.base import is_name

#: What tells that the disk is full or failing, whoever was writing to it.
DISK_TROUBLE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.ESTALE})

#: Between the making of a folder and the use of it, somebody may prune it as empty. As often as that it is made again.
TRIES: Final = 100


class Staging:
    """The files that unfinished writers have in `folder`, which is made when it is first written to.

    Raises:
        OSError: from everything here.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def prepare(self) -> None:
        """Make the folder, and see that it may be written to."""
        make_folder(self.folder)
        if not os.access(self.folder, os.W_OK | os.X_OK):
            raise PermissionError(f"{self.folder} cannot be written to")

    @contextmanager
    def file(self, suffix: str) -> Iterator[Path]:
        """A path for a new file with that ending. What is there when the block has ended, however it ends, goes."""
        path = self.folder / f"{uuid.uuid4().hex}{suffix}"
        try:
            yield path
        finally:
            with suppress(OSError):
                path.unlink(missing_ok=True)

    def sweep(self, older_than: float) -> int:
        """Remove what was last written to more than `older_than` seconds ago; returns how many files that was."""
        limit, removed = time.time() - older_than, 0
        for path, status in files(self.folder):
            if status.st_mtime < limit:
                path.unlink(missing_ok=True)
                removed += 1
        return removed


def files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Every file beneath `folder` that is still there when it is its turn, and may be ours (as `lost+found` is not)."""
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        for entry in entries:
            if not is_name(entry.name):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from files(Path(entry.path))
            else:
                with suppress(FileNotFoundError):
                    yield Path(entry.path), entry.stat(follow_symlinks=False)


def make_folder(folder: Path) -> None:
    """Make `folder`, with its parents, so that it survives a loss of power."""
    for left in reversed(range(TRIES)):
        try:
            missing = [path for path in (folder, *folder.parents) if not path.exists()]
            for path in reversed(missing):
                path.mkdir(exist_ok=True)
                sync(path.parent)
            return
        except (FileNotFoundError, FileExistsError):
            # Somebody deletes the folder at the same time: it went before a part of it was made, or after it was there
            # already and before it could be seen to be a folder.
            if not left:
                raise


def sync(path: Path) -> None:
    """Has the disk hold all of a file, or all names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
