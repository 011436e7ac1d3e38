"""How long jobs take: what the finished ones have taught, and what that foretells of the others.

For each model on each kind of device, and for each phase, a line is fitted through the logarithms of size and seconds:
`seconds = c · size ^ slope`. A fixed cost makes the slope less than 1, attention more. Old jobs are forgotten bit by
bit, so the line follows the device. `lua/finish.lua` learns, `lua/outlook.lua` fetches what is needed to foretell, and
here it is read. Neither costs more with a long queue: of the jobs ahead, the first are taken one by one, those further
off by samples that stand for their neighbours.
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

#: For each phase in order: (size, how often the phase does work of that size).
Work = Sequence[tuple[float, int]]

#: The slope before anything is known (work of double the size takes double the time), how much that counts beside
#: what was seen, and what is still believed.
_SLOPE: Final = 1.0
_SLOPE_WEIGHT: Final = 0.2
_SLOPES: Final = (0.2, 2.0)

#: Share of an attempt after which it foretells its own end where no finished job does.
_ENOUGH: Final = 0.1

#: An attempt that is this much slower or faster than expected is taken for no slower or faster.
_DRIFT: Final = (0.5, 3.0)


#: Share of what was left when progress was told that is still said to be left when it should long be over.
_OVERDUE: Final = 0.02


#: How much work the files are that are made beside the MP4, in what that is: by measured times at 1024x576. So a job
#: with many of them teaches nothing wrong of one with none.
_FORMATS: Final[Mapping[Format, float]] = {Format.WEBM: 1.5, Format.WEBP: 3, Format.GIF: 1.5, Format.ZIP: 2.5}


#: Work of interpolating between two frames, by what it grows with: the flow, and each new frame. In processor time at
#: 1024x576, 0.20 s and 0.11 s.
_FLOW: Final = 2.0

#: Phases of the records of versions before there was interpolation.
_OLD_PHASES: Final = 4


def work_of(parameters: Parameters) -> Work:
    """The work of each phase. Sizes are in pixels: of an image, or of all frames together."""
    pixels = parameters.width * parameters.height
    volume = parameters.num_frames * pixels
    # With guidance, every step runs the model with and without the image.
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
class Line:
    """A line through the logarithms: weight of what was seen, its means, its sum of squares and of products."""

    weight: float
    mean_size: float
    mean_seconds: float
    squares: float
    products: float

    def seconds(self, size: float) -> float:
        """What work of `size` is expected to take."""
        slope = (self.products + _SLOPE_WEIGHT * _SLOPE) / (self.squares + _SLOPE_WEIGHT)
        slope = min(max(slope, _SLOPES[0]), _SLOPES[1])
        return math.exp(self.mean_seconds + slope * (math.log(size) - self.mean_size))


@dataclass(frozen=True)
class Pace:
    """How fast one kind of device is with one model: a line for each phase."""

    lines: Sequence[Line | None]

    @classmethod
    def of(cls, told: str) -> Self:
        """As `finish.lua` keeps it: JSON, the lines by phase, an empty one where nothing was seen."""
        lines = _with_every_phase(json.loads(told), [])
        return cls([Line(*numbers) if numbers else None for numbers in lines])

    def seconds(self, work: Work) -> list[float]:
        """What each phase is expected to take."""
        return [
            times * line.seconds(size) if line else 0.0 for line, (size, times) in zip(self.lines, work, strict=True)
        ]


@dataclass(frozen=True)
class Runner:
    """A worker process that is ready, and what it is busy with: for how many seconds, how far it is, and how many
    seconds ago it said so. `profiles` are those whose jobs it takes; none: all.
    """

    device: str
    profiles: frozenset[str] = frozenset()
    work: Work | None = None
    elapsed: float = 0.0
    silence: float = 0.0
    progress: Progress | None = None


@dataclass(frozen=True)
class Outlook:
    """What the ledger knows of the time to come for the jobs of one model, at one moment: the pace of each device, the
    workers that hold the model, its queue.

    `queue` has places of queued jobs (from 0) in order, each with the work and the profile; where places are left out,
    a job stands for those between it and the next.
    """

    paces: Mapping[str, Pace] = field(default_factory=dict)
    runners: Sequence[Runner] = ()
    queue: Sequence[tuple[int, Work, str]] = ()

    @classmethod
    def of(cls, model: str, told: Mapping[str, Any], far: Mapping[str, Any] | None = None) -> Self:
        """As `outlook.lua` answers for `model`: what is near and, if that is wanted, the far end of the queue."""
        far = far or {"works": [], "queue": []}
        keyed = {tuple(key.split("|")): lines for key, lines in dict(told["paces"]).items()}
        paces = {device: Pace.of(lines) for (name, device), lines in keyed.items() if name == model}
        runners = [_runner(**runner) for runner in told["runners"]]
        works = [(_work(work), profile) for work, profile in far["works"]]
        queue = [(place, _work(work), profile) for place, work, profile in told["queue"]]
        return cls(paces, runners, queue + [(place, *works[index]) for place, index in far["queue"]])

    def foretell(self, job: Job) -> Job:
        """`job` with the seconds that it still takes, where that can be told, and with phases weighed as measured."""
        if job.state is State.STARTED:
            return self._started(job)
        if job.state is State.QUEUED and job.position is not None:
            return replace(job, eta_seconds=_rounded(self._until_end(job, job.position - 1)))
        return job

    def _started(self, job: Job) -> Job:
        attempt = job.attempts[-1]
        expected = self._expected(work_of(job.parameters), attempt.device)
        progress = job.progress
        if progress and expected:
            progress = replace(progress, weights=dict(zip(Phase, _shares(expected), strict=True)))
        silent_since = progress.at if progress else attempt.started_at
        left = _left(expected, progress, job.observed_at - attempt.started_at, job.observed_at - silent_since)
        return replace(job, progress=progress, eta_seconds=_rounded(left))

    def until_start(self, place: int, profile: str) -> float | None:
        """Seconds until a queued job of `profile` at `place` (from 0) is begun, and leaves the queue; `None` if nobody
        knows.
        """
        first = self._first_free(place, profile)
        return first[0] if first else None

    def _until_end(self, job: Job, place: int) -> float | None:
        first = self._first_free(place, job.parameters.profile)
        if first is None:
            return None
        since, device = first
        return since + self._seconds(work_of(job.parameters), device)

    def _first_free(self, place: int, profile: str) -> tuple[float, str] | None:
        """Plays the queue through before `place`: whoever is free first takes the next job of those that it takes. In
        how many seconds which device is free for the job of `profile` at that place; `None` if nobody knows.
        """
        if not any(pace.lines[1] for pace in self.paces.values()):
            return None
        crews = self._crews()
        ahead = [entry for entry in self.queue if entry[0] < place]
        ends = [entry[0] for entry in ahead[1:]] + [place]
        known: dict[tuple[int, str], float] = {}  # of a long queue, many are alike, and then one object
        for (start, work, kind), end in zip(ahead, ends, strict=False):  # nobody ahead: one end too many
            # A job that nobody takes waits for somebody who is not here, and holds up no other.
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
        pace = self.paces.get(device)
        # Without the steps, which are most of it, nothing is known.
        return pace.seconds(work) if pace and pace.lines[1] else None

    def _seconds(self, work: Work, device: str) -> float:
        """What the whole job takes on `device`; on one that has finished none yet, what others take."""
        own = self._expected(work, device)
        if own:
            return sum(own)
        known = [sum(told) for other in self.paces if (told := self._expected(work, other))]
        return sum(known) / len(known)


class _Crew:
    """Workers that take jobs of the same profiles, in a play of the queue: when which of them is free."""

    def __init__(self, profiles: frozenset[str]) -> None:
        self._profiles = profiles
        self._free: list[tuple[float, str]] = []
        self.devices = Counter[str]()
        #: Seconds that all of them are busy with jobs that were not played one by one.
        self.delay = 0.0

    def join(self, device: str, busy: float) -> None:
        """One more, on `device`, that is free in `busy` seconds."""
        heapq.heappush(self._free, (busy, device))
        self.devices[device] += 1

    def takes(self, profile: str) -> bool:
        """Whether a job of `profile` may be their next."""
        return not self._profiles or profile in self._profiles

    def first(self) -> tuple[float, str]:
        """In how many seconds one of them is free, and its device."""
        since, device = self._free[0]
        return since + self.delay, device

    def take(self, seconds: float) -> None:
        """The first that is free takes a job of so many seconds."""
        since, device = self._free[0]
        heapq.heapreplace(self._free, (since + seconds, device))


def _work(told: str) -> Work:
    return _with_every_phase(json.loads(told), [1, 0])


def _runner(device: str, profiles: str, work: str = "", progress: Sequence[Any] = (), **seconds: float) -> Runner:
    """As `estimate.lua` has it; `progress` is the phase and the numbers of a `Progress`, as text."""
    shown = None
    if progress:
        step, steps, segment, segments = map(int, progress[1:])
        shown = Progress(Phase(progress[0]), step, steps, segment, segments)
    taken = frozenset(filter(None, profiles.split(",")))
    return Runner(device, taken, _work(work) if work else None, progress=shown, **seconds)


def _left(expected: list[float] | None, progress: Progress | None, elapsed: float, silence: float) -> float | None:
    """Seconds until an attempt ends that has run for `elapsed`, and was last heard of `silence` ago."""
    left = _left_then(expected, progress, elapsed - silence)
    # What is overdue is not done: a little always remains.
    return None if left is None else max(left - silence, left * _OVERDUE)


def _left_then(expected: list[float] | None, progress: Progress | None, elapsed: float) -> float | None:
    """The same at the moment at which progress was told; what an attempt has shown of itself counts more and more."""
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
