"""A caller that submits jobs until each is accepted, cancels some, and polls them until they have ended."""

import io
import random
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx2

from svd_service.bootstrap import UseCases
from svd_service.errors import JobError

IMAGE: Final = Path(__file__).resolve().parents[2] / "scripts" / "sample.jpg"
ENDED: Final = frozenset({"finished", "failed", "cancelled", "expired"})

#: Maximum number of unfinished jobs: enough to keep the workers busy, and so few that submitting takes the whole run.
WINDOW: Final = 8

#: Share of the jobs that the caller cancels some time after they were accepted.
CANCELLED: Final = 0.05


@dataclass
class Sighting:
    """What the caller has observed of one accepted job.

    Attributes:
        results: the different results that were ever reported.
        deleted: its record was deleted on purpose, so it may be unknown.
        served: how often its video was downloaded.
        unsigned: how many of these downloads had no valid signature.
    """

    number: int
    cancel_at: float | None
    last: dict[str, Any] = field(default_factory=dict)
    results: list[str] = field(default_factory=list)
    unknown: bool = False
    reopened: bool = False
    deleted: bool = False
    served: int = 0
    unsigned: int = 0

    @property
    def ended(self) -> bool:
        return self.deleted or self.last.get("status") in ENDED

    def see(self, status: dict[str, Any]) -> None:
        """Record a response of `/status`."""
        self.reopened = self.reopened or (self.ended and status["status"] not in {self.last["status"], "expired"})
        self.last = status
        if status["result"] is not None:
            # Two results with the same seed have the same bytes; the attempt distinguishes them.
            shown = f"{status['result']['sha256']} by attempt {status['provenance']['attempt']}"
            if shown not in self.results:
                self.results.append(shown)


def is_signed(video: bytes) -> bool:
    """Return whether an MP4 has Content Credentials with a valid signature."""
    import c2pa  # noqa: PLC0415 - the library takes 0.2 s to load

    try:
        with c2pa.Reader("video/mp4", io.BytesIO(video)) as reader:
            return reader.get_validation_state() in {"Valid", "Trusted"}
    except c2pa.C2paError:
        return False


class Caller(threading.Thread):
    """Submits `jobs` jobs to the service at `url`, at most `window` unfinished ones at a time.

    `seen` has the accepted jobs by id. Jobs are cancelled by the use case in `service`.
    """

    def __init__(self, url: str, service: UseCases, *, jobs: int, seed: int, window: int = WINDOW) -> None:
        super().__init__(name="caller", daemon=True)
        self._http = httpx2.Client(base_url=url, timeout=5, trust_env=False)
        self._service = service
        self._jobs = jobs
        self._window = window
        self._seed = seed
        self._chance = random.Random(f"caller {seed}")
        self._image = IMAGE.read_bytes()
        self._enough = threading.Event()
        self._give_up = threading.Event()
        self.seen: dict[str, Sighting] = {}
        self.rejected: list[str] = []
        self.repeats = 0

    @property
    def submitting(self) -> bool:
        """Whether there are still jobs to submit."""
        return len(self.seen) + len(self.rejected) < self._jobs and not self._enough.is_set()

    @property
    def under_way(self) -> list[str]:
        """Ids of the accepted jobs that have not ended."""
        return [job_id for job_id, sighting in list(self.seen.items()) if not sighting.ended and not sighting.unknown]

    def enough(self) -> None:
        """Stop submitting."""
        self._enough.set()

    def give_up(self) -> None:
        """Stop submitting and polling."""
        self._enough.set()
        self._give_up.set()

    def run(self) -> None:
        """Submit and poll until all jobs have ended."""
        while not self._give_up.is_set() and (self.submitting or self.under_way):
            if self.submitting and len(self.under_way) < self._window:
                self._submit(len(self.seen) + len(self.rejected))
            self.look()
            time.sleep(0.1)

    def look(self, *, everywhere: bool = False) -> None:
        """Request the status of the unfinished jobs, or of all."""
        for job_id in list(self.seen) if everywhere else self.under_way:
            sighting = self.seen[job_id]
            try:
                answer = self._http.get(f"/status/{job_id}")
            except httpx2.HTTPError:
                continue
            if answer.status_code == 200:
                sighting.see(answer.json())
            sighting.unknown = answer.status_code == 404
            self._download(job_id, sighting)
            self._perhaps_cancel(job_id, sighting)

    def _download(self, job_id: str, sighting: Sighting) -> None:
        """Request the video, whatever the job's status; count whether it is served and signed."""
        try:
            answer = self._http.get(f"/results/{job_id}")
        except httpx2.HTTPError:
            return
        if answer.status_code == 200:
            sighting.served += 1
            sighting.unsigned += not is_signed(answer.content)

    def _submit(self, number: int) -> None:
        """Submit a job, and retry with the same `Idempotency-Key` until it is accepted."""
        form = {
            "num_frames": "3",
            "num_inference_steps": str(self._chance.randint(2, 10)),
            "max_guidance_scale": "1",
            "seed": str(number),
        }
        cancel_after = self._chance.uniform(0, 6) if self._chance.random() < CANCELLED else None
        headers = {"Idempotency-Key": f"chaos-{self._seed}-{number}"}
        while self.submitting:
            try:
                answer = self._http.post("/generate", files={"image": self._image}, data=form, headers=headers)
            except httpx2.HTTPError:
                answer = None
            if answer is not None and answer.status_code == 202:
                cancel_at = None if cancel_after is None else time.monotonic() + cancel_after
                self.seen[answer.json()["task_id"]] = Sighting(number, cancel_at)
                return
            if answer is not None and answer.status_code not in {500, 502, 503, 504}:
                self.rejected.append(f"{answer.status_code} {answer.text[:200]}")
                return
            self.repeats += 1
            self._enough.wait(0.3)

    def _perhaps_cancel(self, job_id: str, sighting: Sighting) -> None:
        if sighting.cancel_at is None or time.monotonic() < sighting.cancel_at:
            return
        try:
            self._service.removal.cancel(job_id)
        except JobError:
            return
        sighting.cancel_at = None
