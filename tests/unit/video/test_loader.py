import inspect
import logging
import os
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableVideoDiffusionPipeline
from PIL import Image

from svd_service.config import CPU_MODEL
from svd_service.jobs.job import Phase, Progress
from svd_service.jobs.model import Model
from svd_service.jobs.parameters import Parameters
from svd_service.video import loader
from svd_service.video.encoder import Frame
from svd_service.video.loader import Generator, ModelLoadError, _place
from svd_service.video.pipeline import Pipeline
from tools.harness import tiny_model

MakeParameters = Callable[..., Parameters]
LoadModel = Callable[..., Generator]


class StopError(Exception):
    pass


def ignore(progress: Progress) -> None:
    pass


def frames_of(generator: Generator, image: Image.Image, parameters: Parameters) -> Frame:
    return np.stack(list(generator.generate(image, parameters, ignore)))


def latents_of(generator: Generator, image: Image.Image, parameters: Parameters) -> torch.Tensor:
    """The latents after sampling, since decoding in half precision on a CPU takes seconds."""
    return generator._sample(image, parameters, ignore)


def stock_frames(pipe: Any, image: Image.Image, parameters: Parameters) -> Frame:
    takes = inspect.signature(StableVideoDiffusionPipeline.__call__).parameters
    values = {name: value for name, value in parameters.to_dict().items() if name in takes}
    generator = torch.Generator().manual_seed(parameters.seed)
    pixels = pipe(image, **values, generator=generator, output_type="np").frames[0]
    # As diffusers converts them to images (VaeImageProcessor.numpy_to_pil).
    return np.asarray((pixels * 255).round(), dtype=np.uint8)


@pytest.fixture(scope="session")
def stock(tiny: Path) -> Any:
    pipe = StableVideoDiffusionPipeline.from_pretrained(tiny, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="session")
def half(tmp_path_factory: pytest.TempPathFactory) -> Generator:
    """The tiny model in half precision with a VAE that encodes in single precision, as on CUDA, but on the CPU."""
    folder = tiny_model.build(tmp_path_factory.mktemp("models") / "half", variant="fp16")
    pipe = Pipeline.from_pretrained(folder, dtype=torch.float16, variant="fp16")
    pipe.set_progress_bar_config(disable=True)
    return Generator(pipe, Model(name="half", source=str(folder)), None)


@pytest.mark.parametrize(
    "changes",
    [
        {"decode_chunk_size": 1},
        {"decode_chunk_size": 2},
        {"decode_chunk_size": 3},
        {"decode_chunk_size": 50},
        {"max_guidance_scale": 3.0},
        {"min_guidance_scale": 2.0, "max_guidance_scale": 2.0, "num_frames": 2},
        {"width": 96, "num_inference_steps": 1, "fps": 30, "motion_bucket_id": 1, "noise_aug_strength": 0.5},
    ],
    ids=str,
)
def test_the_frames_are_bit_identical_to_those_of_the_stock_pipeline(
    generator: Generator, stock: Any, image: Image.Image, make_parameters: MakeParameters, changes: dict[str, Any]
) -> None:
    parameters = make_parameters(**changes)
    image = image.resize((parameters.width, parameters.height))
    frames = frames_of(generator, image, parameters)
    assert frames.shape == (parameters.num_frames, parameters.height, parameters.width, 3)
    assert frames.dtype == np.uint8
    assert frames.std() > 1
    np.testing.assert_array_equal(frames, stock_frames(stock, image, parameters))


def test_the_frames_are_those_of_the_stock_pipeline_in_half_precision_too(
    half: Generator, image: Image.Image, make_parameters: MakeParameters, capfd: pytest.CaptureFixture[str]
) -> None:
    pipe = StableVideoDiffusionPipeline(**half._pipe.components)
    pipe.set_progress_bar_config(disable=True)
    parameters = make_parameters(max_guidance_scale=3.0, num_frames=2, num_inference_steps=1)
    frames = frames_of(half, image, parameters)
    assert frames.std() > 1
    np.testing.assert_array_equal(frames, stock_frames(pipe, image, parameters))
    assert half._pipe.vae.dtype == torch.float16
    assert half.origin["precision"] == "float16"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("greatest", [1.0002, 1 + 1e-12])
def test_a_guidance_that_rounds_to_one_is_disabled(
    half: Generator, image: Image.Image, make_parameters: MakeParameters, greatest: float
) -> None:
    latents = latents_of(half, image, make_parameters(max_guidance_scale=greatest))
    assert torch.equal(latents, latents_of(half, image, make_parameters(max_guidance_scale=1.0)))


def test_the_decode_chunk_size_changes_the_pixels(
    generator: Generator, image: Image.Image, make_parameters: MakeParameters
) -> None:
    one, three = (frames_of(generator, image, make_parameters(decode_chunk_size=size)) for size in (1, 3))
    assert (one != three).any()


def test_the_same_seed_gives_the_same_frames_and_another_seed_others(
    generator: Generator, image: Image.Image, make_parameters: MakeParameters
) -> None:
    first, again, other = (frames_of(generator, image, make_parameters(seed=seed)) for seed in (7, 7, 2**32 - 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_progress_reports_preparing_each_step_and_the_frames_of_each_chunk(
    generator: Generator, image: Image.Image, make_parameters: MakeParameters
) -> None:
    reports: list[Progress] = []
    for _ in generator.generate(image, make_parameters(), reports.append):
        pass
    assert reports == [
        Progress(Phase.PREPARING),
        Progress(Phase.SAMPLING, 0, 2),
        Progress(Phase.SAMPLING, 1, 2),
        Progress(Phase.SAMPLING, 2, 2),
        Progress(Phase.DECODING, 0, 3),
        Progress(Phase.DECODING, 2, 3),
        Progress(Phase.DECODING, 3, 3),
    ]


@pytest.mark.parametrize(
    "moment",
    [
        Progress(Phase.PREPARING),
        Progress(Phase.SAMPLING, 0, 2),
        Progress(Phase.SAMPLING, 1, 2),
        Progress(Phase.DECODING, 2, 3),
    ],
    ids=lambda progress: f"{progress.phase} {progress.step}",
)
def test_a_stopped_run_does_not_affect_the_next(
    generator: Generator, image: Image.Image, make_parameters: MakeParameters, moment: Progress
) -> None:
    expected = frames_of(generator, image, make_parameters())
    reports: list[Progress] = []

    def stop(progress: Progress) -> None:
        reports.append(progress)
        if progress == moment:
            raise StopError

    with pytest.raises(StopError):
        list(generator.generate(image, make_parameters(seed=99, max_guidance_scale=3.0), stop))
    assert reports[-1] == moment
    np.testing.assert_array_equal(frames_of(generator, image, make_parameters()), expected)


def test_frames_are_not_decoded_after_the_generator_is_closed(
    generator: Generator, image: Image.Image, make_parameters: MakeParameters
) -> None:
    reports: list[Progress] = []
    frames = generator.generate(image, make_parameters(decode_chunk_size=1), reports.append)
    next(frames)
    frames.close()
    assert reports[-1] == Progress(Phase.DECODING, 1, 3)


def run_out_of_memory(*_: Any) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_out_of_memory_is_raised_unchanged_and_leaves_the_generator_usable(
    generator: Generator, image: Image.Image, make_parameters: MakeParameters, part: str
) -> None:
    expected = frames_of(generator, image, make_parameters())
    module = generator._pipe.components[part]
    broken = getattr(module, "decoder", module).register_forward_pre_hook(run_out_of_memory)
    with broken, pytest.raises(torch.OutOfMemoryError):
        frames_of(generator, image, make_parameters())
    np.testing.assert_array_equal(frames_of(generator, image, make_parameters()), expected)


@pytest.mark.parametrize(("lost", "kind"), [(True, torch.AcceleratorError), (False, RuntimeError)])
def test_a_lost_device_is_detected_whichever_library_reports_it_first(
    generator: Generator,
    image: Image.Image,
    make_parameters: MakeParameters,
    monkeypatch: pytest.MonkeyPatch,
    lost: bool,
    kind: type,
) -> None:
    def synchronise() -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    def fail(*_: Any) -> None:
        if lost:
            monkeypatch.setattr(generator, "_synchronise", synchronise)
        raise RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered")

    with generator._pipe.unet.register_forward_pre_hook(fail), pytest.raises(RuntimeError) as raised:
        frames_of(generator, image, make_parameters())
    assert raised.type is kind


def test_out_of_memory_while_encoding_the_image_leaves_the_vae_in_half_precision(
    half: Generator, image: Image.Image, make_parameters: MakeParameters
) -> None:
    expected = latents_of(half, image, make_parameters())
    precisions = []

    def run_out(module: Any, _: Any) -> None:
        precisions.append(next(module.parameters()).dtype)
        run_out_of_memory()

    with half._pipe.vae.encoder.register_forward_pre_hook(run_out), pytest.raises(torch.OutOfMemoryError):
        frames_of(half, image, make_parameters())
    assert set(precisions) == {torch.float32}
    assert half._pipe.vae.dtype == torch.float16
    assert torch.equal(latents_of(half, image, make_parameters()), expected)


def test_only_one_chunk_of_frames_is_in_memory(
    generator: Generator, image: Image.Image, make_parameters: MakeParameters
) -> None:
    alive: list[weakref.ref[Any]] = []
    most = 0
    for frame in generator.generate(image, make_parameters(num_frames=9, decode_chunk_size=2), ignore):
        alive.append(weakref.ref(frame.base))
        chunks = {id(chunk): len(chunk) for chunk in (made() for made in alive) if chunk is not None}
        most = max(most, sum(chunks.values()))
    assert len(alive) == 9
    assert most == 2


@pytest.mark.parametrize("other", [("L", (64, 64)), ("RGB", (64, 72))])
def test_an_image_of_another_size_or_mode_is_rejected(
    generator: Generator, make_parameters: MakeParameters, other: tuple[str, tuple[int, int]]
) -> None:
    with pytest.raises(ValueError, match="expected an RGB image of"):
        next(generator.generate(Image.new(*other), make_parameters(), ignore))


def test_the_built_in_small_model_makes_a_video(
    load_model: LoadModel, image: Image.Image, make_parameters: MakeParameters
) -> None:
    generator = load_model(CPU_MODEL)
    frames = frames_of(generator, image, make_parameters(num_frames=2))
    assert frames.shape == (2, 64, 64, 3)
    assert frames.std() > 5
    assert generator.origin["model"]["name"] == "nano"
    assert generator.origin["precision"] == "float32"


def test_random_weights_are_logged_as_untrained(
    tiny: Path, load_model: LoadModel, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "svd_service"):
        generator = load_model(tiny)
    assert generator.origin["model"]["trained"] is False
    assert any(record.levelname == "WARNING" and "untrained" in record.message for record in caplog.records)


def test_neither_loading_nor_generating_shows_a_progress_bar(
    tiny: Path,
    load_model: LoadModel,
    image: Image.Image,
    make_parameters: MakeParameters,
    capfd: pytest.CaptureFixture[str],
) -> None:
    frames_of(load_model(tiny), image, make_parameters())
    assert capfd.readouterr() == ("", "")


def test_the_origin_of_a_folder_model_does_not_reveal_its_path(tiny: Path, generator: Generator) -> None:
    assert generator.origin["model"] == {"name": "tiny", "source": tiny.name, "revision": "seed-0", "trained": False}
    assert generator.device.startswith("cpu (")


@pytest.mark.parametrize(
    ("setting", "processes", "threads"), [(3, 1, 3), (0, os.cpu_count() or 1, 1), (0, 1 + (os.cpu_count() or 1), 1)]
)
def test_the_cores_are_shared_among_the_processes_unless_a_setting_overrides_it(
    tiny: Path, load_model: LoadModel, setting: int, processes: int, threads: int
) -> None:
    before = torch.get_num_threads()
    try:
        load_model(tiny, SVD_CPU_THREADS=setting, SVD_DEVICES=",".join(["cpu"] * processes))
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("visible", "device", "index"),
    [(1, "0", 0), (1, "3", 0), (1, "GPU-8932f937", 0), (4, "0", 0), (4, "3", 3)],
    ids=str,
)
def test_a_pinned_process_uses_its_only_visible_device_and_others_index_all(
    monkeypatch: pytest.MonkeyPatch, visible: int, device: str, index: int
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: visible)
    assert _place(device) == torch.device("cuda", index)


def test_a_name_without_its_pin_is_reported_with_the_variable_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ModelLoadError, match=r"CUDA_VISIBLE_DEVICES=GPU-8932f937"):
        _place("GPU-8932f937")


@pytest.mark.skipif(torch.cuda.device_count() > 0, reason="there is a CUDA device")
def test_the_message_for_a_missing_cuda_device_suggests_the_cpu(tiny: Path, load_model: LoadModel) -> None:
    with pytest.raises(ModelLoadError, match=r"no CUDA device 1.*SVD_DEVICES=cpu"):
        load_model(tiny, device="1")


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Pretends that there is one CUDA device; tests replace more functions of torch."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda place: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_80", "sm_90", "compute_90"])
    return monkeypatch


def test_a_driver_that_is_too_old_is_reported_when_the_model_is_loaded(
    tiny: Path, load_model: LoadModel, cuda: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040).\nUpdate it.")

    cuda.setattr(torch.cuda, "init", fail)
    with pytest.raises(ModelLoadError, match=r"driver on your system is too old \(found version 11040\)\..*nvidia-smi"):
        load_model(tiny, device="0")


def test_a_device_not_supported_by_this_build_of_torch_is_reported_when_the_model_is_loaded(
    tiny: Path, load_model: LoadModel, cuda: pytest.MonkeyPatch
) -> None:
    cuda.setattr(torch.cuda, "get_device_capability", lambda place: (6, 1))
    with pytest.raises(ModelLoadError, match=r"compute capability 6\.1, and torch .* is built for sm_80, sm_90"):
        load_model(tiny, device="0")


@pytest.mark.parametrize(
    ("capability", "architectures", "runs"),
    [
        ((9, 0), ["sm_80", "sm_90"], True),
        ((8, 6), ["sm_80", "sm_90"], True),  # machine code of the same major version
        ((8, 0), ["sm_86"], False),  # of a newer minor version
        ((12, 0), ["sm_80", "sm_90"], False),
        ((12, 0), ["sm_90", "compute_90"], True),  # compiled by the driver from PTX
        ((9, 0), ["sm_90a"], True),
        ((10, 0), ["sm_90a", "sm_100"], True),
        ((12, 1), ["sm_120a"], False),
        ((6, 1), ["compute_70"], False),
        ((9, 0), [], True),  # unknown architecture
    ],
)
def test_a_build_of_torch_supports_a_device_if_it_has_code_for_it(
    capability: tuple[int, int], architectures: list[str], runs: bool
) -> None:
    assert loader._runs(capability, architectures) is runs


def test_cudnn_benchmarking_is_off(generator: Generator) -> None:
    assert not torch.backends.cudnn.benchmark


def truncate(folder: Path) -> None:
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def remove_weights(folder: Path) -> None:
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()


def remove_part(folder: Path) -> None:
    shutil.rmtree(folder / "image_encoder")


def garble_index(folder: Path) -> None:
    (folder / "model_index.json").write_text("{")


def swap_parts(folder: Path) -> None:
    shutil.copytree(folder / "vae", folder / "unet", dirs_exist_ok=True)


@pytest.mark.parametrize("damage", [truncate, remove_weights, remove_part, garble_index, swap_parts])
def test_a_broken_folder_is_reported_with_its_path(
    tmp_path: Path, tiny: Path, load_model: LoadModel, damage: Callable[[Path], None]
) -> None:
    folder = Path(shutil.copytree(tiny, tmp_path / "broken"))
    damage(folder)
    with pytest.raises(ModelLoadError, match=f"{folder} cannot be loaded .* Copy or fetch it anew"):
        load_model(folder)
