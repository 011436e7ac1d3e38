import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields, replace

import msgspec
import pytest
from prometheus_client import Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from svd_service.config import ConfigurationError, Settings
from svd_service.errors import UnavailableError
from svd_service.jobs.job import AttemptOutcome, Failure, Holder, Result
from svd_service.jobs.parameters import Parameters
from svd_service.jobs.submission import Submission
from svd_service.jobs.usage import Usage
from svd_service.ledger import Ledger, open_ledger
from svd_service.ledger.connection import connect
from svd_service.ledger.histograms import JOB_BOUNDS, STEP_BOUNDS, Histogram
from svd_service.ledger.stats import Figures, QueueFigures, Stats
from svd_service.ledger.workers import DeviceMemory, WorkerStatus
from svd_service.parameters import Fit
from svd_service.telemetry.exporter import HostCollector, LedgerCollector, registry, serving

CI = os.environ.get("CI", "").lower() in {"1", "true"}

NOTHING = Figures({}, 0, {}, {}, {}, {}, {}, {}, {})
WORKER = WorkerStatus("host-b/0", "cuda:0", "i", 7, "svd-xt", trained=True, ready_since=1.0, load_seconds=31.5)
FIGURES = Figures(
    jobs={"queued": 2, "finished": 5, "failed": 2, "expired": 1},
    created=11,
    messages_dropped=5,
    rejected={"not_an_image": 1},
    ended={"finished": 6, "failed": 2},
    failed={"out_of_memory": 1, "lost": 1},
    attempts={"started": 12, "finished": 6, "lost": 4},
    queues={("svd-xt", "exact"): QueueFigures(2, 12.5, 37.5), ("svd-xt", "draft"): QueueFigures(0, 0.0, None)},
    phases={("cuda:0", "sampling"): (6, 240.0), ("cuda:0", "decoding"): (6, 60.0), ("cpu", "sampling"): (1, 9.0)},
    steps={
        "cuda:0": Histogram.of({"0.3": 100, "+Inf": 50}, 240.0, STEP_BOUNDS),
        "cpu": Histogram.of({"0.5": 25}, 9.0, ()),
    },
    waits={("svd-xt", "exact"): Histogram.of({"5": 2, "60": 1}, 42.5, JOB_BOUNDS)},
    durations={("svd-xt", "exact", "finished"): Histogram.of({"60": 1}, 50.0, JOB_BOUNDS)},
    workers=[WORKER, replace(WORKER, worker="host-a/0", load_seconds=29.0, device_memory=DeviceMemory(80, 70, 60))],
    causes={("failed", "out_of_memory"): 1, ("lost", "worker_lost"): 4},
    redis_memory=(1_000, 4_000),
    webhooks={"delivered": 4, "given_up": 1},
    webhook_tries={"delivered": 4, "failed": 9},
    webhooks_pending=3,
    webhook_overdue=1.5,
    cache={"hit": 2, "miss": 7},
    damaged={"job": 1},
    refused_by_celery=2,
    moderation={("image", "reject"): 3},
    usage={"1f0c": Usage(submitted=3, failed=1, device_seconds=12.5, failed_device_seconds=2, frames=50, bytes=1_000)},
)
PARAMETERS = Parameters(1, 64, 64, 2, 4, 7, 127, 0.02, 1.0, 3.0, 2, Fit.CROP)


@dataclass
class FixedFigures:
    figures_: Figures

    def figures(self) -> Figures:
        return self.figures_


class Unreachable:
    def figures(self) -> Figures:
        raise UnavailableError("Redis cannot be reached")


def exposed(source: "FixedFigures | Unreachable | Stats") -> str:
    return generate_latest(registry(LedgerCollector(source))).decode()


def samples(text: str) -> dict[str, float]:
    return {
        sample.name + "".join(f"[{value}]" for _, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def names(families: Iterable[Metric]) -> list[tuple[str, str]]:
    return [(family.name, family.type) for family in families]


@pytest.fixture
def promtool() -> str:
    found = shutil.which("promtool")
    if not found:
        (pytest.fail if CI else pytest.skip)("no promtool (Debian: prometheus)")
    return found


def test_figures_of_the_ledger_are_exposed() -> None:
    shown = samples(exposed(FixedFigures(FIGURES)))
    expected = {
        "svd_ledger_up": 1,
        "svd_jobs[queued]": 2,
        "svd_jobs[finished]": 5,
        "svd_jobs[expired]": 1,
        "svd_jobs_created_total": 11,
        "svd_messages_dropped_total": 5,
        "svd_jobs_refused_total[not_an_image]": 1,
        "svd_jobs_ended_total[finished]": 6,
        "svd_jobs_ended_total[failed]": 2,
        "svd_jobs_failed_total[out_of_memory]": 1,
        "svd_attempts_total[started]": 12,
        "svd_attempts_total[lost]": 4,
        "svd_queue_length[svd-xt][exact]": 2,
        "svd_queue_length[svd-xt][draft]": 0,
        "svd_queue_oldest_seconds[svd-xt][exact]": 12.5,
        "svd_phase_seconds_count[cuda:0][sampling]": 6,
        "svd_phase_seconds_sum[cuda:0][sampling]": 240,
        "svd_step_seconds_count[cuda:0]": 150,
        "svd_step_seconds_bucket[cuda:0][0.2]": 0,
        "svd_step_seconds_bucket[cuda:0][0.3]": 100,
        "svd_step_seconds_bucket[cuda:0][60.0]": 100,
        "svd_step_seconds_bucket[cuda:0][+Inf]": 150,
        "svd_job_wait_seconds_bucket[5.0][svd-xt][exact]": 2,
        "svd_job_wait_seconds_bucket[+Inf][svd-xt][exact]": 3,
        "svd_job_wait_seconds_sum[svd-xt][exact]": 42.5,
        "svd_job_duration_seconds_bucket[30.0][svd-xt][exact][finished]": 0,
        "svd_job_duration_seconds_count[svd-xt][exact][finished]": 1,
        "svd_step_seconds_sum[cpu]": 9,
        "svd_webhooks_pending": 3,
        "svd_webhook_overdue_seconds": 1.5,
        "svd_webhooks_total[given_up]": 1,
        "svd_webhook_attempts_total[failed]": 9,
        "svd_workers_ready": 2,
        "svd_worker_ready[cuda:0][svd-xt][host-a/0]": 1,
        "svd_worker_load_seconds[cuda:0][host-b/0]": 31.5,
        "svd_attempts_in_vain_total[out_of_memory][failed]": 1,
        "svd_attempts_in_vain_total[worker_lost][lost]": 4,
        "svd_queue_predicted_wait_seconds[svd-xt][exact]": 37.5,
        "svd_device_memory_size_bytes[cuda:0][host-a/0]": 80,
        "svd_device_memory_used_bytes[cuda:0][host-a/0]": 70,
        "svd_device_memory_reserved_bytes[cuda:0][host-a/0]": 60,
        "svd_redis_memory_used_bytes": 1_000,
        "svd_usage_jobs_total[1f0c][submitted]": 3,
        "svd_usage_jobs_total[1f0c][failed]": 1,
        "svd_usage_device_seconds_total[1f0c][charged]": 12.5,
        "svd_usage_device_seconds_total[1f0c][failed]": 2,
        "svd_usage_frames_total[1f0c]": 50,
        "svd_usage_bytes_total[1f0c]": 1_000,
        "svd_redis_memory_max_bytes": 4_000,
    }
    assert {name: shown.get(name) for name in expected} == expected
    assert "svd_device_memory_used_bytes[cuda:0][host-b/0]" not in shown
    assert "svd_queue_predicted_wait_seconds[svd-xt][draft]" not in shown


@pytest.mark.parametrize("name", [each.name for each in fields(Figures)])
def test_no_figure_of_the_ledger_is_left_out(name: str) -> None:
    without = replace(FIGURES, **{name: getattr(NOTHING, name)})
    assert without != FIGURES, "FIGURES has no value for it"
    assert exposed(FixedFigures(without)) != exposed(FixedFigures(FIGURES))


def test_the_disk_of_the_data_folder_and_the_queue_limit_are_exposed(
    make_settings: Callable[..., Settings],
) -> None:
    settings = make_settings(SVD_LONGEST_WAIT=900)
    before = samples(generate_latest(registry(HostCollector(settings))).decode())
    assert before == {"svd_queue_bound_seconds": 900}  # the folder does not exist yet
    settings.data_dir.mkdir()
    shown = samples(generate_latest(registry(HostCollector(settings))).decode())
    assert shown["svd_data_size_bytes"] == shutil.disk_usage(settings.data_dir).total
    assert 0 < shown["svd_data_free_bytes"] <= shown["svd_data_size_bytes"]


def test_counters_without_events_start_at_zero() -> None:
    shown = samples(exposed(FixedFigures(NOTHING)))
    assert shown["svd_jobs[started]"] == 0
    assert shown["svd_jobs_ended_total[cancelled]"] == 0
    assert shown["svd_attempts_in_vain_total[worker_lost][lost]"] == 0
    assert shown["svd_jobs_refused_total[image_too_large]"] == 0
    assert shown["svd_attempts_total[released]"] == 0
    assert shown["svd_webhooks_total[given_up]"] == shown["svd_webhook_attempts_total[lost]"] == 0
    assert set(shown.values()) == {0, 1}


def test_an_unreachable_ledger_exposes_only_that_it_is_down() -> None:
    assert samples(exposed(Unreachable())) == {"svd_ledger_up": 0}


def test_without_redis_the_ledger_is_unreachable(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings(REDIS_URL="redis://127.0.0.1:1/0")
    assert samples(exposed(open_ledger(connect(settings), settings).stats)) == {"svd_ledger_up": 0}


def test_the_order_does_not_depend_on_that_of_the_figures() -> None:
    turned = replace(
        FIGURES,
        jobs=dict(reversed(FIGURES.jobs.items())),
        failed=dict(reversed(FIGURES.failed.items())),
        phases=dict(reversed(FIGURES.phases.items())),
        steps=dict(reversed(FIGURES.steps.items())),
        workers=FIGURES.workers[::-1],
    )
    assert exposed(FixedFigures(turned)) == exposed(FixedFigures(FIGURES))
    reasons = [
        line for line in exposed(FixedFigures(FIGURES)).splitlines() if line.startswith("svd_jobs_failed_total{")
    ]
    assert reasons == sorted(reasons)


def test_the_families_are_described_as_they_are_collected(settings: Settings) -> None:
    for collector in (LedgerCollector(FixedFigures(FIGURES)), HostCollector(settings)):
        assert names(collector.describe()) == names(collector.collect())


def test_registering_reads_nothing_and_a_single_family_can_be_requested() -> None:
    shown = generate_latest(registry(LedgerCollector(Unreachable())).restricted_registry(["svd_ledger_up"])).decode()
    assert samples(shown) == {"svd_ledger_up": 0}
    some = generate_latest(
        registry(LedgerCollector(FixedFigures(FIGURES))).restricted_registry(["svd_queue_length"])
    ).decode()
    assert samples(some) == {"svd_queue_length[svd-xt][exact]": 2, "svd_queue_length[svd-xt][draft]": 0}


@pytest.mark.parametrize(
    "source", [FixedFigures(FIGURES), FixedFigures(NOTHING), Unreachable()], ids=["busy", "new", "unreachable"]
)
def test_promtool_reports_no_problem(promtool: str, source: FixedFigures | Unreachable) -> None:
    check = subprocess.run(
        [promtool, "check", "metrics"], input=exposed(source), text=True, capture_output=True, check=False, timeout=60
    )
    assert (check.returncode, check.stdout, check.stderr) == (0, "", "")


def test_counts_of_the_real_ledger_outlive_every_process(
    redis_url: str, make_settings: Callable[..., Settings]
) -> None:
    settings = make_settings(REDIS_URL=redis_url)
    ledger = open_ledger(connect(settings), settings)
    finish_one_job(ledger)
    ledger.stats.count_rejected("broken_image")
    shown = samples(exposed(open_ledger(connect(settings), settings).stats))
    assert shown["svd_jobs[finished]"] == shown["svd_jobs_ended_total[finished]"] == 1
    assert shown["svd_jobs_created_total"] == shown["svd_jobs_refused_total[broken_image]"] == 1
    assert shown["svd_attempts_total[started]"] == shown["svd_attempts_total[finished]"] == 1
    assert shown["svd_phase_seconds_sum[cpu][sampling]"] == shown["svd_step_seconds_sum[cpu]"] == 1.5
    assert shown["svd_step_seconds_count[cpu]"] == shown["svd_step_seconds_bucket[cpu][0.5]"] == 4
    assert shown["svd_step_seconds_bucket[cpu][0.3]"] == 0
    assert shown["svd_job_wait_seconds_bucket[1.0][tiny][exact]"] == 1
    assert shown["svd_job_duration_seconds_bucket[1.0][tiny][exact][finished]"] == 1
    assert shown["svd_workers_ready"] == 0
    assert shown["svd_redis_memory_used_bytes"] > 0
    assert shown["svd_redis_memory_max_bytes"] == 0
    assert not any(name.startswith("svd_queue_predicted_wait_seconds") for name in shown)


def test_reported_device_memory_is_exposed_and_unknown_fields_of_newer_workers_are_ignored(
    redis_url: str, make_settings: Callable[..., Settings]
) -> None:
    settings = make_settings(REDIS_URL=redis_url)
    ledger = open_ledger(connect(settings), settings)
    ledger.workers.heartbeat(replace(WORKER, device_memory=DeviceMemory(size=80, used=70, reserved=60)))
    connect(settings).hset("svd:worker_status", "newer", msgspec.json.encode({**asdict(WORKER), "of_tomorrow": 1}))
    connect(settings).zadd("svd:workers", {"newer": time.time()})
    assert [status.device_memory for status in ledger.workers.ready()] == [DeviceMemory(80, 70, 60), None]
    assert samples(exposed(ledger.stats))["svd_device_memory_used_bytes[cuda:0][host-b/0]"] == 70


def test_failed_attempts_are_counted_by_cause(redis_url: str, make_settings: Callable[..., Settings]) -> None:
    settings = make_settings(REDIS_URL=redis_url, SVD_MAX_ATTEMPTS=3)
    ledger = open_ledger(connect(settings), settings)
    ledger.jobs.submit(Submission("job", parameters=PARAMETERS, model={}, input="inputs/job.png"))
    for end in (
        lambda claim: ledger.attempts.end_attempt(claim, AttemptOutcome.LOST),
        lambda claim: ledger.attempts.end_attempt(claim, AttemptOutcome.RETRIED, Failure("device_lost", "")),
        lambda claim: ledger.attempts.end_attempt(claim, AttemptOutcome.RELEASED),
        lambda claim: ledger.attempts.end_attempt(claim, AttemptOutcome.FAILED, Failure("out_of_memory", "")),
    ):
        claim = ledger.attempts.claim("job", Holder("host/0", "cpu", "i", 1))
        assert claim
        end(claim)
    assert ledger.stats.figures().causes == {
        ("lost", "worker_lost"): 1,
        ("retried", "device_lost"): 1,
        ("failed", "out_of_memory"): 1,
    }


def test_the_wait_at_the_end_of_the_queue_is_predicted_from_finished_jobs(
    redis_url: str, make_settings: Callable[..., Settings]
) -> None:
    settings = make_settings(REDIS_URL=redis_url)
    ledger = open_ledger(connect(settings), settings)
    ledger.workers.heartbeat(replace(WORKER, device="cpu", model="tiny"))
    assert ledger.stats.figures().queues["tiny", "exact"].predicted_wait is None  # the throughput is unknown
    finish_one_job(ledger)
    for number in range(3):
        ledger.jobs.submit(
            Submission(f"waiting-{number}", parameters=PARAMETERS, model={"name": "tiny"}, input="inputs/job.png")
        )
    waits = ledger.stats.figures().queues["tiny", "exact"].predicted_wait
    (last,) = ledger.estimates.estimate([ledger.jobs.find("waiting-2")])
    assert waits is not None
    assert last.eta_seconds is not None
    # A new job starts when the last waiting one has finished.
    assert waits == pytest.approx(last.eta_seconds, abs=0.1)
    assert waits > 3 * 1.5


def test_without_a_worker_there_is_no_predicted_wait(redis_url: str, make_settings: Callable[..., Settings]) -> None:
    settings = make_settings(REDIS_URL=redis_url)
    ledger = open_ledger(connect(settings), settings)
    ledger.jobs.submit(Submission("waiting", parameters=PARAMETERS, model={"name": "tiny"}, input="inputs/job.png"))
    assert ledger.stats.figures().queues["tiny", "exact"].predicted_wait is None


def test_the_server_answers_and_frees_its_port(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings(REDIS_URL="redis://127.0.0.1:1/0", SVD_EXPORTER_BIND="127.0.0.1:0")
    with serving(settings) as server:
        port = server.server_port
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            assert answer.headers["Content-Type"].startswith("text/plain; version=")
            assert samples(answer.read().decode()) == {"svd_ledger_up": 0, "svd_queue_bound_seconds": 3_600}
    with serving(make_settings(REDIS_URL="redis://127.0.0.1:1/0", SVD_EXPORTER_BIND=f"127.0.0.1:{port}")):
        pass


def test_an_address_without_a_host_is_every_interface(make_settings: Callable[..., Settings]) -> None:
    with serving(make_settings(REDIS_URL="redis://127.0.0.1:1/0", SVD_EXPORTER_BIND=":0")) as server:
        assert server.server_address[0] == "0.0.0.0"


@pytest.mark.parametrize("bind", ["9808", ":", "localhost", "localhost:port", "localhost:99999", "192.0.2.1:9808"])
def test_an_unusable_address_is_rejected_with_the_settings_name(
    make_settings: Callable[..., Settings], bind: str
) -> None:
    with pytest.raises(ConfigurationError, match="SVD_EXPORTER_BIND"), serving(make_settings(SVD_EXPORTER_BIND=bind)):
        pass


def test_the_command_logs_its_address_and_exits_cleanly_on_sigterm() -> None:
    with exporter_process(SVD_EXPORTER_BIND="127.0.0.1:0") as process:
        assert process.stderr
        assert "metrics on http://127.0.0.1:" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0


def test_the_command_rejects_a_wrong_setting_without_a_traceback() -> None:
    with exporter_process(SVD_EXPORTER_BIND="nowhere") as process:
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert stderr == "svd-service exporter: SVD_EXPORTER_BIND='nowhere': expected host:port\n"


def test_the_module_imports_neither_flask_nor_celery_nor_torch() -> None:
    program = "import sys, svd_service.telemetry.exporter; print(*{'flask', 'celery', 'torch'} & sys.modules.keys())"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert answer.stdout.strip() == ""


def test_the_exporter_shows_no_figures_of_its_own_process() -> None:
    assert "python_info" not in exposed(FixedFigures(FIGURES))


def exporter_process(**variables: str) -> "subprocess.Popen[str]":
    program = "from svd_service.telemetry.exporter import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", program], env=os.environ | variables, stderr=subprocess.PIPE, text=True
    )


def finish_one_job(ledger: Ledger) -> None:
    ledger.jobs.submit(Submission("job", parameters=PARAMETERS, model={"name": "tiny"}, input="inputs/job.png"))
    claim = ledger.attempts.claim("job", Holder("host/0", "cpu", "i", 1))
    assert claim
    result = Result("results/job/token.mp4", 10, "0" * 64, 64, 64, 2)
    ledger.attempts.finish(claim, result, device="cpu", seconds={"preparing": 0.25, "sampling": 1.5}, steps=4)
