"""Learning from finished jobs and the accuracy of estimates: arithmetic, then the ledger's scripts on a real Redis."""

import heapq
import math
import random
import statistics
import time
from dataclasses import replace
from typing import Any

import pytest
import redis

from svd_service.config import Settings
from svd_service.jobs.eta import Estimator, Runner, ThroughputModel, Work, work_of
from svd_service.jobs.job import Holder, Job, Phase, Progress, Result, State
from svd_service.jobs.parameters import Parameters
from svd_service.jobs.submission import Submission
from svd_service.ledger import Ledger, open_ledger
from svd_service.ledger.workers import WorkerStatus
from svd_service.parameters import Fit, Format, Profile

SMALL = Parameters(1, 64, 64, 8, 10, 7, 127, 0.02, 1.0, 1.0, 4, Fit.CROP)
LARGE = replace(SMALL, width=128, height=128)
DEVICE = "a device"


def throughput_model(per_pixel: float = 1e-5) -> ThroughputModel:
    """A device whose phases each take `per_pixel` seconds a pixel."""
    line = [1.0, 0.0, math.log(per_pixel), 0.0, 0.0]
    return ThroughputModel.of(str([line, line, line, line]))


def seconds_of(parameters: Parameters, per_pixel: float = 1e-5) -> float:
    return sum(size * times * per_pixel for size, times in work_of(parameters))


def queued(position: int, parameters: Parameters = SMALL) -> Job:
    model = {"name": "tiny", "revision": None, "trained": False}
    return Job("a", State.QUEUED, parameters, model, "", "", 0.0, position=position)


def runner(work: Work | None = None, *profiles: str, **busy: Any) -> Runner:
    return Runner(DEVICE, frozenset(profiles), work, **busy)


def estimator(runners: list[Runner], queue: list[tuple[int, Parameters]] | None = None) -> Estimator:
    entries = [(place, work_of(what), str(what.profile)) for place, what in queue or []]
    return Estimator({DEVICE: throughput_model()}, runners, entries)


def test_guidance_doubles_the_work_of_the_steps_only():
    plain, guided = work_of(SMALL), work_of(replace(SMALL, max_guidance_scale=2.0))
    assert guided[1] == (2 * plain[1][0], 10)
    assert [guided[i] for i in (0, 2, 3, 4)] == [plain[i] for i in (0, 2, 3, 4)]


def test_further_formats_add_work_to_the_last_phase_only():
    plain, many = work_of(SMALL), work_of(replace(SMALL, formats=(Format.WEBP, Format.GIF)))
    assert many[:4] == plain[:4]
    assert many[4][0] > 2 * plain[4][0]


def test_segments_multiply_the_work_of_one_and_interpolation_is_a_separate_phase():
    plain, many = work_of(SMALL), work_of(replace(SMALL, segments=3))
    assert [(size, times * 3) for size, times in plain[:3]] == list(many[:3])
    assert plain[3][1] == many[3][1] == 0
    assert many[4][0] == plain[4][0] / SMALL.num_frames * (3 * SMALL.num_frames - 2)
    twice, four_times = (work_of(replace(SMALL, interpolate=factor)) for factor in (2, 4))
    assert twice[:3] == plain[:3]
    assert twice[3][1] == four_times[3][1] == SMALL.num_frames - 1
    assert twice[3][0] < four_times[3][0] < 3 * twice[3][0]


def test_throughput_and_queue_entries_of_an_older_version_are_read():
    old = "[[1,1,1,0,0],[1,2,2,0,0],[1,3,3,0,0],[1,4,4,0,0]]"
    assert [line and line.mean_size for line in ThroughputModel.of(old).lines] == [1, 2, 3, None, 4]
    record = {"throughput": {}, "runners": [], "queue": [[0, "[[1,1],[2,5],[3,1],[4,1]]", "exact"]]}
    ((_, work, _),) = Estimator.of("tiny", record).queue
    assert [times for _, times in work] == [1, 5, 1, 0, 1]


def test_there_is_no_estimate_without_known_throughput_or_ready_workers():
    assert Estimator({}, [runner()]).estimate(queued(1)).eta_seconds is None
    assert estimator([]).estimate(queued(1)).eta_seconds is None


def test_the_next_job_of_an_idle_worker_takes_its_own_time():
    assert estimator([runner()]).estimate(queued(1)).eta_seconds == pytest.approx(seconds_of(SMALL), abs=0.1)


def test_the_work_ahead_is_shared_among_the_ready_workers():
    ahead = [(place, LARGE) for place in range(6)]
    for number in (1, 2, 3):
        eta = estimator([runner() for _ in range(number)], ahead).estimate(queued(7)).eta_seconds
        assert eta == pytest.approx(seconds_of(LARGE) * 6 / number + seconds_of(SMALL), abs=0.1)


def test_a_sampled_job_counts_for_its_neighbours_too():
    every = estimator([runner()], [(place, LARGE) for place in range(40)])
    some = estimator([runner()], [(place, LARGE) for place in (*range(20), 20, 25, 30, 35)])
    assert some.estimate(queued(41)).eta_seconds == pytest.approx(every.estimate(queued(41)).eta_seconds, abs=0.2)


def test_a_running_job_counts_by_its_remaining_work():
    half = Progress(Phase.SAMPLING, 5, 10)
    (pixels, _), (volume, _), *_ = work_of(LARGE)
    elapsed = 1e-5 * (pixels + 5 * volume)
    job = estimator([runner(work_of(LARGE), elapsed=elapsed, progress=half)]).estimate(queued(1))
    assert job.eta_seconds == pytest.approx(seconds_of(LARGE) - elapsed + seconds_of(SMALL), abs=0.1)


def test_the_remaining_time_decreases_between_progress_reports():
    begun: dict[str, Any] = {"elapsed": 1e-5 * 64 * 64, "progress": Progress(Phase.SAMPLING, 0, 10)}

    def eta(silence: float) -> float:
        busy = runner(work_of(SMALL), **{**begun, "elapsed": begun["elapsed"] + silence}, silence=silence)
        return estimator([busy]).estimate(queued(1)).eta_seconds or 0.0

    assert eta(0.0) - eta(2.0) == pytest.approx(2.0, abs=0.1)
    assert eta(1000.0) == pytest.approx(seconds_of(SMALL), rel=0.05)


def test_a_device_without_measurements_is_assumed_to_be_like_others_of_its_model():
    newcomer = Estimator({DEVICE: throughput_model()}, [Runner("another")])
    assert newcomer.estimate(queued(1)).eta_seconds == pytest.approx(seconds_of(SMALL), abs=0.1)


def test_jobs_that_a_worker_does_not_accept_do_not_delay_its_own():
    draft, exact = replace(SMALL, profile=Profile.DRAFT), LARGE
    alone = seconds_of(SMALL)
    queue = [(place, exact) for place in range(6)]
    specialist, other = runner(None, "draft"), runner(None, "exact")
    estimates = estimator([specialist, other], queue)
    assert estimates.estimate(queued(7, draft)).eta_seconds == pytest.approx(alone, abs=0.1)
    assert estimates.estimate(queued(7, exact)).eta_seconds == pytest.approx(7 * seconds_of(LARGE), abs=0.1)
    # A worker that accepts all profiles helps both; a job that no worker accepts has no estimate.
    helped = estimator([specialist, other, runner()], queue).estimate(queued(7, exact)).eta_seconds
    assert helped == pytest.approx(4 * seconds_of(LARGE), abs=0.1)
    assert estimator([specialist], queue).estimate(queued(7, exact)).eta_seconds is None
    assert estimator([specialist], queue).estimate(queued(7, draft)).eta_seconds == pytest.approx(alone, abs=0.1)


def test_a_sampled_job_is_shared_by_the_workers_that_accept_it():
    some = estimator([runner(None, "draft"), runner(), runner()], [(0, LARGE), (8, LARGE), (16, LARGE)])
    assert some.estimate(queued(25, LARGE)).eta_seconds == pytest.approx(13 * seconds_of(LARGE), rel=0.05)


# With the ledger


def test_a_start_is_estimated_from_workers_with_known_throughput():
    known = estimator([runner(work_of(SMALL))], [(place, SMALL) for place in (0, 2)])  # the first counts for two
    assert known.until_start(3, Profile.EXACT) == pytest.approx(4 * seconds_of(SMALL), rel=0.01)
    assert replace(known, runners=[]).until_start(3, Profile.EXACT) is None
    assert replace(known, throughput={}).until_start(0, Profile.EXACT) is None


def be_ready(ledger: Ledger, *names: str) -> None:
    for name in names:
        ledger.workers.heartbeat(WorkerStatus(name, DEVICE, "instance", 1, "tiny", False, 0.0, 1.0))


def submit(ledger: Ledger, job_id: str, parameters: Parameters = SMALL) -> None:
    ledger.jobs.submit(
        Submission(job_id, parameters=parameters, model={"name": "tiny", "trained": False}, input="inputs/a.png")
    )


def run(ledger: Ledger, job_id: str, seconds: dict[str, float]) -> None:
    claim = ledger.attempts.claim(job_id, Holder("w/0", DEVICE, "instance", 1))
    assert claim is not None
    # The last phase's time is the rest of the claim's age: next to nothing here.
    ledger.attempts.finish(claim, Result("a", 1, "", 64, 64, 8), device=DEVICE, seconds=seconds, steps=10)


def estimated(ledger: Ledger, job_id: str) -> Job:
    (job,) = ledger.estimates.estimate([ledger.jobs.find(job_id)])
    return job


MEASURED = {"preparing": 1.0, "sampling": 20.0, "decoding": 4.0, "encoding": 0.1}


@pytest.mark.enable_socket
def test_a_started_job_has_the_same_estimate_alone_and_beside_a_queued_one(ledger: Ledger):
    be_ready(ledger, "w/0")
    submit(ledger, "first")
    run(ledger, "first", MEASURED)
    submit(ledger, "started")
    assert ledger.attempts.claim("started", Holder("w/0", DEVICE, "instance", 1)) is not None
    submit(ledger, "queued")
    started, queued = ledger.jobs.find("started"), ledger.jobs.find("queued")
    (alone,) = ledger.estimates.estimate([started])
    beside, _ = ledger.estimates.estimate([started, queued])
    assert alone.eta_seconds is not None
    assert alone == beside


@pytest.mark.enable_socket
def test_the_next_job_is_estimated_from_a_finished_one(ledger: Ledger):
    be_ready(ledger, "w/0")
    submit(ledger, "first")
    assert estimated(ledger, "first").eta_seconds is None
    run(ledger, "first", MEASURED)
    submit(ledger, "same")
    submit(ledger, "large", LARGE)
    assert estimated(ledger, "same").eta_seconds == pytest.approx(25, abs=0.1)
    assert estimated(ledger, "large").eta_seconds == pytest.approx(25 + 4 * 25, abs=0.2)
    assert estimated(ledger, "first").eta_seconds is None


@pytest.mark.enable_socket
def test_progress_is_weighted_by_measured_phases(ledger: Ledger):
    be_ready(ledger, "w/0")
    submit(ledger, "first")
    run(ledger, "first", MEASURED)
    submit(ledger, "second")
    claim = ledger.attempts.claim("second", Holder("w/0", DEVICE, "instance", 1))
    assert claim is not None
    ledger.attempts.report(claim, Progress(Phase.SAMPLING, 5, 10))
    job = estimated(ledger, "second")
    assert job.progress is not None
    assert job.progress.fraction == pytest.approx((1 + 10) / 25, abs=0.001)
    assert job.eta_seconds is not None
    assert 0 < job.eta_seconds < 14  # its own progress shows that it is much faster than the first one


@pytest.mark.enable_socket
def test_fixed_and_size_dependent_costs_are_both_learned(ledger: Ledger):
    sizes = [replace(SMALL, width=side, height=side) for side in (64, 128, 192, 256)]

    def takes(parameters: Parameters) -> dict[str, float]:
        _, (volume, steps), *_ = work_of(parameters)
        per_step = 0.5 + 1e-5 * volume
        return {"preparing": 0.2, "sampling": steps * per_step, "decoding": 0.3 + 5e-6 * volume}

    be_ready(ledger, "w/0")
    for number in range(20):
        submit(ledger, f"{number}", sizes[number % 3])
        run(ledger, f"{number}", takes(sizes[number % 3]))
    for name, parameters in zip("abcd", sizes, strict=True):
        submit(ledger, name, parameters)
        eta = estimated(ledger, name).eta_seconds
        assert eta == pytest.approx(sum(takes(parameters).values()), rel=0.2)
        ledger.jobs.cancel(name)


def mixed(chance: random.Random) -> Parameters:
    """A job of one of two sizes, with one to three segments and perhaps interpolated frames."""
    side, segments, interpolate = chance.choice((64, 128)), chance.choice((1, 1, 2, 3)), chance.choice((1, 1, 2, 4))
    return replace(SMALL, width=side, height=side, segments=segments, interpolate=interpolate)


def taken(parameters: Parameters, chance: random.Random) -> dict[str, float]:
    """Seconds of the phases on a device with fixed costs, costs that grow with the size, and 10 % of noise.

    Interpolation takes what it does on one core at 1024x576: 0.20 s for the flow and 0.11 s for a new frame.
    """
    clip, pixels = parameters.clip, parameters.width * parameters.height
    frames, new = parameters.num_frames * parameters.segments, clip.played - clip.generated
    pairs = clip.generated - 1 if new else 0
    steps = parameters.num_inference_steps * parameters.segments
    expected = {
        "preparing": 0.3 * parameters.segments,
        "sampling": steps * (0.05 + 1e-6 * parameters.num_frames * pixels),
        "decoding": 0.2 * parameters.segments + 1e-6 * frames * pixels,
        "interpolating": pixels / (1024 * 576) * 40 * (0.20 * pairs + 0.11 * new),  # slower, so that it matters here
    }
    return {phase: seconds * chance.gauss(1, 0.1) for phase, seconds in expected.items()}


def error(estimate: float | None, actual: float) -> float:
    assert estimate is not None
    return abs(estimate - actual) / actual


@pytest.mark.enable_socket
def test_a_mix_of_segments_and_interpolation_is_estimated_within_a_fifth(ledger: Ledger):
    chance = random.Random(14)
    be_ready(ledger, "w/0")
    for number in range(20):
        submit(ledger, f"taught-{number}", parameters := mixed(chance))
        run(ledger, f"taught-{number}", taken(parameters, chance))
    alone, behind_others, end, interpolation = [], [], 0.0, 0.0
    jobs = [(each := mixed(chance), taken(each, chance)) for _ in range(40)]
    for parameters, seconds in jobs:
        alone.append(error(eta_alone(ledger, parameters), sum(seconds.values())))
    for number, (parameters, seconds) in enumerate(jobs):
        submit(ledger, f"queued-{number}", parameters)
        end, interpolation = end + sum(seconds.values()), interpolation + seconds["interpolating"]
        behind_others.append(error(estimated(ledger, f"queued-{number}").eta_seconds, end))
    assert interpolation > end / 10  # it matters
    assert statistics.median(alone) <= 0.2
    assert statistics.median(behind_others) <= 0.2


@pytest.mark.enable_socket
def test_a_long_queue_costs_little_more_than_a_short_one(ledger: Ledger, redis_client: "redis.Redis"):
    be_ready(ledger, "w/0", "w/1")
    submit(ledger, "first")
    run(ledger, "first", MEASURED)
    fill(redis_client, 100_000)
    be_ready(ledger, "w/0", "w/1")  # on a busy machine their heartbeats are too old by now

    def spent() -> float:
        """CPU seconds of Redis and of this thread; independent of other work on the machine."""
        of_redis = redis_client.info("cpu")
        return float(of_redis["used_cpu_user"] + of_redis["used_cpu_sys"]) + time.thread_time()

    before = spent()
    job = estimated(ledger, "job-99999")
    took = spent() - before
    assert took < 0.2, f"{took:.3f} s"
    assert job.eta_seconds == pytest.approx(100_000 * 25 / 2, rel=0.01)


def fill(client: Any, number: int) -> None:
    """Queue `number` jobs, as `submit.lua` stores them; in batches, since Redis answers no client during a script."""
    fields = [part for pair in template(client).items() for part in pair]
    queue = client.register_script(
        """
        redis.call('HSET', 'svd:job:t', unpack(ARGV, 3))
        for i = ARGV[1], ARGV[2] - 1 do
          local id = 'job-' .. i
          redis.call('COPY', 'svd:job:t', 'svd:job:' .. id)
          redis.call('ZADD', 'svd:waiting:tiny', i, id)
        end"""
    )
    for first in range(0, number, 2_000):
        queue(args=[first, min(first + 2_000, number), *fields])


def template(client: Any) -> dict[str, str]:
    ledger = open_ledger(client, Settings.from_mapping({"SVD_DEVICES": "cpu"}))
    submit(ledger, "template")
    fields = dict(client.hgetall("svd:job:template"))
    ledger.jobs.cancel("template")
    return fields


def test_fifty_jobs_of_three_sizes_on_two_workers_are_estimated_within_a_fifth():
    """The required accuracy, with simulated durations: a fixed cost, a cost per pixel, and 10 % of noise."""
    chance = random.Random(5)
    sizes = [replace(SMALL, width=side, height=side) for side in (64, 96, 128)]
    jobs = [chance.choice(sizes) for _ in range(50)]
    true = [(0.5 + seconds_of(size)) * chance.gauss(1, 0.1) for size in jobs]
    ends: list[float] = []
    free = [0.0, 0.0]
    for seconds in true:
        ends.append(free[0] + seconds)
        heapq.heapreplace(free, ends[-1])
    errors = []
    for place, end in list(enumerate(ends))[10:]:
        ahead = list(enumerate(jobs[:place]))
        eta = estimator([runner(), runner()], ahead).estimate(queued(place + 1, jobs[place])).eta_seconds
        assert eta is not None
        errors.append(abs(eta - end) / end)
    assert statistics.median(errors) <= 0.2


@pytest.mark.enable_socket
def test_the_far_end_of_a_queue_is_sampled_once_for_many_requests(ledger: Ledger, redis_client: "redis.Redis"):
    be_ready(ledger, "w/0")
    submit(ledger, "taught")
    run(ledger, "taught", MEASURED)
    own = eta_alone(ledger)

    def sample_for(place: int) -> dict[Any, Any]:
        """The cached far end of the queue after an estimate for this position."""
        assert estimated(ledger, f"job-{place - 1}").eta_seconds == pytest.approx(place * own, rel=0.01)
        return dict(redis_client.hgetall("svd:queue_sample:tiny"))

    for number in range(64):
        submit(ledger, f"job-{number}")
    # It is cached for two seconds, which a slow machine may need for one estimate.
    assert any(sample_for(41) == sample_for(64) != {} for _ in range(20))
    for number in range(64, 80):
        submit(ledger, f"job-{number}")
    assert any(sample_for(80).get("length") == "80" for _ in range(20))


def eta_alone(ledger: Ledger, parameters: Parameters = SMALL) -> float:
    """Estimated seconds of the only queued job."""
    submit(ledger, "alone", parameters)
    eta = estimated(ledger, "alone").eta_seconds
    ledger.jobs.forget("alone", insist=True)
    assert eta is not None
    return eta
