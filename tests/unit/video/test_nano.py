"""The built-in model on photographs that it was not trained on, from a photo's bytes to the MP4's frames.

The measures are those of its training program (`python -m tools.nano.evaluate`), and so are the figures of its card.
"""

import io
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLTemporalDecoder
from numpy.typing import NDArray
from PIL import Image

from svd_service.config import CPU_MODEL, Settings
from svd_service.jobs.images.opening import open_image
from svd_service.jobs.job import Progress
from svd_service.jobs.model import Model
from svd_service.jobs.parameters import Parameters, VideoRequest
from svd_service.video import preview, render
from svd_service.video.loader import Generator
from tests.samples import IMAGES
from tools.nano import motion
from tools.nano.measures import (
    CONTROL_SHIFT,
    best_match,
    blue_sky,
    decoder_error,
    flicker,
    last_frame_psnr,
    moved,
    pixels_moved,
    psnr,
    strongest_line,
    strongest_patch_wave,
)
from tools.nano.motion import ARCS, PANS, PULL_OUT, PUSH_IN, Move

PHOTOS = ("astronaut", "chelsea", "coffee", "rocket")

#: A quarter of the usual pixels, and of the time, for tests that do not depend on the size.
SMALL = {"width": 256, "height": 144}

#: The moves of the last frames' figures: one of each kind that differs in what it does to a picture.
MOVES = {"astronaut": PUSH_IN, "chelsea": ARCS[0], "coffee": PANS[3], "rocket": PULL_OUT}

#: A video takes fifteen seconds on an idle core, and several times as long beside other load.
pytestmark = pytest.mark.timeout(600)

#: One photo in every run; the others, which take minutes, in thorough ones.
CASES = [name if name == "rocket" else pytest.param(name, marks=pytest.mark.thorough) for name in PHOTOS]


@dataclass(frozen=True)
class Film:
    """`photo` is the first image of the video, (height, width, 3); `frames` are the decoded frames of `file`."""

    photo: NDArray[np.uint8]
    frames: NDArray[np.uint8]
    file: bytes


Shoot = Callable[..., Film]


def ignore(progress: Progress) -> None:
    pass


def shown(file: Path) -> NDArray[np.uint8]:
    with av.open(file) as container:
        frames = [frame.to_ndarray(format="rgb24", src_colorspace="ITU709") for frame in container.decode(video=0)]
    return np.stack(frames).astype(np.uint8)


@pytest.fixture(scope="session")
def nano(load_model: Callable[..., Generator]) -> Generator:
    return load_model(CPU_MODEL)


def seed_of(move: Move, width: int = 512, height: int = 288) -> int:
    """The first seed that makes a move."""
    return motion.first_seeds([move], width, height)[move]


def read(photo: str | bytes, values: dict[str, Any]) -> tuple[Parameters, Image.Image]:
    """The parameters of a request, and the photo as the model gets it."""
    settings = Settings.from_mapping({"SVD_DEVICES": "cpu"})
    with open_image(photo if isinstance(photo, bytes) else (IMAGES / f"{photo}.jpg").read_bytes(), settings) as image:
        parameters = VideoRequest(**{"seed": 1} | values).resolve(Model.of(settings), image.size)
        return parameters, image.fitted(parameters.width, parameters.height, parameters.fit)


@pytest.fixture(scope="session")
def shoot(nano: Generator, tmp_path_factory: pytest.TempPathFactory) -> Shoot:
    """Makes the video of a photo as the service would; keywords are the caller's values. `take` makes it again."""
    folder, films = tmp_path_factory.mktemp("films"), dict[Any, Film]()

    def shoot_it(photo: str | bytes, take: int = 1, **values: Any) -> Film:
        key = (photo, take, *sorted(values.items()))
        if key not in films:
            parameters, image = read(photo, values)
            path = folder / f"{len(films)}.mp4"
            render(nano, image, parameters, path, ignore)
            films[key] = Film(np.asarray(image), shown(path), path.read_bytes())
        return films[key]

    return shoot_it


def test_without_cuda_it_is_the_default_and_small_enough_for_the_package() -> None:
    model = Model.of(Settings.from_mapping({"SVD_DEVICES": "cpu"}))
    assert (model.name, model.source, model.trained) == ("nano", CPU_MODEL, True)
    assert sum(path.stat().st_size for path in Path(CPU_MODEL).rglob("*") if path.is_file()) <= 32e6


@pytest.mark.parametrize("name", CASES)
def test_the_first_frame_shows_the_photo_at_its_place_and_no_other_photo(shoot: Shoot, name: str) -> None:
    film = shoot(name)
    assert film.frames.shape == (25, 288, 512, 3)
    likeness = psnr(film.frames[0], film.photo)
    another = np.asarray(read(PHOTOS[PHOTOS.index(name) - 1], {})[1])
    assert likeness >= 27
    assert likeness >= psnr(film.frames[0], another) + 10
    assert likeness >= psnr(film.frames[0], moved(film.photo, PANS[0], CONTROL_SHIFT)[0]) + 5


@pytest.mark.thorough
def test_the_first_frames_meet_the_mean_figure_of_the_model_card(shoot: Shoot) -> None:
    assert np.mean([psnr(film.frames[0], film.photo) for film in map(shoot, PHOTOS)]) >= 29.5


@pytest.mark.parametrize("name", CASES)
def test_the_last_frame_shows_the_photo_after_the_cameras_movement(shoot: Shoot, name: str) -> None:
    film = shoot(name)
    likeness = last_frame_psnr(film.frames, film.photo, motion.of_seed(1, 512, 288), 127)
    assert likeness >= 24
    assert likeness >= psnr(film.frames[-1], film.photo) + 2


@pytest.mark.thorough
@pytest.mark.parametrize("name", PHOTOS)
def test_the_largest_bucket_moves_twice_as_far_and_the_photo_stays_sharp(shoot: Shoot, name: str) -> None:
    move = MOVES[name]
    film = shoot(name, motion_bucket_id=255, seed=seed_of(move))
    assert last_frame_psnr(film.frames, film.photo, move, 255) >= 22
    assert pixels_moved(film.frames[-1], film.photo, move) == pytest.approx(motion.MAX_PIXELS, rel=0.1)


@pytest.mark.parametrize("size", [(512, 288), (288, 512)])
def test_the_first_seeds_make_every_kind_of_move(size: tuple[int, int]) -> None:
    kinds = Counter(motion.of_seed(seed, *size).kind for seed in range(64))
    assert set(kinds) == {move.kind for move in motion.MOVES}
    assert min(kinds.values()) >= 4, kinds


@pytest.mark.thorough
@pytest.mark.parametrize("move", [PANS[0], PANS[5], PUSH_IN, PULL_OUT, ARCS[1]], ids=lambda move: move.kind)
def test_a_seed_makes_its_move_on_every_photo(shoot: Shoot, move: Move) -> None:
    seed = seed_of(move, *SMALL.values())
    for name in ("chelsea", "coffee"):
        film = shoot(name, motion_bucket_id=255, seed=seed, **SMALL)
        found, distance = best_match(film.frames[-1], film.photo)
        assert found == move, name
        assert distance == pytest.approx(motion.MAX_PIXELS, abs=2), name


@pytest.mark.thorough
def test_a_larger_bucket_moves_further(shoot: Shoot) -> None:
    move, buckets = PANS[2], (1, 64, 127, 191, 255)
    seed = seed_of(move, *SMALL.values())
    films = [shoot("astronaut", motion_bucket_id=bucket, seed=seed, **SMALL) for bucket in buckets]
    pixels = [pixels_moved(film.frames[-1], film.photo, move) for film in films]
    assert all(less < more for less, more in pairwise(pixels)), pixels


@pytest.mark.thorough
def test_at_the_smallest_bucket_nothing_flickers(shoot: Shoot) -> None:
    film = shoot("astronaut", motion_bucket_id=1)
    assert flicker(film.frames) <= 1
    assert psnr(film.frames[-1], film.photo) >= 27


def test_a_clear_sky_shows_no_lines(nano: Generator) -> None:
    data = io.BytesIO()
    Image.fromarray(blue_sky(512, 288).round().astype(np.uint8)).save(data, "PNG")
    parameters, image = read(data.getvalue(), {"num_frames": 2, "motion_bucket_id": 1})
    first, _ = nano.generate(image, parameters, ignore)
    error = first - np.asarray(image, float)
    assert strongest_patch_wave(error) <= 0.3
    assert strongest_line(error) <= 0.45


@pytest.mark.parametrize("size", [(512, 288), (288, 512)])
def test_the_decoder_draws_a_clear_sky_without_lines(size: tuple[int, int]) -> None:
    vae = AutoencoderKLTemporalDecoder.from_pretrained(Path(CPU_MODEL) / "vae", torch_dtype=torch.float32)
    assert strongest_line(decoder_error(vae, blue_sky(*size))) <= 0.3


@pytest.mark.thorough
def test_a_portrait_stays_a_portrait(shoot: Shoot) -> None:
    data = io.BytesIO()
    with Image.open(IMAGES / "coffee.jpg") as photo:
        photo.crop((150, 0, 375, 400)).save(data, "PNG")
    film = shoot(data.getvalue())
    assert film.frames.shape == (25, 512, 288, 3)
    assert psnr(film.frames[0], film.photo) >= 27
    assert last_frame_psnr(film.frames, film.photo, motion.of_seed(1, 288, 512), 127) >= 24


@pytest.mark.thorough
def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_video(shoot: Shoot) -> None:
    first, again, other = shoot("coffee", **SMALL), shoot("coffee", take=2, **SMALL), shoot("coffee", seed=2, **SMALL)
    assert first.file == again.file
    assert (first.frames != other.frames).any()


@pytest.mark.thorough
def test_there_is_no_jump_between_segments(shoot: Shoot) -> None:
    frames = shoot("coffee", segments=2, **SMALL).frames.astype(float)
    changes = np.abs(np.diff(frames, axis=0)).mean(axis=(1, 2, 3))
    assert len(changes) == 48
    # The camera rests there, so this is the segment's own first frame, a little softer.
    assert changes[24] <= 3 * np.median(changes)


@pytest.mark.parametrize("name", [pytest.param("astronaut", marks=pytest.mark.thorough), "rocket"])
def test_a_preview_shows_the_final_frame_and_no_other_photo(
    nano: Generator, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preview, "INTERVAL", 0.0)
    offered: list[preview.MakePreview] = []
    parameters, image = read(name, {"num_frames": 4, "num_inference_steps": 2})
    frames = list(nano.generate(image, parameters, ignore, offered.append))
    previews = [Image.open(io.BytesIO(make())).convert("RGB") for make in offered]
    assert len(previews) == 2
    for one in previews:
        assert alike(one, Image.fromarray(frames[2])) >= 0.97
        for other in {*PHOTOS} - {name}:
            assert alike(one, read(other, {})[1]) <= 0.6, other


def alike(one: Image.Image, other: Image.Image) -> float:
    """Correlation of the colours of two images at low resolution: 1 for equal ones, 0 for unrelated ones."""
    small = [np.asarray(each.resize((32, 18), Image.Resampling.BOX), dtype=float).ravel() for each in (one, other)]
    return float(np.corrcoef(np.stack(small))[0, 1])


@pytest.mark.thorough
def test_guidance_does_not_reduce_the_quality(shoot: Shoot) -> None:
    plain, guided = shoot("coffee", **SMALL), shoot("coffee", max_guidance_scale=3.0, **SMALL)
    move = motion.of_seed(1, *SMALL.values())
    assert psnr(guided.frames[0], guided.photo) >= psnr(plain.frames[0], plain.photo) - 1
    likeness, guided_likeness = (last_frame_psnr(film.frames, film.photo, move, 127) for film in (plain, guided))
    assert guided_likeness >= likeness - 1.5
