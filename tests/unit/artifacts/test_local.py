"""What only the local store has: durability, full disks, modes, and files of a killed writer."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from svd_service.artifacts.base import ArtifactsUnavailableError, MissingArtifactError
from svd_service.artifacts.local import LocalArtifacts

NAME = "results/3f2b/1.mp4"


@pytest.fixture
def store(tmp_path: Path) -> LocalArtifacts:
    return LocalArtifacts(tmp_path)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 256 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("only root may mount a file system, and not everywhere")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_put_syncs_the_bytes_before_the_name_and_the_name_before_it_returns(
    store: LocalArtifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    sync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink().relative_to(tmp_path)
        done.append("sync staged" if path.parent == Path(".staging") else f"sync {path}")
        sync(descriptor)

    def replaced(source: Path, target: Path) -> None:
        done.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    store.put(NAME, b"video")
    # The folders were new, so their own names have to be synced too.
    assert done == ["sync .", "sync staged", "sync .", "sync results", "rename", "sync results/3f2b"]


def test_a_full_disk_stores_nothing_and_leaves_nothing(tiny_disk: Path) -> None:
    store = LocalArtifacts(tiny_disk)
    store.put("inputs/small.png", b"small")
    with pytest.raises(ArtifactsUnavailableError, match="No space left"):
        store.put(NAME, bytes(1_000_000))
    with pytest.raises(ArtifactsUnavailableError, match="No space left"), store.staged(NAME) as path:
        path.write_bytes(bytes(1_000_000))
    assert files(tiny_disk) == ["inputs/small.png"]
    store.put(NAME, bytes(100_000))
    assert store.size(NAME) == 100_000


LIMITED = """
import resource, sys
from pathlib import Path
from svd_service.artifacts.base import ArtifactsUnavailableError
from svd_service.artifacts.local import LocalArtifacts

resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
store = LocalArtifacts(Path(sys.argv[1]))

def put():
    store.put("a/1.mp4", bytes(20_000))

def stage():
    with store.staged("a/1.mp4") as path:
        path.write_bytes(bytes(20_000))

for write in (put, stage):
    try:
        write()
    except ArtifactsUnavailableError as error:
        print(error)
"""


def test_a_file_size_limit_stores_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    run = subprocess.run([sys.executable, "-c", LIMITED, tmp_path], capture_output=True, text=True, check=True)
    assert run.stdout.count("File too large") == 2
    assert files(tmp_path) == []


KILLED = """
import sys, time
from pathlib import Path
from svd_service.artifacts.local import LocalArtifacts

with LocalArtifacts(Path(sys.argv[1])).staged("results/3f2b/1.mp4") as path:
    path.write_bytes(b"half")
    print("ready", flush=True)
    time.sleep(60)
"""


def test_the_sweep_removes_every_file_of_a_killed_writer(store: LocalArtifacts, tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", KILLED, tmp_path], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
        writer.send_signal(signal.SIGKILL)
    assert list(store.names()) == []
    with pytest.raises(MissingArtifactError):
        store.open(NAME)
    (leftover,) = (tmp_path / ".staging").iterdir()
    assert store.sweep_staging(older_than=3600) == 0
    long_ago = time.time() - 7200
    os.utime(leftover, (long_ago, long_ago))
    assert store.sweep_staging(older_than=3600) == 1
    assert files(tmp_path) == []


@pytest.mark.parametrize(("umask", "file_mode", "folder_mode"), [(0o022, 0o644, 0o755), (0o007, 0o660, 0o770)])
def test_modes_follow_the_umask(
    store: LocalArtifacts, tmp_path: Path, umask: int, file_mode: int, folder_mode: int
) -> None:
    before = os.umask(umask)
    try:
        store.put(NAME, b"video")
    finally:
        os.umask(before)
    assert (tmp_path / NAME).stat().st_mode & 0o777 == file_mode
    for folder in ("results/3f2b", "results", ".staging"):
        assert (tmp_path / folder).stat().st_mode & 0o777 == folder_mode


def test_folders_that_become_empty_are_removed_but_never_the_root(store: LocalArtifacts, tmp_path: Path) -> None:
    store.put(NAME, b"video")
    store.put("results/other/1.mp4", b"video")
    store.delete(NAME)
    assert not (tmp_path / "results" / "3f2b").exists()
    store.delete("results/other/1.mp4")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".staging"]


def test_foreign_files_in_the_folder_are_not_listed(store: LocalArtifacts, tmp_path: Path) -> None:
    store.put(NAME, b"video")
    for foreign in (".hidden/file", "lost+found/file", "results/.DS_Store", "results/a b"):
        (tmp_path / foreign).parent.mkdir(exist_ok=True)
        (tmp_path / foreign).touch()
    assert [name for name, _ in store.names()] == [NAME]


def test_missing_parents_of_the_root_are_created(tmp_path: Path) -> None:
    LocalArtifacts(tmp_path / "a" / "b" / "c").put(NAME, b"video")
    assert (tmp_path / "a" / "b" / "c" / NAME).read_bytes() == b"video"


@pytest.mark.parametrize(
    "use",
    [
        lambda store: store.open(NAME),
        lambda store: store.size(NAME),
        lambda store: store.delete(NAME),
        lambda store: list(store.names()),
        lambda store: store.sweep_staging(0),
    ],
    ids=["open", "size", "delete", "names", "sweep"],
)
def test_an_io_error_is_reported_as_such(
    store: LocalArtifacts, monkeypatch: pytest.MonkeyPatch, use: Callable[[LocalArtifacts], object]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    store.put(NAME, b"video")
    for path in ("pathlib.Path.open", "pathlib.Path.stat", "pathlib.Path.unlink", "os.scandir"):
        monkeypatch.setattr(path, fail)
    with pytest.raises(ArtifactsUnavailableError, match="Input/output error"):
        use(store)
