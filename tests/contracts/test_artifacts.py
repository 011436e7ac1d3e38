"""The contract of every artifact store (`svd_service.artifacts.base.ArtifactStore`), checked on real stores.

To test another store, add a line to `STORES` and one to `UNREACHABLE`. S3 is a real server that the tests start.
"""

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from svd_service.artifacts.base import ArtifactStore, ArtifactsUnavailableError, MissingArtifactError
from svd_service.artifacts.choice import store_of
from svd_service.artifacts.local import LocalArtifacts
from svd_service.config import Settings
from svd_service.errors import UnavailableError
from tools.harness.local import free_port

#: Functions that make an empty store from the test's fixtures and its folder.
STORES: dict[str, Callable[[pytest.FixtureRequest, Path], ArtifactStore]] = {
    "local": lambda request, folder: LocalArtifacts(folder / "data"),
    "s3": lambda request, folder: store_of(Settings.from_mapping(in_bucket(request, folder))),
}

#: Likewise, a store that cannot be written.
UNREACHABLE: dict[str, Callable[[pytest.FixtureRequest, Path], ArtifactStore]] = {
    "local": lambda request, folder: LocalArtifacts(a_file(folder) / "data"),
    "s3-down": lambda request, folder: store_of(
        Settings.from_mapping(in_bucket(request, folder) | {"SVD_S3_ENDPOINT": f"http://127.0.0.1:{free_port()}"})
    ),
    "s3-without-bucket": lambda request, folder: store_of(
        Settings.from_mapping(in_bucket(request, folder) | {"SVD_ARTIFACTS": "s3://no-such-bucket"})
    ),
}

NAME = "results/3f2b/1.mp4"


def a_file(folder: Path) -> Path:
    path = folder / "file"
    path.touch()
    return path


def in_bucket(request: pytest.FixtureRequest, folder: Path) -> dict[str, str]:
    return {**request.getfixturevalue("s3_variables"), "SVD_DATA_DIR": str(folder / "data")}


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    return STORES[request.param](request, tmp_path)


@pytest.fixture(params=UNREACHABLE)
def unreachable(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    return UNREACHABLE[request.param](request, tmp_path)


@pytest.fixture
def rounds(store: ArtifactStore) -> int:
    """Number of repetitions in a test of concurrency; fewer on a server, where each request takes milliseconds."""
    return 100 if isinstance(store, LocalArtifacts) else 10


def content(store: ArtifactStore, name: str = NAME) -> bytes:
    with store.open(name) as file:
        return file.read()


def names(store: ArtifactStore, folder: str = "") -> set[str]:
    return {name for name, _ in store.names(folder)}


# One artifact


@pytest.mark.parametrize("data", [b"", b"video", bytes(range(256)) * 4096])
def test_put_content_can_be_read(store: ArtifactStore, data: bytes) -> None:
    store.put(NAME, data)
    assert content(store) == data
    assert store.size(NAME) == len(data)


def test_an_open_artifact_is_seekable(store: ArtifactStore) -> None:
    store.put(NAME, b"0123456789")
    with store.open(NAME) as file:
        assert file.seekable()
        assert (file.seek(-3, 2), file.read()) == (7, b"789")
        assert (file.seek(2), file.read(3), file.tell()) == (2, b"234", 5)


def test_a_missing_artifact_raises_missing_artifact_error(store: ArtifactStore) -> None:
    store.put(NAME, b"video")
    for name in ("results/3f2b/2.mp4", "results/3f2b", "results", "inputs/3f2b.png"):
        with pytest.raises(MissingArtifactError):
            store.open(name)
        with pytest.raises(MissingArtifactError):
            store.size(name)


def test_a_second_put_replaces_the_first(store: ArtifactStore) -> None:
    store.put(NAME, b"a long first video")
    store.put(NAME, b"second")
    assert content(store) == b"second"
    assert names(store) == {NAME}


def test_an_open_artifact_stays_readable_after_replacement_and_deletion(store: ArtifactStore) -> None:
    store.put(NAME, b"first")
    with store.open(NAME) as file:
        store.put(NAME, b"second")
        store.delete(NAME)
        assert file.read() == b"first"


def test_deleting_removes_the_artifact_and_can_be_repeated(store: ArtifactStore) -> None:
    store.put(NAME, b"video")
    for _ in range(3):
        store.delete(NAME)
        assert names(store) == set()
        with pytest.raises(MissingArtifactError):
            store.size(NAME)


def test_deleting_an_unknown_name_does_nothing(store: ArtifactStore) -> None:
    store.put(NAME, b"video")
    for name in ("results/3f2b", "results/3f2b/2.mp4", "inputs/3f2b.png", NAME + "/1"):
        store.delete(name)
    assert content(store) == b"video"


def test_a_deletion_keeps_other_artifacts_of_the_folder(store: ArtifactStore) -> None:
    store.put("results/3f2b/1.mp4", b"stale")
    store.put("results/3f2b/2.mp4", b"committed")
    store.delete("results/3f2b/1.mp4")
    assert names(store) == {"results/3f2b/2.mp4"}


@pytest.mark.parametrize(
    "name",
    [
        *("", "/", ".", "..", "../x", "a/../../x", "a/..", "a/./b", ".staging/x", "a/.b", "/etc/passwd", "a//b", "a/"),
        *("a\\..\\b", "a\0b", "a\n", "a b", "é", "C:x", "a" * 201, "/".join("abcdefghi")),
    ],
)
def test_a_name_that_could_leave_the_store_is_rejected(store: ArtifactStore, name: str) -> None:
    uses: list[Callable[[], object]] = [
        lambda: store.put(name, b""),
        lambda: store.staged(name).__enter__(),
        lambda: store.open(name),
        lambda: store.size(name),
        lambda: store.delete(name),
    ]
    for use in uses:
        with pytest.raises(ValueError, match="name"):
            use()
    assert names(store) == set()


@pytest.mark.parametrize("folder", ["..", "/", "results/../..", ".staging"])
def test_a_folder_that_could_leave_the_store_is_rejected(store: ArtifactStore, folder: str) -> None:
    with pytest.raises(ValueError, match="name"):
        names(store, folder)


# Staging


def test_a_staged_file_is_uploaded_when_the_block_ends(store: ArtifactStore) -> None:
    with store.staged(NAME) as path:
        assert path.suffix == ".mp4"
        assert path.parent.is_dir()
        assert not path.exists()
        path.write_bytes(b"half")
        assert names(store) == set()
        with path.open("ab") as file:
            file.write(b" and whole")
    assert content(store) == b"half and whole"
    assert not path.exists()


class LostClaimError(Exception):
    pass


def test_a_block_that_raises_uploads_nothing_and_leaves_no_file(store: ArtifactStore) -> None:
    store.put(NAME, b"unchanged")
    paths: list[Path] = []

    def write_half(error: BaseException) -> None:
        with store.staged(NAME) as path:
            paths.append(path)
            path.write_bytes(b"half")
            raise error

    for error in (
        LostClaimError(),
        KeyboardInterrupt(),
        ConnectionResetError("connection lost"),
        FileNotFoundError("?"),
    ):
        with pytest.raises(type(error)) as caught:
            write_half(error)
        assert caught.value is error
        assert not paths[-1].exists()
        assert content(store) == b"unchanged"


def test_a_block_that_writes_nothing_raises_and_uploads_nothing(store: ArtifactStore) -> None:
    with pytest.raises(ArtifactsUnavailableError), store.staged(NAME):
        pass
    assert names(store) == set()


def test_two_blocks_may_stage_the_same_name(store: ArtifactStore) -> None:
    with store.staged(NAME) as first, store.staged(NAME) as second:
        assert first != second
        first.write_bytes(b"first")
        second.write_bytes(b"second")
    assert content(store) == b"first"


def test_sweeping_removes_only_old_staged_files(store: ArtifactStore) -> None:
    store.put(NAME, b"video")
    with store.staged("results/3f2b/2.mp4") as path:
        path.write_bytes(b"half")
        assert store.sweep_staging(older_than=60) == 0
        assert path.exists()
        time.sleep(0.05)
        assert store.sweep_staging(older_than=0) == 1
        assert not path.exists()
        path.write_bytes(b"anew")
    assert names(store) == {NAME, "results/3f2b/2.mp4"}


def test_sweeping_a_new_store_removes_nothing(store: ArtifactStore) -> None:
    assert store.sweep_staging(older_than=0) == 0


# Names


def test_names_are_listed_by_folder(store: ArtifactStore) -> None:
    every = {"inputs/1.png", "inputs/2.png", "results/1/1.mp4", "results/1/2.mp4", "results10/x", "results.txt"}
    for name in every:
        store.put(name, b"")
    assert names(store) == every
    assert names(store, "inputs") == names(store, "inputs/") == {"inputs/1.png", "inputs/2.png"}
    assert names(store, "results") == {"results/1/1.mp4", "results/1/2.mp4"}
    assert names(store, "results/1") == {"results/1/1.mp4", "results/1/2.mp4"}
    assert names(store, "inputs/1.png") == names(store, "nothing") == set()


def test_an_empty_store_has_no_names(store: ArtifactStore) -> None:
    assert names(store) == set()


def test_names_come_with_the_time_of_writing(store: ArtifactStore) -> None:
    store.put(NAME, b"video")
    ((_, written),) = store.names()
    assert abs(written - time.time()) < 60


def test_listing_names_tolerates_concurrent_deletions(store: ArtifactStore) -> None:
    every = [f"results/{number}/1.mp4" for number in range(50)]
    for name in every:
        store.put(name, b"")
    found = store.names()
    first, _ = next(found)
    for name in every:
        store.delete(name)
    assert {first, *(name for name, _ in found)} <= set(every)
    assert names(store) == set()


# Concurrency


def test_a_reader_never_sees_a_partial_write(store: ArtifactStore, rounds: int) -> None:
    length, done = 300_000, threading.Event()

    def write(byte: int) -> None:
        for _ in range(rounds // 5):
            store.put(NAME, bytes([byte]) * length)

    def read() -> int:
        seen = 0
        while not done.is_set():
            data = content(store)
            assert data == data[:1] * length
            seen += 1
        return seen

    store.put(NAME, b"0" * length)
    with ThreadPoolExecutor() as pool:
        reader = pool.submit(read)
        try:
            for writer in [pool.submit(write, byte) for byte in range(4)]:
                writer.result()
        finally:
            done.set()
        assert reader.result() > 0


def test_concurrent_puts_and_deletes_in_one_folder_do_not_interfere(store: ArtifactStore, rounds: int) -> None:
    def work(number: int) -> None:
        name = f"results/shared/{number}.mp4"
        for _ in range(rounds):
            store.put(name, b"video")
            assert store.size(name) == 5
            store.delete(name)
        store.put(name, b"last")

    with ThreadPoolExecutor() as pool:
        for worker in [pool.submit(work, number) for number in range(4)]:
            worker.result()
    assert names(store) == {f"results/shared/{number}.mp4" for number in range(4)}


def test_a_store_reflects_every_operation_immediately(store: ArtifactStore, rounds: int) -> None:
    chance, expected = random.Random(3), dict[str, bytes]()
    every = [f"results/{job}/{token}.mp4" for job in range(3) for token in range(3)]
    for _ in range(3 * rounds // 2):
        name, data = chance.choice(every), chance.randbytes(chance.randrange(50))
        match chance.randrange(3):
            case 0:
                store.put(name, data)
                expected[name] = data
            case 1:
                with store.staged(name) as path:
                    path.write_bytes(data)
                expected[name] = data
            case 2:
                store.delete(name)
                expected.pop(name, None)
        assert {name: content(store, name) for name in names(store)} == expected


# Failures


def test_writing_to_an_unreachable_store_raises_artifacts_unavailable_error(unreachable: ArtifactStore) -> None:
    with pytest.raises(ArtifactsUnavailableError) as caught:
        unreachable.put(NAME, b"video")
    assert isinstance(caught.value, UnavailableError)
    with pytest.raises(ArtifactsUnavailableError), unreachable.staged(NAME):
        pytest.fail("the block was entered")


def test_preparing_an_upload_is_retried_by_the_callers_function(unreachable: ArtifactStore) -> None:
    failures: list[ArtifactsUnavailableError] = []

    def three_times(operation: Callable[[], None]) -> None:
        for _ in range(3):
            with pytest.raises(ArtifactsUnavailableError) as caught:
                operation()
            failures.append(caught.value)
        raise LostClaimError

    with pytest.raises(LostClaimError), unreachable.staged(NAME, three_times):
        pytest.fail("the block was entered")
    assert len(failures) == 3


def test_ready_returns_and_writes_nothing_if_the_store_is_writable(store: ArtifactStore) -> None:
    store.ready()
    assert names(store) == set()


def test_ready_raises_if_the_store_is_unreachable(unreachable: ArtifactStore) -> None:
    with pytest.raises(ArtifactsUnavailableError):
        unreachable.ready()
