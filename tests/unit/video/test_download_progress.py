import logging
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from svd_service.jobs.model import Model
from svd_service.video import download_progress
from svd_service.video.weights import find
from tests.unit.video.loopback_hub import Hub

HUB_MODEL = Model(name="someone/svd", source="someone/svd")


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download_progress, "FIRST", 0.1)
    monkeypatch.setattr(download_progress, "INTERVAL", 0.1)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == download_progress.__name__]


def test_a_download_is_logged_with_its_size(
    connect: Callable[[Hub], None], tiny_both: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download_progress, "GB", 1.0)
    half = sum(path.stat().st_size for path in tiny_both.glob("*/*.fp16.safetensors"))
    reports: list[str] = []
    with caplog.at_level(logging.INFO), Hub(tiny_both, delay=1).running() as hub:
        connect(hub)
        find(HUB_MODEL, half=True, on_download=reports.append)
    logged = lines(caplog)
    assert logged
    assert [f"downloading someone/svd: {report}" for report in reports[:-1]] == logged
    assert reports[-1] == ""
    assert all(line.startswith("downloading someone/svd: ") and f" of {half}.0 GB (" in line for line in logged)


def test_a_cached_model_causes_no_size_request_and_no_progress_log(
    connect: Callable[[Hub], None], tiny_both: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Hub(tiny_both).running() as hub:
        connect(hub)
        find(HUB_MODEL, half=True)
    monkeypatch.setattr(download_progress, "FIRST", 60.0)
    caplog.clear()
    with caplog.at_level(logging.INFO), Hub(tiny_both).running() as hub:
        connect(hub)
        find(HUB_MODEL, half=True)
        assert not [path for path in hub.requests if "/tree/" in path]
    assert lines(caplog) == []


def test_the_size_is_unknown_where_the_hub_lists_no_files(connect: Callable[[Hub], None], tiny_both: Path) -> None:
    with Hub(tiny_both, 404).running() as hub:
        connect(hub)
        assert download_progress._size("someone/svd", None, "fp16") == 0


@pytest.mark.parametrize(
    ("done", "total", "speed", "words"),
    [
        (1_200_000_000, 4_500_000_000, 35e6, "1.2 of 4.5 GB (26 %), 35 MB/s, about 94 s left"),
        (0, 4_500_000_000, 0.0, "0.0 of 4.5 GB (0 %), 0 MB/s"),
        (5_000_000_000, 4_500_000_000, 1e6, "4.5 of 4.5 GB (100 %), 1 MB/s, about 0 s left"),
        (1_200_000_000, 0, 35e6, "1.2 GB, 35 MB/s"),
    ],
)
def test_a_line_names_bytes_share_speed_and_time_left(done: int, total: int, speed: float, words: str) -> None:
    assert download_progress.described(done, total, speed) == words


@pytest.mark.parametrize(
    ("path", "variant", "wanted"),
    [
        ("unet/model.fp16.safetensors", "fp16", True),
        ("unet/model.safetensors", "fp16", False),
        ("unet/model.safetensors", None, True),
        ("unet/model.fp16.safetensors", None, False),
        ("svd_xt.safetensors", None, False),
        ("unet/config.json", None, False),
    ],
)
def test_only_the_weights_that_are_used_are_counted(path: str, variant: str | None, wanted: bool) -> None:
    assert download_progress._wanted(path, variant) is wanted


def test_its_thread_ends_with_the_download(connect: Callable[[Hub], None], tiny_both: Path) -> None:
    before = set(threading.enumerate())
    with Hub(tiny_both).running() as hub:
        connect(hub)
        with download_progress.progress_reported("someone/svd", None, None):
            (thread,) = (each for each in set(threading.enumerate()) - before if each.daemon and "_report" in each.name)
    thread.join(10)
    assert not thread.is_alive()


def test_no_report_comes_after_the_end(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    begun, ended = threading.Event(), threading.Event()

    def slowly_described(*_: object) -> str:
        begun.set()
        assert ended.wait(30)
        return "late"

    monkeypatch.setattr(download_progress, "on_disk", lambda _: 1)
    monkeypatch.setattr(download_progress, "_size", lambda *_: 1)
    monkeypatch.setattr(download_progress, "described", slowly_described)
    caplog.set_level(logging.INFO)
    before, reports = set(threading.enumerate()), list[str]()
    with download_progress.progress_reported("someone/svd", None, None, reports.append):
        assert begun.wait(30)
    ended.set()
    for thread in set(threading.enumerate()) - before:
        thread.join(30)
    assert (reports, lines(caplog)) == ([""], [])
