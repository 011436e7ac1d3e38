"""The device's benchmark at toy size: each optimization and profile is run, and implausible results are rejected."""

import gc
import importlib.util
import json
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from svd_service.parameters import Profile
from svd_service.video.optimizations import AUTO, COMPILING, CPU_ONLY, Optimization
from tools.benchmark import architectures, device

TINY = ("device", "--architecture", "tiny", "--random-weights", "--device", "cpu", "--repeats", "1")


@pytest.fixture(autouse=True)
def _one_thread():
    """The operations are too small for several threads, which would wait for each other for seconds."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    monkeypatch.setitem(device.MATRIX, "cpu", 64)
    monkeypatch.setattr(device, "PRODUCTS", 2)
    script = importlib.import_module("tools.benchmark.__main__")

    def run(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["benchmark.py", *words])
        monkeypatch.setattr("signal.signal", lambda *_: None)
        return int(script.main())

    return run


def test_every_optimization_is_switched_and_every_profile_run():
    for kind, usual in AUTO.items():
        by_name = {case.name: case for case in device.cases(kind)}
        optimizations = [case.optimizations for case in by_name.values()]
        uncompiled = usual - {Optimization.COMPILE}
        assert frozenset() in optimizations
        for optimization in set(Optimization) - COMPILING - (CPU_ONLY if kind == "cuda" else set()):
            assert uncompiled ^ {optimization} in optimizations
        assert {case.profile for case in by_name.values()} == set(Profile)
        assert len(by_name) == len(device.cases(kind))
    names = [case.name for case in device.cases("cpu")]
    assert names[-2:] == ["defaults, with compile", "defaults, again"], "what may take longest comes last"
    names = [case.name for case in device.cases("cuda")]
    assert "uncompiled" in names
    assert names[-2:] == ["defaults, with cuda_graphs", "defaults, again"]
    assert {case.plan.name for case in device.cases("cuda")} >= {"fast", "small", "least"}


@pytest.mark.thorough
def test_the_device_benchmark_reports_phases_shares_and_memory(benchmark, tmp_path: Path):
    assert benchmark(*TINY, "--cases", "plain", "draft", "lerp") == 0
    result = json.loads((tmp_path / "benchmark-device.json").read_text())
    assert list(result["cases"]) == ["plain", "draft profile", "defaults, with lerp"]
    for case in result["cases"].values():
        assert set(case["phases"]) == {"preparing", "sampling", "decoding", "encoding"}
        assert case["seconds"]["median"] > 0
        assert case["mfu"]["whole"] > 0
        assert case["peak_gb"] > 0
    assert all(amount > 0 for amount in result["tflop"].values())
    assert result["ceilings"]["tflops"] > 0


@pytest.fixture
def no_automatic_collection() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.thorough
@pytest.mark.usefixtures("no_automatic_collection")
def test_no_case_is_measured_while_the_pipeline_of_another_is_in_memory(benchmark, monkeypatch: pytest.MonkeyPatch):
    build, alive = architectures.build, []
    unets: list[weakref.ref[Any]] = []

    def watched(*args):
        alive.append(sum(unet() is not None for unet in unets))
        pipe = build(*args)
        unets.append(weakref.ref(pipe.unet))
        return pipe

    monkeypatch.setattr(architectures, "build", watched)
    assert benchmark(*TINY, "--cases", "plain", "draft") == 0
    assert alive == [0, 0, 0]  # once for the FLOP count, and once for each case


@pytest.mark.thorough
def test_a_case_that_could_not_be_compiled_is_not_listed_as_compiled(
    benchmark, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    def no_compiler(*_, **__):
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr("svd_service.video.compilation.torch.compile", lambda *_, **__: no_compiler)
    assert benchmark(*TINY, "--cases", "with compile") == 0
    result = json.loads((tmp_path / "benchmark-device.json").read_text())
    assert "compile" not in result["cases"]["defaults, with compile"]["optimizations"]


def test_the_schedulers_tables_stay_on_the_host_wherever_the_model_is_created():
    # NumPy reads them; the meta device stands for any device other than the host.
    pipe = architectures.build(architectures.ARCHITECTURES["tiny"], torch.device("meta"), torch.float16)
    assert pipe.unet.device.type == "meta"
    pipe.scheduler.set_timesteps(2, device="cpu")
    assert len(pipe.scheduler.timesteps) == 2


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore:invalid value encountered in cast:RuntimeWarning")
@pytest.mark.parametrize(("weight", "reason"), [(float("nan"), "not finite"), (0.0, "constant")])
def test_a_model_that_makes_no_image_yields_no_result(
    benchmark, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], weight: float, reason: str
):
    build = architectures.build

    def broken(*args):
        pipe = build(*args)
        with torch.no_grad():
            pipe.vae.decoder.conv_out.weight.fill_(weight)
            pipe.vae.decoder.conv_out.bias.fill_(weight)
            pipe.vae.decoder.time_conv_out.weight.fill_(weight)
        return pipe

    monkeypatch.setattr(architectures, "build", broken)
    assert benchmark(*TINY, "--cases", "again") == 2
    assert reason in capsys.readouterr().err


@pytest.mark.thorough
def test_results_are_written_to_disk_before_the_next_case_begins(
    benchmark, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    seen = []
    build = architectures.build

    def watched(*args):
        path = tmp_path / "benchmark-device.json"
        seen.append(list(json.loads(path.read_text())["cases"]) if path.exists() else None)
        return build(*args)

    monkeypatch.setattr(architectures, "build", watched)
    assert benchmark(*TINY, "--cases", "plain", "draft") == 0
    assert seen == [None, None, ["plain"]]  # once for the FLOP count, and once for each case


def test_a_case_that_fails_does_not_keep_the_others_from_being_measured(
    benchmark, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    def fail(measurement, case, folder):
        raise RuntimeError(f"no {case.name} on this device\nand more")

    monkeypatch.setattr(device._Measurement, "_measure", fail)
    assert benchmark(*TINY, "--bars", "--cases", "plain", "draft") == 1
    result = json.loads((tmp_path / "benchmark-device.json").read_text())
    assert result["failed"] == {name: f"RuntimeError: no {name} on this device" for name in ("plain", "draft profile")}


def test_what_is_prepared_is_measured_on_the_devices_that_can_compute_it():
    changed = {kind: [case.name for case in device.cases(kind) if case.change is not None] for kind in AUTO}
    assert changed == {"cpu": ["DeepCache", "guidance band"], "cuda": ["DeepCache", "guidance band", "FP8"]}


def test_no_case_begins_that_would_end_too_late(benchmark, tmp_path: Path):
    assert benchmark(*TINY, "--cases", "plain", "draft", "--seconds", "0.001") == 0
    result = json.loads((tmp_path / "benchmark-device.json").read_text())
    assert (result["cases"], result["planned"]) == ({}, ["plain", "draft profile"])
