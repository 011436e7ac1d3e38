"""A group: the jobs of one submission, and what follows from them."""

from collections import Counter
from dataclasses import dataclass

from svd_service.jobs.job import Job, State, Webhook

#: The states of jobs that have ended, from the worst; a group that has ended is in the worst of its jobs' states.
_ENDS = (State.FAILED, State.CANCELLED, State.EXPIRED, State.FINISHED)


@dataclass(frozen=True)
class Group:
    """A group at one moment. `jobs` are its members in order, without deleted ones; `size` is how many there were.

    Times are seconds since the epoch, by Redis' clock.
    """

    id: str
    owner: str
    size: int
    created_at: float
    jobs: tuple[Job, ...]
    ended_at: float | None = None
    webhook: Webhook | None = None

    @property
    def state(self) -> State:
        """`queued` while no job has started, `started` until all have ended; then the worst of their states."""
        states = {job.state for job in self.jobs}
        if all(state.ended for state in states):
            return next((state for state in _ENDS if state in states), State.CANCELLED)
        return State.QUEUED if states == {State.QUEUED} else State.STARTED

    @property
    def counts(self) -> dict[State, int]:
        """How many jobs are in each state."""
        return dict(Counter(job.state for job in self.jobs))

    @property
    def fraction(self) -> float:
        """Share of the work that is done, 0 to 1."""
        if not self.jobs:
            return 1.0
        done = (1.0 if job.state.ended else job.progress.fraction if job.progress else 0.0 for job in self.jobs)
        return round(sum(done) / len(self.jobs), 4)

    @property
    def eta_seconds(self) -> float | None:
        """Estimated seconds until the last job ends; `None` without an estimate for each that has not ended."""
        left = [job.eta_seconds for job in self.jobs if not job.state.ended]
        known = [seconds for seconds in left if seconds is not None]
        return max(known) if known and len(known) == len(left) else None

    @property
    def version(self) -> int:
        """A number that grows with every change of a job."""
        return sum(job.version for job in self.jobs)
