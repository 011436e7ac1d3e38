"""When blocks are compiled, with a compiler that takes no time, and once with the real one."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from svd_service.jobs.parameters import Parameters
from svd_service.video.attention import split_rows
from svd_service.video.compilation import Compiled
from svd_service.video.encoder import Frame
from svd_service.video.loader import Generator
from svd_service.video.optimizations import AUTO, Optimization, apply
from tools.benchmark.architectures import ARCHITECTURES, Architecture, models, pipeline
from tools.harness.local import CI

MakeParameters = Callable[..., Parameters]
LoadModel = Callable[..., Generator]


class Calls:
    """A backend that runs the program as it is, and counts the programs and the runs."""

    def __init__(self) -> None:
        self.programs = self.runs = 0

    def __call__(self, program: Any, _: Any) -> Callable[..., Any]:
        self.programs += 1

        def run(*inputs: Any) -> Any:
            self.runs += 1
            return program(*inputs)

        return run


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    yield
    torch.compiler.reset()


@pytest.fixture
def calls() -> Calls:
    return Calls()


class Compiler:
    """A stand-in for `torch.compile` that counts runs: its program is the function that it was given."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self, forward: Callable[..., Any], **_: Any) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            self.runs += 1
            return forward(*args, **kwargs)

        return run


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self._chunk_size: int | None = None
        self.linear = nn.Linear(4, 4)

    def forward(self, inputs: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        return torch.relu(self.linear(inputs)) * scale


def test_only_shapes_seen_while_learning_are_compiled(calls: Calls) -> None:
    block = Block()
    compiled = Compiled(block, backend=calls)
    block(torch.ones(2, 4))
    assert calls.programs == 0
    with compiled.learning():
        block(torch.ones(2, 4))
    assert (calls.programs, calls.runs) == (1, 1)
    for other_call in (lambda: block(torch.ones(3, 4)), lambda: block(torch.ones(2, 4), scale=2.0)):
        other_call()
    block._chunk_size = 1
    block(torch.ones(2, 4))
    assert (calls.programs, calls.runs) == (1, 1), "another shape, another argument, another program"
    block._chunk_size = None
    assert torch.equal(block(torch.ones(2, 4)), compiled._eager(torch.ones(2, 4)))
    assert (calls.programs, calls.runs) == (1, 2)


def test_a_failed_learning_run_is_discarded(calls: Calls) -> None:
    block = Block()
    compiled = Compiled(block, backend=calls)

    def learn() -> None:
        with compiled.learning():
            block(torch.ones(2, 4))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        learn()
    block(torch.ones(2, 4))
    assert calls.runs == 1


def test_warming_up_compiles_the_models_own_size_and_other_sizes_run_uncompiled(
    tiny: Path,
    load_model: LoadModel,
    monkeypatch: pytest.MonkeyPatch,
    image: Image.Image,
    make_parameters: MakeParameters,
) -> None:
    compiler = Compiler()
    monkeypatch.setattr(torch, "compile", compiler)
    expected = frames_of(load_model(tiny), image, make_parameters())
    generator = load_model(tiny, SVD_OPTIMIZATIONS="compile")
    frames_of(generator, image, make_parameters())
    assert compiler.runs == 0
    generator.warm_up()
    compiler.runs = 0
    np.testing.assert_array_equal(frames_of(generator, image, make_parameters()), expected)
    assert compiler.runs == 3, "two steps and the full chunk; the remaining frames have another shape"
    for other in (
        make_parameters(num_frames=2, decode_chunk_size=1),
        make_parameters(max_guidance_scale=3.0, decode_chunk_size=3),
    ):
        frames_of(generator, image, other)
    assert compiler.runs == 3
    assert "compile" in generator.origin["optimizations"]


def test_if_compiling_fails_the_generator_continues_uncompiled(
    tiny: Path,
    load_model: LoadModel,
    monkeypatch: pytest.MonkeyPatch,
    image: Image.Image,
    make_parameters: MakeParameters,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(torch, "compile", lambda forward, **_: fail)
    generator = load_model(tiny, SVD_OPTIMIZATIONS="compile")
    generator.warm_up()
    assert "compilation disabled" in caplog.text
    assert "no compiler here" in caplog.text
    assert Optimization.COMPILE not in generator.optimizations
    assert generator.origin["optimizations"] == sorted(AUTO["cpu"])
    assert frames_of(generator, image, make_parameters()).shape == (3, 64, 64, 3)


def test_a_device_lost_while_compiling_is_an_error(
    tiny: Path, load_model: LoadModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch, "compile", lambda forward, **_: fail)
    generator = load_model(tiny, SVD_OPTIMIZATIONS="compile")
    with pytest.raises(torch.AcceleratorError):
        generator.warm_up()


def test_without_the_optimization_there_is_nothing_to_warm_up(
    generator: Generator, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "svd_service"):
        generator.warm_up()
    assert caplog.text == ""


def test_the_output_of_a_graph_outlives_the_next_run(monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[str | None] = []
    memory = torch.empty(2, 4)

    def record(forward: Callable[..., Any], mode: str | None = None, **_: Any) -> Callable[..., Any]:
        modes.append(mode)
        # As a graph does, each run writes into the same memory.
        return lambda *args: (memory.copy_(forward(*args)),)

    steps: list[None] = []
    monkeypatch.setattr(torch, "compile", record)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: steps.append(None))  # it loads inductor
    block = Block().eval().requires_grad_(requires_grad=False)
    compiled = Compiled(block, graphs=True)
    with compiled.learning():
        (first,) = block(torch.ones(2, 4))
        (second,) = block(torch.full((2, 4), -3.0))
    assert modes == ["reduce-overhead"]
    assert len(steps) == 2
    torch.testing.assert_close(first, compiled._eager(torch.ones(2, 4)))
    torch.testing.assert_close(second, compiled._eager(torch.full((2, 4), -3.0)))


@pytest.mark.parametrize("optimizations", ["compile", "compile,cuda_graphs"])
def test_the_unet_alone_is_recorded_as_graphs(
    tiny: Path, load_model: LoadModel, monkeypatch: pytest.MonkeyPatch, optimizations: str
) -> None:
    modes: list[str | None] = []

    def record(forward: Callable[..., Any], mode: str | None = None, **_: Any) -> Callable[..., Any]:
        modes.append(mode)
        return forward

    monkeypatch.setattr(torch, "compile", record)
    generator = load_model(tiny, SVD_OPTIMIZATIONS=optimizations)
    assert modes == [None, "reduce-overhead" if "cuda_graphs" in optimizations else None]
    assert set(optimizations.split(",")) <= set(generator.origin["optimizations"])


HALF = torch.float16

META = torch.device("meta")

TINY = ARCHITECTURES["tiny"]

#: The tiny architecture with one block of each kind.
TWO_BLOCKS = replace(
    TINY,
    unet={
        **TINY.unet,
        "block_out_channels": (32, 64),
        "num_attention_heads": (2, 4),
        "down_block_types": ("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        "up_block_types": ("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
    },
)


def arguments(part: str, frames: int, width: int, height: int, embedding: int) -> tuple[Any, ...]:
    """What the pipeline calls a part with: the UNet with guidance, the decoder for frames that it decodes at once."""
    if part == "decoder":
        return torch.empty(frames, 4, height // 8, width // 8, dtype=HALF), torch.zeros(1, frames, dtype=HALF), frames
    sample = torch.empty(2, frames, 8, height // 8, width // 8, dtype=HALF)
    image = torch.empty(2, 1, embedding, dtype=HALF)
    return sample, torch.empty(()), image, torch.empty(2, 3, dtype=HALF)


@pytest.mark.thorough
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("architecture", "part", "size"),
    [
        (TWO_BLOCKS, "unet", (3, 64, 64, 32)),
        (ARCHITECTURES["svd-xt"], "decoder", (4, 1024, 576, 0)),
        pytest.param(
            *(ARCHITECTURES["svd-xt"], "unet", (25, 1024, 576, 1024)),
            marks=pytest.mark.skipif(CI, reason="it takes a minute; the small one has the same kinds of layers"),
        ),
    ],
    ids=["unet with one block of each kind", "decoder", "unet"],
)
def test_each_part_is_one_program_without_a_graph_break(
    calls: Calls, architecture: Architecture, part: str, size: tuple[int, int, int, int]
) -> None:
    # On torch's meta device, tensors have shapes and no values.
    with META:
        parts = models(architecture, HALF)
    pipe = pipeline({name: each.to(META) for name, each in parts.items()})
    with META, torch.inference_mode():
        apply(pipe, AUTO["cuda"] - {Optimization.COMPILE})
        split_rows(pipe.unet)
        module = pipe.unet if part == "unet" else pipe.vae.decoder
        compiled = Compiled(module, backend=calls, fullgraph=True)
        with compiled.learning():
            module(*arguments(part, *size))
    assert (calls.programs, calls.runs) == (1, 1)


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")  # inductor's own
@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
def test_the_real_compiler_makes_nearly_the_same_numbers_and_caches_the_kernels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    inputs = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    block = Block().eval()
    expected = block(inputs)
    compiled = Compiled(block)
    with torch.inference_mode():
        with compiled.learning():
            block(inputs)
        torch.testing.assert_close(block(inputs), expected)
    assert any(path.suffix == ".so" for path in tmp_path.rglob("*"))


def frames_of(generator: Generator, image: Image.Image, parameters: Parameters) -> Frame:
    return np.stack(list(generator.generate(image, parameters, lambda _: None)))
