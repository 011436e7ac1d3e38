import json
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

from svd_service.errors import InvalidOutputError
from svd_service.jobs.job import Phase, Progress
from svd_service.jobs.parameters import Parameters
from svd_service.parameters import Format
from svd_service.video import Rendering, render, rendering
from svd_service.video.encoder import Encoder
from svd_service.video.loader import Generator
from svd_service.video.rendering import LIBRARIES
from svd_service.video.writer import Frame

MakeParameters = Callable[..., Parameters]
Make = Callable[..., tuple[bytes, Rendering]]


class StopError(Exception):
    pass


def ignore(progress: Progress) -> None:
    pass


@pytest.fixture
def make(tmp_path: Path, generator: Generator, image: Image.Image, make_parameters: MakeParameters) -> Make:
    def make_video(**changes: object) -> tuple[bytes, Rendering]:
        path = tmp_path / "video"
        rendering = render(generator, image, make_parameters(**changes), path, ignore)
        return path.read_bytes(), rendering

    return make_video


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(make: Make) -> None:
    (first, _), (again, _), (other, _) = make(seed=1), make(seed=1), make(seed=2)
    assert first == again
    assert first != other


def test_the_video_has_the_generated_frames(
    tmp_path: Path, generator: Generator, image: Image.Image, make_parameters: MakeParameters
) -> None:
    parameters = make_parameters(num_frames=5, fps=11)
    rendering = render(generator, image, parameters, tmp_path / "video", ignore)
    assert (rendering.width, rendering.height, rendering.frames) == (64, 64, 5)
    generated = list(generator.generate(image, parameters, ignore))
    with av.open(tmp_path / "video") as container:
        assert container.streams.video[0].average_rate == 11
        shown = [frame.to_ndarray(format="rgb24", src_colorspace="ITU709") for frame in container.decode(video=0)]
    # Random weights give coloured noise, of which 4:2:0 keeps little but the coarse.
    for one, other in zip(generated, shown, strict=True):
        coarse = [frame.reshape(8, 8, 8, 8, 3).mean(axis=(1, 3)) for frame in (one, other)]
        np.testing.assert_allclose(coarse[0], coarse[1], atol=12)


def test_progress_begins_with_preparing_and_ends_with_uploading(
    tmp_path: Path, generator: Generator, image: Image.Image, make_parameters: MakeParameters
) -> None:
    reports: list[Progress] = []
    render(generator, image, make_parameters(), tmp_path / "video", reports.append)
    assert reports[0] == Progress(Phase.PREPARING)
    assert Progress(Phase.SAMPLING, 2, 2) in reports
    assert reports[-2:] == [Progress(Phase.DECODING, 3, 3), Progress(Phase.UPLOADING)]
    fractions = [progress.fraction for progress in reports]
    assert fractions == sorted(fractions)


def test_provenance_has_everything_that_determines_the_pixels_and_the_durations(
    make: Make, make_parameters: MakeParameters
) -> None:
    _, rendering = make(seed=3)
    provenance = json.loads(json.dumps(rendering.provenance))
    assert provenance["parameters"] == json.loads(json.dumps(make_parameters(seed=3).to_dict()))
    assert provenance["model"]["name"] == "tiny"
    assert provenance["model"]["revision"] == "seed-0"
    assert provenance["model"]["trained"] is False
    assert provenance["device"].startswith("cpu (")
    assert provenance["precision"] == "float32"
    assert provenance["versions"].keys() == {"svd_service", *LIBRARIES}
    assert provenance["seconds"] == rendering.seconds
    assert rendering.seconds.keys() == {"preparing", "sampling", "decoding", "encoding"}
    assert all(seconds >= 0 for seconds in rendering.seconds.values())


def test_the_file_contains_its_provenance_without_durations(tmp_path: Path, make: Make) -> None:
    _, rendering = make(seed=3)
    with av.open(tmp_path / "video") as container:
        tags = container.metadata
    expected = {name: value for name, value in rendering.provenance.items() if name != "seconds"}
    del expected["parameters"]["formats"]
    assert json.loads(tags["comment"]) == json.loads(json.dumps(expected))
    assert tags["title"] == "tiny, seed 3"
    assert tags["encoder"].startswith("svd-service ")


@pytest.mark.parametrize("phase", [Phase.PREPARING, Phase.SAMPLING, Phase.DECODING])
def test_an_exception_of_the_progress_callback_is_raised_and_does_not_affect_the_next_video(
    tmp_path: Path, make: Make, generator: Generator, image: Image.Image, make_parameters: MakeParameters, phase: Phase
) -> None:
    expected, _ = make()
    error = StopError("cancelled")

    def stop(progress: Progress) -> None:
        if progress.phase is phase and progress.step == progress.steps:
            raise error

    with pytest.raises(StopError) as raised:
        render(generator, image, make_parameters(seed=5), tmp_path / "stopped", stop)
    assert raised.value is error
    assert make()[0] == expected


def test_a_write_error_ends_the_generation_and_does_not_affect_the_next_video(
    make: Make, generator: Generator, image: Image.Image, make_parameters: MakeParameters
) -> None:
    expected, _ = make()
    with pytest.raises(OSError, match="No space left on device"):
        render(generator, image, make_parameters(), Path("/dev/full"), ignore)
    assert make()[0] == expected


def test_every_format_has_the_same_frames_and_the_mp4_is_the_same_without_the_others(
    tmp_path: Path, make: Make, generator: Generator, image: Image.Image, make_parameters: MakeParameters
) -> None:
    alone, _ = make()
    paths: dict[Format, Path] = {kind: tmp_path / f"other-{kind}" for kind in Format if kind is not Format.MP4}
    parameters = make_parameters(formats=list(paths))
    reports: list[Progress] = []
    rendering = render(generator, image, parameters, tmp_path / "video", reports.append, further=paths)
    assert (tmp_path / "video").read_bytes() == alone
    assert rendering.provenance["parameters"]["formats"] == ("webm", "webp", "gif", "zip")
    frames = list(generator.generate(image, parameters, ignore))
    with zipfile.ZipFile(paths[Format.ZIP]) as archive:
        *images, provenance = archive.namelist()
        shown = [np.asarray(Image.open(archive.open(name))) for name in images]
        metadata = json.loads(archive.read(provenance))
    assert (images, provenance) == ([f"frame-000{number}.png" for number in (1, 2, 3)], "provenance.json")
    np.testing.assert_array_equal(frames, shown)
    assert (metadata["parameters"]["seed"], metadata["model"]["name"]) == (7, "tiny")
    for kind in (Format.GIF, Format.WEBP):
        with Image.open(paths[kind]) as moving:
            assert (moving.n_frames, moving.size) == (3, (64, 64))  # type: ignore[attr-defined]
    with av.open(paths[Format.WEBM]) as container:
        assert len(list(container.decode(video=0))) == 3


def test_a_write_error_of_a_further_file_ends_the_generation(
    tmp_path: Path, make: Make, generator: Generator, image: Image.Image, make_parameters: MakeParameters
) -> None:
    before = threading.active_count()
    with pytest.raises(OSError, match="No space left on device"):
        render(generator, image, make_parameters(), tmp_path / "video", ignore, further={Format.ZIP: Path("/dev/full")})
    assert threading.active_count() == before


def test_time_spent_waiting_for_an_encoder_does_not_count_as_decoding(
    tmp_path: Path,
    generator: Generator,
    image: Image.Image,
    make_parameters: MakeParameters,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put, clock = Encoder.put, 0.0

    def slowly(self: Encoder, frame: Frame) -> None:
        nonlocal clock
        clock += 100
        put(self, frame)

    monkeypatch.setattr(Encoder, "put", slowly)
    monkeypatch.setattr(rendering, "time", SimpleNamespace(monotonic=lambda: clock))
    seconds = render(generator, image, make_parameters(num_frames=8), tmp_path / "video", ignore).seconds
    assert (seconds["encoding"], seconds["decoding"]) == (800, 0)


def test_the_file_is_the_same_with_and_without_previews(
    tmp_path: Path, make: Make, generator: Generator, image: Image.Image, make_parameters: MakeParameters
) -> None:
    alone, _ = make()
    looks: list[bytes] = []
    render(
        generator,
        image,
        make_parameters(),
        tmp_path / "watched",
        ignore,
        on_preview=lambda preview: looks.append(preview()),
    )
    assert (tmp_path / "watched").read_bytes() == alone
    assert looks


def test_importing_the_package_does_not_import_torch() -> None:
    program = "import sys, svd_service.video; sys.exit('torch' in sys.modules or 'diffusers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.fixture
def broken(generator: Generator) -> Iterator[Callable[[str, float], None]]:
    """Fills a weight of a part of the model with a value for the duration of the test."""
    parts = {"unet": generator._pipe.unet, "vae": generator._pipe.vae.decoder}
    weights = {name: next(parameter for parameter in part.parameters()) for name, part in parts.items()}
    sound = {name: weight.detach().clone() for name, weight in weights.items()}

    def fill(part: str, value: float) -> None:
        with torch.no_grad():
            weights[part].fill_(value)

    yield fill
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(sound[name])


@pytest.mark.parametrize(("part", "what"), [("unet", "latents"), ("vae", "pixels")])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_output_is_an_error_and_no_black_video(
    make: Make, broken: Callable[[str, float], None], part: str, what: str, value: float
) -> None:
    broken(part, value)
    with pytest.raises(InvalidOutputError, match=f"computed {what} that are not finite"):
        make()


def test_a_dark_image_is_no_error(tmp_path: Path, generator: Generator, make_parameters: MakeParameters) -> None:
    black = Image.new("RGB", (64, 64))
    assert render(generator, black, make_parameters(), tmp_path / "video", ignore).frames > 0


def test_finite_black_frames_are_no_error(make: Make, monkeypatch: pytest.MonkeyPatch, generator: Generator) -> None:
    decode = generator._pipe.vae.decode

    def dark(*arguments: Any, **options: Any) -> Any:
        decoded = decode(*arguments, **options)
        decoded.sample.fill_(-1)
        return decoded

    monkeypatch.setattr(generator._pipe.vae, "decode", dark)
    video, rendering = make()
    assert (len(video) > 0, rendering.frames) == (True, 3)
