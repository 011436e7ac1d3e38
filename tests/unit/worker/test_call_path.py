import itertools
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from svd_service.jobs.job import Job
from svd_service.worker import attempt
from svd_service.worker.process import WorkerContext
from tests.unit.worker import samples

ROOT = Path(__file__).parents[3]
PACKAGE = ROOT / "svd_service"


def chain(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def entered(frame: FrameType) -> str | None:
    """The package that `worker/attempt.py` enters with this call; `None` for any other call."""
    ours, *callers = chain(frame)
    # The test's stand-in is in the place of `video/`. Its progress reports are no step of the path.
    if any(each.f_code is samples.rendering.__code__ for each in callers):
        return None
    if any(each.f_code is attempt.Reporter.__call__.__code__ for each in (ours, *callers)):
        return None
    caller = next((each for each in callers if Path(each.f_code.co_filename).is_relative_to(PACKAGE)), None)
    if caller is None or caller.f_code.co_filename != attempt.__file__:
        return None
    if ours.f_code is samples.rendering.__code__:
        return "video"
    path = Path(ours.f_code.co_filename)
    return path.relative_to(PACKAGE).parts[0] if path.is_relative_to(PACKAGE) else None


@pytest.mark.enable_socket
def test_an_attempt_calls_the_packages_in_the_documented_order(worker_context: WorkerContext, job: Job) -> None:
    rooms: list[str] = []

    def profile(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and (room := entered(frame)) in {"artifacts", "ledger", "video"}:
            rooms.append(str(room))

    sys.setprofile(profile)
    try:
        assert attempt.run_job(job.id, worker_context) == "finished"
    finally:
        sys.setprofile(None)
    drawn = re.findall(r"^ +\d +(\w+)/", (ROOT / "docs" / "architecture" / "3-the-worker.md").read_text(), re.MULTILINE)
    assert [room for room, _ in itertools.groupby(rooms)] == drawn
    assert len(drawn) <= 6
