import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

from svd_service.jobs.job import Phase, Progress
from svd_service.jobs.model import Model
from svd_service.jobs.parameters import Parameters
from svd_service.ledger.workers import DeviceMemory
from svd_service.video import render
from svd_service.video.encoder import Frame
from svd_service.video.loader import Generator
from svd_service.video.memory_plan import MEMORY_PLANS, MemoryPlan
from svd_service.video.oom_fallback import MemoryUse, OOMFallback
from svd_service.video.pipeline import Pipeline

MakeParameters = Callable[..., Parameters]

USUAL = {"setting": "host", "split_guidance": False, "forward_chunking": False, "model_offload": False}


def frames_of(generator: Generator, image: Image.Image, parameters: Parameters) -> Frame:
    return np.stack(list(generator.generate(image, parameters, lambda _: None)))


@contextmanager
def out_of_memory(modules: list[Any], when: Callable[[torch.Tensor], bool]) -> Iterator[None]:
    """Makes `modules` raise torch's out-of-memory error when they are called with too large an input."""

    def check(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        if when(inputs[0]):
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate a lot.")

    with ExitStack() as hooks:
        for module in modules:
            hooks.enter_context(module.register_forward_pre_hook(check))
        yield


@contextmanager
def room_for_frames(generator: Generator, most: int) -> Iterator[None]:
    with out_of_memory([generator._pipe.vae.decoder], lambda latents: len(latents) > most):
        yield


def feed_forwards(generator: Generator) -> list[Any]:
    return [module for module in generator._pipe.unet.modules() if type(module).__name__ == "FeedForward"]


def test_without_a_fallback_the_memory_use_is_as_requested(
    generator: Generator, image: Image.Image, make_parameters: MakeParameters
) -> None:
    frames_of(generator, image, make_parameters(decode_chunk_size=3))
    assert generator.memory == {"decode_chunk_size": 3, **USUAL, "attempts": []}


@pytest.mark.parametrize(
    ("requested", "room", "effective", "tried"), [(4, 1, 1, [4, 2]), (50, 3, 2, [50]), (3, 2, 1, [3])]
)
def test_decoding_out_of_memory_is_retried_with_half_the_frames_without_resampling(
    generator: Generator,
    image: Image.Image,
    make_parameters: MakeParameters,
    requested: int,
    room: int,
    effective: int,
    tried: list[int],
) -> None:
    fast = frames_of(generator, image, make_parameters(num_frames=5, decode_chunk_size=requested))
    expected = frames_of(generator, image, make_parameters(num_frames=5, decode_chunk_size=effective))
    steps = 0

    def count(*_: Any) -> None:
        nonlocal steps
        steps += 1

    with room_for_frames(generator, room), generator._pipe.unet.register_forward_pre_hook(count):
        frames = frames_of(generator, image, make_parameters(num_frames=5, decode_chunk_size=requested))
    np.testing.assert_array_equal(frames, expected)
    assert steps == make_parameters().num_inference_steps
    assert generator.memory == {
        "decode_chunk_size": effective,
        **USUAL,
        "attempts": [{"phase": "decoding", "frame": 0, "decode_chunk_size": size, **USUAL} for size in tried],
    }
    np.testing.assert_array_equal(
        frames_of(generator, image, make_parameters(num_frames=5, decode_chunk_size=requested)),
        fast,
        "the next video uses the usual plan",
    )
    assert generator.memory["attempts"] == []


def test_running_out_of_memory_midway_repeats_one_chunk_and_keeps_earlier_frames(
    generator: Generator, image: Image.Image, make_parameters: MakeParameters
) -> None:
    expected = frames_of(generator, image, make_parameters(num_frames=6, decode_chunk_size=2))
    reports: list[Progress] = []
    frames = generator.generate(image, make_parameters(num_frames=6, decode_chunk_size=2), reports.append)
    made = [next(frames), next(frames)]
    with room_for_frames(generator, 1):
        made.extend(frames)
    assert [step.step for step in reports if step.phase is Phase.DECODING] == [0, 2, 3, 4, 5, 6]
    np.testing.assert_array_equal(np.stack(made)[:2], expected[:2])
    assert generator.memory["attempts"] == [{"phase": "decoding", "frame": 2, "decode_chunk_size": 2, **USUAL}]


def test_sampling_out_of_memory_is_retried_with_forward_chunking(
    generator: Generator, image: Image.Image, make_parameters: MakeParameters
) -> None:
    expected = frames_of(generator, image, make_parameters())
    with out_of_memory(feed_forwards(generator), lambda hidden: hidden.shape[0] > 1 and hidden.shape[1] > 1):
        frames = frames_of(generator, image, make_parameters())
    # The same arithmetic in another order.
    np.testing.assert_allclose(frames.astype(int), expected.astype(int), atol=1)
    assert generator.memory == {
        **USUAL,
        "decode_chunk_size": 2,
        "forward_chunking": True,
        "attempts": [{"phase": "sampling", "decode_chunk_size": 2, **USUAL}],
    }
    np.testing.assert_array_equal(frames_of(generator, image, make_parameters()), expected)
    assert generator.memory == {"decode_chunk_size": 2, **USUAL, "attempts": []}


def test_with_guidance_its_halves_are_split_first(
    generator: Generator, image: Image.Image, make_parameters: MakeParameters
) -> None:
    guided = make_parameters(max_guidance_scale=3.0)
    expected = frames_of(generator, image, guided)
    rows = []

    def note(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        rows.append(len(inputs[0]))

    inner = generator._pipe.unet.conv_in
    with out_of_memory([inner], lambda frames: len(frames) > guided.num_frames), inner.register_forward_pre_hook(note):
        frames = frames_of(generator, image, guided)
    np.testing.assert_allclose(frames.astype(int), expected.astype(int), atol=1)
    assert rows == [guided.num_frames] * 2 * guided.num_inference_steps
    assert generator.memory == {
        **USUAL,
        "decode_chunk_size": 2,
        "split_guidance": True,
        "attempts": [{"phase": "sampling", "decode_chunk_size": 2, **USUAL}],
    }
    np.testing.assert_array_equal(frames_of(generator, image, guided), expected)


@pytest.mark.parametrize("plan", MEMORY_PLANS[1:3], ids=lambda plan: plan.name)
def test_a_memory_plan_is_used_from_the_start_and_again_after_a_fallback(
    tiny: Path, generator: Generator, image: Image.Image, make_parameters: MakeParameters, plan: MemoryPlan
) -> None:
    pipe = Pipeline.from_pretrained(tiny)
    pipe.set_progress_bar_config(disable=True)
    planned = Generator(pipe, Model("tiny", str(tiny)), None, plan=plan)
    guided = make_parameters(max_guidance_scale=3.0, decode_chunk_size=3)
    expected = frames_of(generator, image, replace(guided, decode_chunk_size=plan.most_decoded or 3))
    usual = {
        "setting": plan.name,
        "decode_chunk_size": plan.most_decoded,
        "split_guidance": True,
        "forward_chunking": plan.forward_chunking,
        "model_offload": False,
    }
    np.testing.assert_allclose(frames_of(planned, image, guided).astype(int), expected.astype(int), atol=1)
    assert planned.memory == {**usual, "attempts": []}
    with room_for_frames(planned, 1):
        frames_of(planned, image, guided)
    assert planned.memory["decode_chunk_size"] == 1
    frames_of(planned, image, guided)
    assert planned.memory == {**usual, "attempts": []}


def test_the_video_and_its_provenance_have_the_effective_chunk_size(
    tmp_path: Path, generator: Generator, image: Image.Image, make_parameters: MakeParameters
) -> None:
    with room_for_frames(generator, 1):
        rendering = render(generator, image, make_parameters(), tmp_path / "video", lambda _: None)
    assert rendering.provenance["parameters"]["decode_chunk_size"] == 2
    assert json.loads(json.dumps(rendering.provenance))["memory"]["decode_chunk_size"] == 1
    with av.open(tmp_path / "video") as container:
        assert json.loads(container.metadata["comment"])["memory"] == rendering.provenance["memory"]


def test_out_of_memory_is_raised_if_every_fallback_fails(
    generator: Generator, image: Image.Image, make_parameters: MakeParameters
) -> None:
    with room_for_frames(generator, 0), pytest.raises(torch.OutOfMemoryError):
        frames_of(generator, image, make_parameters())
    assert [attempt["decode_chunk_size"] for attempt in generator.memory["attempts"]] == [2, 1]


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: out of memory\nSearch for `cudaErrorMemoryAllocation`."),
        RuntimeError("CUDA driver error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
    ],
    ids=["CUDA", "driver", "cuBLAS", "cuDNN", "Triton"],
)
def test_libraries_that_allocate_by_themselves_run_out_of_memory_too(
    generator: Generator, image: Image.Image, make_parameters: MakeParameters, error: Exception
) -> None:
    expected = frames_of(generator, image, make_parameters(decode_chunk_size=1))

    def fail(_: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        if len(inputs[0]) > room:
            raise error

    with generator._pipe.vae.decoder.register_forward_pre_hook(fail):
        room = 1
        np.testing.assert_array_equal(frames_of(generator, image, make_parameters()), expected)
        assert generator.memory["decode_chunk_size"] == 1
        room = 0
        with pytest.raises(torch.OutOfMemoryError, match=re.escape(str(error))):
            frames_of(generator, image, make_parameters())


class Offloading(SimpleNamespace):
    """Records the calls that the fallback makes to a pipeline on a CUDA device, without a device."""

    def __init__(self) -> None:
        super().__init__(calls=[], room=True, unet=torch.nn.Module())

    def enable_model_cpu_offload(self, device: torch.device) -> None:
        self.calls.append(f"offload from {device}")

    def remove_all_hooks(self) -> None:
        self.calls.append("remove hooks")

    def to(self, device: torch.device) -> None:
        if not self.room:
            raise torch.OutOfMemoryError
        self.calls.append(f"to {device}")


def fail_until(ready: Callable[[], bool]) -> Callable[..., str]:
    def act(*_: object) -> str:
        if not ready():
            raise torch.OutOfMemoryError
        return "done"

    return act


def test_on_cuda_the_last_fallback_is_to_offload_the_model() -> None:
    pipe = Offloading()
    fallback = OOMFallback(pipe, torch.device("cuda", 0))
    fallback.begin(4)
    assert fallback.sample(fail_until(lambda: bool(pipe.calls)), guided=True) == "done"
    assert fallback.use.to_dict() | {"attempts": []} == {
        "setting": "fast",
        "decode_chunk_size": 4,
        "split_guidance": True,
        "forward_chunking": True,
        "model_offload": True,
        "attempts": [],
    }
    fallback.begin(4)
    assert pipe.calls == ["offload from cuda:0", "remove hooks", "to cuda:0"]
    assert fallback.use.to_dict() == {**USUAL, "setting": "fast", "decode_chunk_size": 4, "attempts": []}


def test_a_model_that_does_not_fit_back_on_the_device_is_retried_with_the_next_video() -> None:
    pipe = Offloading()
    fallback = OOMFallback(pipe, torch.device("cuda", 0))
    fallback.begin(1)
    assert fallback.decode(fail_until(lambda: bool(pipe.calls)), 0, 1) == "done"
    pipe.room = False
    fallback.begin(1)
    assert fallback.use.model_offload
    with pytest.raises(torch.OutOfMemoryError):
        fallback.decode(fail_until(lambda: False), 0, 1)
    pipe.room = True
    fallback.begin(1)
    assert not fallback.use.model_offload


def test_the_plan_with_offload_is_offloaded_from_the_start_and_stays_so() -> None:
    pipe = Offloading()
    fallback = OOMFallback(pipe, torch.device("cuda", 0), MEMORY_PLANS[-1])
    for _ in range(2):
        fallback.begin(4)
        assert fallback.use == MemoryUse("least", 1, split_guidance=True, forward_chunking=True, model_offload=True)
    fallback.reset()
    assert pipe.calls == ["offload from cuda:0"]


def test_a_cpu_reports_no_device_memory(generator: Generator) -> None:
    assert generator.device_memory() is None


def test_a_cuda_device_reports_its_memory_use_and_a_broken_one_none(
    generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Stand-ins for the driver's answers; no GPU is used.
    monkeypatch.setattr(generator, "_place", torch.device("cuda", 0))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda place: (30, 100))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda place: 50)
    assert generator.device_memory() == DeviceMemory(size=100, used=70, reserved=50)

    def fail(place: torch.device) -> tuple[int, int]:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "mem_get_info", fail)
    assert generator.device_memory() is None
