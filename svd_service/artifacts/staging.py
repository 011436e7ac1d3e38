"""Files that are being written: a hidden folder of the local disk, whatever store they will be uploaded to."""

import errno
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from svd_service.artifacts.base import is_name

#: Error numbers of a full or failing disk.
DISK_TROUBLE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.ESTALE})

#: Number of attempts to create a folder that another process may delete as empty before it is used.
ATTEMPTS: Final = 100


class Staging:
    """The files of unfinished writers in `folder`, which is created on first use.

    Raises:
        OSError: from every method.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def prepare(self) -> None:
        """Create the folder, and check that it can be written."""
        make_folder(self.folder)
        if not os.access(self.folder, os.W_OK | os.X_OK):
            raise PermissionError(f"{self.folder} cannot be written to")

    @contextmanager
    def file(self, suffix: str) -> Iterator[Path]:
        """A path for a new file with that suffix. The file is deleted when the block ends, however it ends."""
        path = self.folder / f"{uuid.uuid4().hex}{suffix}"
        try:
            yield path
        finally:
            with suppress(OSError):
                path.unlink(missing_ok=True)

    def sweep(self, older_than: float) -> int:
        """Delete files last written more than `older_than` seconds ago; return how many."""
        limit, removed = time.time() - older_than, 0
        for path, status in files(self.folder):
            if status.st_mtime < limit:
                path.unlink(missing_ok=True)
                removed += 1
        return removed


def files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Every file below `folder` whose name is valid (as `lost+found` is not) and that still exists when it is
    reached.
    """
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
    """Create `folder` with its parents, so that it survives a power failure."""
    for left in reversed(range(ATTEMPTS)):
        try:
            missing = [path for path in (folder, *folder.parents) if not path.exists()]
            for path in reversed(missing):
                path.mkdir(exist_ok=True)
                sync(path.parent)
            return
        except (FileNotFoundError, FileExistsError):
            # Another process deletes the folder concurrently: before a child was created, or after it existed and
            # before it was recognized as a folder.
            if not left:
                raise


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
