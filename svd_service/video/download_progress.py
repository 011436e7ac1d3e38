"""The progress of a model's download from the hub: bytes on disk against the hub's list of files."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import httpx2
from huggingface_hub import constants, hf_api
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.hf_api import RepoFile

logger = logging.getLogger(__name__)

#: Seconds before the first report (a cached model is loaded sooner), and between two.
FIRST: Final = 3.0
INTERVAL: Final = 10.0
GB: Final = 1e9

#: Called with each report, such as `1.2 of 4.5 GB (26 %), 35 MB/s, about 95 s left`, and with `""` at the end.
Report = Callable[[str], None]


@contextlib.contextmanager
def progress_reported(
    source: str, revision: str | None, variant: str | None, report: Report | None = None
) -> Iterator[None]:
    """Report the progress of a hub model's download while the block runs: in the log, and to `report`.

    Args:
        source: the model's id on the hub.
        revision: its branch, tag or commit; `None`: `main`.
        variant: the variant of its weights, which is part of their file names (`fp16`); `None`: those without one.
        report: gets each report.
    """
    ended = threading.Event()
    reporting = threading.Lock()  # no report comes after the end

    def report_unless_ended(progress: str) -> None:
        with reporting:
            if ended.is_set():
                return
            logger.info("downloading %s: %s", source, progress)
            if report is not None:
                report(progress)

    # A daemon that is not joined: it may be waiting for an unresponsive hub.
    arguments = (source, revision, variant, ended, report_unless_ended)
    threading.Thread(target=_report, args=arguments, daemon=True).start()
    try:
        yield
    finally:
        with reporting:
            ended.set()
            if report is not None:
                report("")


def _report(source: str, revision: str | None, variant: str | None, ended: threading.Event, report: Report) -> None:
    began, before = time.monotonic(), on_disk(source)
    if ended.wait(FIRST):
        return
    total = _size(source, revision, variant)
    while not ended.is_set():
        now = on_disk(source)
        speed = (now - before) / (time.monotonic() - began)
        if now:
            report(described(now, total, speed))
        ended.wait(INTERVAL)


def on_disk(source: str) -> int:
    """Bytes of a hub model in the cache, including unfinished files."""
    blobs = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=source, repo_type="model") / "blobs"
    total = 0
    for path in blobs.glob("*"):
        with contextlib.suppress(FileNotFoundError):  # renamed in the meantime
            total += path.stat().st_size
    return total


def described(done: int, total: int, speed: float) -> str:
    """`1.2 of 4.5 GB (26 %), 35 MB/s, about 95 s left`; without a known total (0) the bytes and the speed alone."""
    rate = f"{speed / 1e6:.0f} MB/s"
    if not total:
        return f"{done / GB:.1f} GB, {rate}"
    done = min(done, total)
    left = f", about {(total - done) / speed:.0f} s left" if speed > 0 else ""
    return f"{done / GB:.1f} of {total / GB:.1f} GB ({100 * done // total} %), {rate}{left}"


def _size(source: str, revision: str | None, variant: str | None) -> int:
    """Bytes of the weights that are downloaded; 0 if the hub does not list them."""
    try:
        files = hf_api.api.list_repo_tree(source, recursive=True, revision=revision)
        return sum(file.size for file in files if isinstance(file, RepoFile) and _wanted(file.path, variant))
    except (HfHubHTTPError, httpx2.TransportError):
        return 0


def _wanted(path: str, variant: str | None) -> bool:
    _, _, name = path.partition("/")
    # The top folder of a repository has the same weights in one file, which diffusers does not use.
    if not name.endswith(".safetensors"):
        return False
    return f".{variant}." in name if variant else name.count(".") == 1
