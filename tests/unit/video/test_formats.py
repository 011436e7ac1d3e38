import io
import re
import threading
import time
import zipfile
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, ImageFilter, ImageSequence

from svd_service.api.openai.schema import Variant
from svd_service.jobs import eta
from svd_service.jobs.marks import MARKS
from svd_service.jobs.parameters import MEDIA_TYPES
from svd_service.parameters import TABLE, Format
from svd_service.video.formats import writer
from svd_service.video.writer import QUEUE_FRAMES, Frame, Writer
from tests.samples import IMAGES

ROOT = Path(eta.__file__).parents[2]
PAGE = ROOT / "svd_service" / "api" / "ops" / "static" / "page" / "options.js"

PHOTO = IMAGES / "chelsea.jpg"
SIZE = (128, 72)
FURTHER = [kind for kind in Format if kind is not Format.MP4]
ANIMATIONS = [Format.WEBP, Format.GIF]


class StopError(Exception):
    pass


def film(count: int) -> Iterator[Frame]:
    """Frames of a camera that moves over a photo."""
    with Image.open(PHOTO) as photo:
        for index in range(count):
            yield np.asarray(photo.crop((index, 40, index + 384, 256)).resize(SIZE, Image.Resampling.BICUBIC))


def open_writer(kind: Format, path: Path, fps: int = 7) -> Writer:
    return writer(kind, path, SIZE, fps, {"title": "a title", "comment": "a comment"}, {"seed": 7})


def write(kind: Format, path: Path, count: int = 6, fps: int = 7) -> Path:
    with open_writer(kind, path, fps) as open_one:
        for frame in film(count):
            open_one.put(frame)
    return path


def abort(one: Writer) -> None:
    with one:
        for frame in film(12):
            one.put(frame)
        raise StopError


def read_frames(path: Path) -> list[Frame]:
    with Image.open(path) as moving:
        return [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(moving)]


def psnr(one: Frame, other: Frame) -> float:
    return float(10 * np.log10(255**2 / np.mean((one.astype(float) - other) ** 2)))


def as_seen(frame: Frame) -> Frame:
    """The frame blurred, so that dithered dots become one colour."""
    return np.asarray(Image.fromarray(frame).filter(ImageFilter.GaussianBlur(1.2)))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "staged"


@pytest.mark.parametrize("kind", FURTHER)
def test_a_format_is_known_wherever_formats_are_listed(kind: Format) -> None:
    offered = re.search(r'name: "formats".*?options: \{(.*?)\}', PAGE.read_text(), re.DOTALL)
    assert offered
    assert f" {kind}: " in offered[1]
    assert Variant(kind.value).kind is kind
    assert kind in MARKS
    assert kind in MEDIA_TYPES
    assert eta._FORMATS[kind] > 0


def row(document: str, beginning: str) -> str:
    """The row of a document's table that begins so, or ""."""
    lines = (ROOT / document).read_text().splitlines()
    return next((line for line in lines if line.startswith(beginning)), "")


@pytest.mark.parametrize("kind", FURTHER)
def test_a_format_is_in_the_descriptions_and_documents(kind: Format) -> None:
    assert f"`{kind}`" in TABLE["formats"].spec.description
    assert f" out.{kind}" in (ROOT / "README.md").read_text()
    assert f"`{kind}`" in row("docs/api.md", "| `formats` |")
    assert row("docs/dialects.md", f"| `{kind}` |")
    assert re.search(rf"^\| [^|]*\b{kind.upper()}\b", (ROOT / "docs/marking.md").read_text().upper(), re.MULTILINE)


@pytest.mark.parametrize("kind", FURTHER)
def test_the_same_frames_give_the_same_bytes(tmp_path: Path, kind: Format) -> None:
    assert write(kind, tmp_path / "one").read_bytes() == write(kind, tmp_path / "two").read_bytes()


@pytest.mark.parametrize("kind", ANIMATIONS)
def test_animations_loop_and_show_each_frame_at_its_time(path: Path, kind: Format) -> None:
    write(kind, path, 10)
    with Image.open(path) as moving:
        assert (moving.format, moving.size, moving.info["loop"]) == (kind.upper(), SIZE, 0)
        shown_for = []
        for frame in ImageSequence.Iterator(moving):
            frame.load()  # its duration is known only now
            shown_for.append(frame.info["duration"])
    assert len(shown_for) == 10
    # A frame may be off by the format's resolution (10 ms or 1 ms), and errors must not accumulate.
    for number, ends in enumerate(accumulate(shown_for), start=1):
        assert ends == pytest.approx(1000 * number / 7, abs=11 if kind is Format.GIF else 2)


@pytest.mark.parametrize("fps", [51, 60, 101, 116, 120])
def test_a_gif_of_a_fast_video_shows_no_frame_for_less_than_browsers_do(path: Path, fps: int) -> None:
    write(Format.GIF, path, 100, fps)
    with Image.open(path) as moving:
        shown_for = []
        for frame in ImageSequence.Iterator(moving):
            frame.load()
            shown_for.append(frame.info["duration"])
    assert min(shown_for[:-1]) >= 20
    assert sum(shown_for) == pytest.approx(1000 * 100 / fps, abs=30)


@pytest.mark.parametrize("size", [(512, 16), (22, 118), (256, 24)])
def test_a_narrow_webm_is_written(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "narrow.webm"
    with writer(Format.WEBM, path, size, 7, {}, {}) as one:
        for _ in range(3):
            one.put(np.zeros((size[1], size[0], 3), np.uint8))
    with av.open(path) as container:
        assert len(list(container.decode(video=0))) == 3


def test_an_animated_webp_shows_the_frames(path: Path) -> None:
    shown = read_frames(write(Format.WEBP, path))
    frames = list(film(6))
    assert np.mean([psnr(*pair) for pair in zip(frames, shown, strict=True)]) > 32
    assert psnr(frames[0], shown[-1]) < 30


def test_a_gif_shows_the_frames_as_far_as_256_colours_go(path: Path) -> None:
    shown = read_frames(write(Format.GIF, path))
    frames = list(film(6))
    assert np.mean([psnr(as_seen(one), as_seen(other)) for one, other in zip(frames, shown, strict=True)]) > 38
    assert psnr(as_seen(frames[0]), as_seen(shown[-1])) < 32
    assert all(len(np.unique(frame.reshape(-1, 3), axis=0)) <= 256 for frame in shown[:1])


def test_a_webm_is_av1_with_its_colour_space(path: Path) -> None:
    write(Format.WEBM, path, 15)
    frames = list(film(15))
    with av.open(path) as container:
        stream = container.streams.video[0]
        codec = stream.codec_context
        assert "webm" in container.format.name
        assert codec.pix_fmt == "yuv420p"
        assert stream.average_rate == 7
        assert "av1" in codec.codec.name or "dav1d" in codec.codec.name
        assert (codec.colorspace, codec.color_primaries, codec.color_trc, codec.color_range) == (1, 1, 1, 1)
        assert container.metadata["title"] == "a title"
        decoded = list(container.decode(video=0))
        shown = [frame.to_ndarray(format="rgb24", src_colorspace="ITU709").astype(np.uint8) for frame in decoded]
    assert np.mean([psnr(*pair) for pair in zip(frames, shown, strict=True)]) > 32
    assert [index for index, frame in enumerate(decoded) if frame.key_frame] == [0, 14]


def test_a_zip_has_the_exact_frames_uncompressed_and_their_provenance(path: Path) -> None:
    write(Format.ZIP, path, 11)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert {member.compress_type for member in archive.infolist()} == {zipfile.ZIP_STORED}
        names = archive.namelist()
        frames = [np.asarray(Image.open(io.BytesIO(archive.read(name)))) for name in names[:-1]]
        assert archive.read(names[-1]) == b'{\n "seed": 7\n}'
    assert (names[0], names[10], names[11]) == ("frame-0001.png", "frame-0011.png", "provenance.json")
    np.testing.assert_array_equal(frames, list(film(11)))


@pytest.mark.parametrize("kind", [Format.WEBM, Format.GIF, Format.ZIP])
def test_frames_are_written_before_all_have_arrived(path: Path, kind: Format) -> None:
    count = 100
    with open_writer(kind, path) as open_one:
        for frame in film(count):
            open_one.put(frame)
        deadline = time.monotonic() + 30
        while not path.stat().st_size:
            assert time.monotonic() < deadline, "the writer waits for the last frame"
            time.sleep(0.01)


@pytest.mark.parametrize("kind", FURTHER)
@pytest.mark.parametrize("count", [1, 3 * QUEUE_FRAMES])
def test_a_full_disk_is_raised_to_the_caller(kind: Format, count: int) -> None:
    before = threading.active_count()
    with pytest.raises(OSError, match="No space left on device"):
        write(kind, Path("/dev/full"), count)
    assert threading.active_count() == before


@pytest.mark.parametrize("kind", FURTHER)
def test_an_aborted_writer_leaves_no_thread(path: Path, kind: Format) -> None:
    before = threading.active_count()
    with pytest.raises(StopError):
        abort(open_writer(kind, path))
    assert threading.active_count() == before
