"""Estimates of how long jobs take, learned from the finished ones.

For each model on each kind of device, and for each phase, a line is fitted through the logarithms of size and seconds:
`seconds = c · size ^ slope`. A fixed cost makes the slope less than 1, attention more. Old jobs lose weight
gradually, so the line follows the device. `ledger/lua/lib/throughput.lua` updates the lines (its `MEMORY` is how fast
old jobs lose weight), `ledger/lua/estimate.lua` fetches what an estimate needs, and this module computes it. The cost
does not grow with the queue: of the jobs ahead, the first are simulated one by one, and the queue further back is
sampled: each sample counts for the jobs up to the next one.
"""

import heapq
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self

from svd_service.jobs.job import Job, Phase, Progress, State
from svd_service.jobs.parameters import Parameters
from svd_service.parameters import Format

#: For each phase in order: (size, number of repetitions of work of that size).
Work = Sequence[tuple[float, int]]

#: Prior of the slope (work of double the size takes double the time), its weight, and the range of slopes allowed.
_SLOPE: Final = 1.0
_SLOPE_WEIGHT: Final = 0.2
_SLOPES: Final = (0.2, 2.0)

#: Share of an attempt after which its own progress gives an estimate where there is no finished job to learn from.
_ENOUGH: Final = 0.1

#: Range of the factor by which an attempt may be slower or faster than expected.
_DRIFT: Final = (0.5, 3.0)


#: Share of the time left at the last progress report that is still estimated for an overdue attempt.
_OVERDUE: Final = 0.02


#: Work of the other formats relative to the MP4's, by measured times at 1024x576, so that jobs with many formats do not
#: distort the estimates of jobs with none.
_FORMATS: Final[Mapping[Format, float]] = {Format.WEBM: 1.5, Format.WEBP: 3, Format.GIF: 1.5, Format.ZIP: 2.5}


#: Work of interpolating between two frames: the flow once, and each new frame. In processor time at 1024x576, 0.20 s
#: and 0.11 s.
_FLOW: Final = 2.0

#: Phases in the records of versions without interpolation.
_OLD_PHASES: Final = 4


def work_of(parameters: Parameters) -> Work:
    """The work of each phase. Sizes are in pixels: of an image, or of all frames together."""
    pixels = parameters.width * parameters.height
    volume = parameters.num_frames * pixels
    # With guidance, each step runs the model with and without the image.
    passes = 2 if parameters.max_guidance_scale > 1 else 1
    files = 1 + sum(_FORMATS[kind] for kind in parameters.formats)
    clip, segments = parameters.clip, parameters.segments
    new = parameters.interpolate - 1
    written = clip.frames * parameters.output_width * parameters.output_height
    return (
        (pixels, segments),
        (volume * passes, parameters.num_inference_steps * segments),
        (volume, segments),
        (pixels * (_FLOW + new), clip.generated - 1) if new else (pixels, 0),
        (written * files, 1),
    )


def _with_every_phase(known: list[Any], missing: Any) -> list[Any]:
    """`known` by phase; a record of an older version lacks interpolation."""
    return known if len(known) != _OLD_PHASES else [*known[:3], missing, known[3]]


@dataclass(frozen=True)
class LogLogFit:
    """A line through the logarithms: weight of the observations, their means, sum of squares and sum of products."""

    weight: float
    mean_size: float
    mean_seconds: float
    squares: float
    products: float

    def seconds(self, size: float) -> float:
        """Expected seconds for work of `size`."""
        slope = (self.products + _SLOPE_WEIGHT * _SLOPE) / (self.squares + _SLOPE_WEIGHT)
        slope = min(max(slope, _SLOPES[0]), _SLOPES[1])
        return math.exp(self.mean_seconds + slope * (math.log(size) - self.mean_size))


@dataclass(frozen=True)
class ThroughputModel:
    """Throughput of one kind of device with one model: a line for each phase."""

    lines: Sequence[LogLogFit | None]

    @classmethod
    def of(cls, stored: str) -> Self:
        """Read it as `finish.lua` stores it: JSON, the lines by phase, an empty one where there are no observations."""
        lines = _with_every_phase(json.loads(stored), [])
        return cls([LogLogFit(*numbers) if numbers else None for numbers in lines])

    def seconds(self, work: Work) -> list[float]:
        """Expected seconds of each phase."""
        return [
            times * line.seconds(size) if line else 0.0 for line, (size, times) in zip(self.lines, work, strict=True)
        ]


@dataclass(frozen=True)
class Runner:
    """A worker process that is ready, and the attempt it runs: for how many seconds (`elapsed`), its progress, and how
    many seconds ago it was reported (`silence`). `profiles` are those whose jobs it takes; none: all.
    """

    device: str
    profiles: frozenset[str] = frozenset()
    work: Work | None = None
    elapsed: float = 0.0
    silence: float = 0.0
    progress: Progress | None = None


@dataclass(frozen=True)
class Estimator:
    """Estimates for the jobs of one model from the ledger's data at one moment: the throughput model of each device,
    the workers that hold the model, and its queue.

    `queue` has places of queued jobs (from 0) in order, each with the work and the profile; where places are omitted,
    a job stands for those between it and the next.
    """

    throughput: Mapping[str, ThroughputModel] = field(default_factory=dict)
    runners: Sequence[Runner] = ()
    queue: Sequence[tuple[int, Work, str]] = ()

    @classmethod
    def of(cls, model: str, near: Mapping[str, Any], far: Mapping[str, Any] | None = None) -> Self:
        """Read the answer of `estimate.lua` for `model`: `near` and, if needed, the far end of the queue."""
        far = far or {"works": [], "queue": []}
        keyed = {tuple(key.split("|")): lines for key, lines in dict(near["throughput"]).items()}
        throughput = {device: ThroughputModel.of(lines) for (name, device), lines in keyed.items() if name == model}
        runners = [_runner(**runner) for runner in near["runners"]]
        works = [(_work(work), profile) for work, profile in far["works"]]
        queue = [(place, _work(work), profile) for place, work, profile in near["queue"]]
        return cls(throughput, runners, queue + [(place, *works[index]) for place, index in far["queue"]])

    def estimate(self, job: Job) -> Job:
        """Return `job` with its remaining seconds, where an estimate is possible, and with measured phase weights."""
        if job.state is State.STARTED:
            return self._started(job)
        if job.state is State.QUEUED and job.position is not None:
            return replace(job, eta_seconds=_rounded(self.until_end(job.position - 1, job.parameters)))
        return job

    def _started(self, job: Job) -> Job:
        attempt = job.attempts[-1]
        expected = self._expected(work_of(job.parameters), attempt.device)
        progress = job.progress
        if progress and expected:
            progress = replace(progress, weights=dict(zip(Phase, _shares(expected), strict=True)))
        reported_at = progress.at if progress else attempt.started_at
        left = _left(expected, progress, job.observed_at - attempt.started_at, job.observed_at - reported_at)
        return replace(job, progress=progress, eta_seconds=_rounded(left))

    def until_start(self, place: int, profile: str) -> float | None:
        """Seconds until a queued job of `profile` at `place` (from 0) starts, and leaves the queue; `None`: unknown."""
        first = self._first_free(place, profile)
        return first[0] if first else None

    def until_end(self, place: int, parameters: Parameters) -> float | None:
        """Seconds until a queued job at `place` (from 0) ends; `None`: unknown."""
        first = self._first_free(place, parameters.profile)
        if first is None:
            return None
        since, device = first
        return since + self._seconds(work_of(parameters), device)

    def _first_free(self, place: int, profile: str) -> tuple[float, str] | None:
        """Simulate the queue before `place`: the first free worker takes the next job of its profiles. Returns in how
        many seconds which device is free for the job of `profile` at that place; `None`: unknown.
        """
        if not any(model.lines[1] for model in self.throughput.values()):
            return None
        crews = self._crews()
        ahead = [entry for entry in self.queue if entry[0] < place]
        ends = [entry[0] for entry in ahead[1:]] + [place]
        known: dict[tuple[int, str], float] = {}  # in a long queue, equal works share one object
        for (start, work, kind), end in zip(ahead, ends, strict=False):  # one end too many if there are no jobs ahead
            # A job whose profile no worker takes does not delay any other.
            able = [crew for crew in crews if crew.takes(kind)]
            for crew in able:
                for device in crew.devices:
                    if (id(work), device) not in known:
                        known[id(work), device] = self._seconds(work, device)
            if able and end - start == 1:
                crew = min(able, key=_Crew.first)
                crew.take(known[id(work), crew.first()[1]])
            elif able:
                rates = (number / known[id(work), device] for crew in able for device, number in crew.devices.items())
                together = (end - start) / sum(rates)
                for crew in able:
                    crew.delay += together
        return min((crew.first() for crew in crews if crew.takes(profile)), default=None)

    def _crews(self) -> "list[_Crew]":
        crews: dict[frozenset[str], _Crew] = {}
        for runner in self.runners:
            crews.setdefault(runner.profiles, _Crew(runner.profiles)).join(runner.device, self._busy(runner))
        return list(crews.values())

    def _busy(self, runner: Runner) -> float:
        """Seconds until the runner is free."""
        if runner.work is None:
            return 0.0
        expected = self._expected(runner.work, runner.device)
        return _left(expected, runner.progress, runner.elapsed, runner.silence) or self._seconds(
            runner.work, runner.device
        )

    def _expected(self, work: Work, device: str) -> list[float] | None:
        model = self.throughput.get(device)
        # Without a line for the steps, which take most of the time, no estimate is possible.
        return model.seconds(work) if model and model.lines[1] else None

    def _seconds(self, work: Work, device: str) -> float:
        """Expected seconds of the whole job on `device`; if it has finished none yet, the mean of the others."""
        own = self._expected(work, device)
        if own:
            return sum(own)
        known = [sum(expected) for other in self.throughput if (expected := self._expected(work, other))]
        return sum(known) / len(known)


class _Crew:
    """Workers that take jobs of the same profiles, in a simulation of the queue: when which of them is free."""

    def __init__(self, profiles: frozenset[str]) -> None:
        self._profiles = profiles
        self._free: list[tuple[float, str]] = []
        self.devices = Counter[str]()
        #: Seconds that all of them are busy with jobs that were not simulated one by one.
        self.delay = 0.0

    def join(self, device: str, busy: float) -> None:
        """Add a worker on `device` that is free in `busy` seconds."""
        heapq.heappush(self._free, (busy, device))
        self.devices[device] += 1

    def takes(self, profile: str) -> bool:
        """Whether these workers take jobs of `profile`."""
        return not self._profiles or profile in self._profiles

    def first(self) -> tuple[float, str]:
        """In how many seconds one of them is free, and its device."""
        since, device = self._free[0]
        return since + self.delay, device

    def take(self, seconds: float) -> None:
        """Assign a job of so many seconds to the first free worker."""
        since, device = self._free[0]
        heapq.heapreplace(self._free, (since + seconds, device))


def _work(stored: str) -> Work:
    return _with_every_phase(json.loads(stored), [1, 0])


def _runner(device: str, profiles: str, work: str = "", progress: Sequence[Any] = (), **seconds: float) -> Runner:
    """A runner as in the answer of `estimate.lua`; `progress` is the phase and the numbers of a `Progress`, as text."""
    shown = None
    if progress:
        step, steps, segment, segments = map(int, progress[1:])
        shown = Progress(Phase(progress[0]), step, steps, segment, segments)
    taken = frozenset(filter(None, profiles.split(",")))
    return Runner(device, taken, _work(work) if work else None, progress=shown, **seconds)


def _left(expected: list[float] | None, progress: Progress | None, elapsed: float, silence: float) -> float | None:
    """Seconds until an attempt ends that has run for `elapsed` and reported progress `silence` seconds ago."""
    left = _left_then(expected, progress, elapsed - silence)
    # An overdue attempt has not ended: a little time always remains.
    return None if left is None else max(left - silence, left * _OVERDUE)


def _left_then(expected: list[float] | None, progress: Progress | None, elapsed: float) -> float | None:
    """The same at the moment of the last progress report; the attempt's own speed has increasing weight."""
    if expected is None:
        done = progress.fraction if progress else 0.0
        return elapsed * (1 - done) / done if done >= _ENOUGH else None
    weights = dict(zip(Phase, _shares(expected), strict=True))
    done = replace(progress, weights=weights).fraction if progress else 0.0
    total = sum(expected)
    drift = elapsed / (done * total) if done else 1.0
    drift = min(max(drift, _DRIFT[0]), _DRIFT[1])
    return total * (1 - done) * ((1 - done) + done * drift)


def _shares(expected: list[float]) -> list[float]:
    return [one / sum(expected) for one in expected]


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)
