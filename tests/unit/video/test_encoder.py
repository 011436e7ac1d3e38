import hashlib
import json
import struct
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from svd_service.video.encoder import KEYFRAME_INTERVAL, QUEUE_FRAMES, Encoder, Frame

#: ITU-T H.273's code for BT.709, and FFmpeg's for the range 16 to 235.
BT709 = 1
TV_RANGE = 1


class StopError(Exception):
    pass


def moving(count: int, width: int = 64, height: int = 48) -> Iterator[Frame]:
    ramp = np.add.outer(np.arange(height), np.arange(width))
    for index in range(count):
        yield np.stack([(ramp + shift + 5 * index) % 256 for shift in (0, 80, 160)], axis=-1).astype(np.uint8)


def stopping_after(count: int) -> Iterator[Frame]:
    yield from moving(count)
    raise StopError


def encode(path: Path, frames: Iterator[Frame], *, fps: int = 7, tags: dict[str, str] | None = None) -> Path:
    first = next(frames)
    with Encoder(path, first.shape[1], first.shape[0], fps, tags or {}) as encoder:
        encoder.put(first)
        for frame in frames:
            encoder.put(frame)
    return path


def boxes(path: Path) -> list[str]:
    """Names of the file's outermost boxes, in order."""
    content, names, offset = path.read_bytes(), [], 0
    while offset < len(content):
        size, name = struct.unpack_from(">I4s", content, offset)
        names.append(name.decode("ascii"))
        offset += size
    assert offset == len(content)
    return names


def open_files() -> set[str]:
    return {str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    # A temporary path without the suffix of a format.
    return tmp_path / "staged"


@pytest.mark.parametrize("fps", [5, 7, 30])
def test_the_video_has_the_given_frames_size_and_rate(path: Path, fps: int) -> None:
    encode(path, moving(11, 72, 40), fps=fps)
    with av.open(path) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height, stream.frames) == (72, 40, 11)
        assert stream.average_rate == fps
        assert stream.duration is not None
        assert stream.time_base is not None
        assert stream.duration * stream.time_base == Fraction(11, fps)
        assert len(list(container.decode(stream))) == 11


def test_the_video_is_h264_that_browsers_play_with_its_colour_space(path: Path) -> None:
    encode(path, moving(3))
    with av.open(path) as container:
        assert "mp4" in container.format.name
        codec = container.streams.video[0].codec_context
        assert (codec.name, codec.profile, codec.pix_fmt) == ("h264", "High", "yuv420p")
        assert (codec.colorspace, codec.color_primaries, codec.color_trc) == (BT709, BT709, BT709)
        assert codec.color_range == TV_RANGE


def test_a_player_can_start_before_the_file_is_complete(path: Path) -> None:
    assert boxes(encode(path, moving(3))) == ["ftyp", "moov", "free", "mdat"]


@pytest.mark.parametrize("colour", [(255, 255, 255), (0, 0, 0), (200, 30, 30), (30, 200, 30), (30, 30, 200)])
def test_colours_are_preserved(path: Path, colour: tuple[int, int, int]) -> None:
    frame = np.full((48, 64, 3), colour, dtype=np.uint8)
    encode(path, iter([frame] * 3))
    with av.open(path) as container:
        for decoded in container.decode(video=0):
            shown = decoded.to_ndarray(format="rgb24", src_colorspace="ITU709")
            np.testing.assert_allclose(shown.mean(axis=(0, 1)), colour, atol=3)


def test_frames_are_almost_preserved(path: Path) -> None:
    ramp = np.add.outer(np.arange(144), np.arange(256)) / 2
    frames = [np.stack([ramp + 3 * index] * 3, axis=-1).astype(np.uint8) for index in range(6)]
    encode(path, iter(frames))
    with av.open(path) as container:
        shown = [frame.to_ndarray(format="rgb24", src_colorspace="ITU709") for frame in container.decode(video=0)]
    error = np.mean([(a.astype(float) - b) ** 2 for a, b in zip(frames, shown, strict=True)])
    assert 10 * np.log10(255**2 / error) > 40


def test_key_frames_are_at_most_two_seconds_apart(path: Path) -> None:
    encode(path, moving(61), fps=10)
    with av.open(path) as container:
        keyframes = [index for index, frame in enumerate(container.decode(video=0)) if frame.key_frame]
    gaps = np.diff([*keyframes, 61])
    assert keyframes[0] == 0
    assert gaps.max() <= KEYFRAME_INTERVAL * 10


def test_tags_are_stored(path: Path) -> None:
    comment = json.dumps({"prompt": "Grüße, 世界", "list": list(range(500))})
    encode(path, moving(2), tags={"title": "a title", "comment": comment, "encoding_tool": "svd-service"})
    with av.open(path) as container:
        assert container.metadata["title"] == "a title"
        assert container.metadata["comment"] == comment
        assert container.metadata["encoder"] == "svd-service"
        assert "creation_time" not in container.metadata


def test_the_same_frames_and_tags_give_the_same_bytes(tmp_path: Path) -> None:
    videos = [encode(tmp_path / name, moving(20), tags={"title": "same"}) for name in ("one", "two.mp4")]
    digests = {hashlib.sha256(video.read_bytes()).hexdigest() for video in videos}
    assert len(digests) == 1
    assert encode(tmp_path / "three", moving(20), tags={"title": "other"}).read_bytes() != videos[0].read_bytes()


def test_frames_are_written_before_all_have_arrived(path: Path) -> None:
    with Encoder(path, 64, 48, 7, {}) as encoder:
        for frame in moving(60):
            encoder.put(frame)
        deadline = time.monotonic() + 10
        while not path.stat().st_size:
            assert time.monotonic() < deadline, "the encoder waits for the last frame"
            time.sleep(0.01)


@pytest.mark.parametrize(
    "frame",
    [np.zeros((64, 48, 3), np.uint8), np.zeros((48, 64, 4), np.uint8), np.zeros((48, 64, 3), np.float32)],
    ids=lambda frame: f"{frame.dtype} {frame.shape}",
)
def test_a_frame_of_another_shape_or_type_is_rejected(path: Path, frame: Frame) -> None:
    with pytest.raises(ValueError, match="expected uint8 of shape"), Encoder(path, 64, 48, 7, {}) as encoder:
        encoder.put(frame)


def test_an_error_of_creating_the_file_is_raised_to_the_caller(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        encode(tmp_path / "no such folder" / "video", moving(3 * QUEUE_FRAMES))


@pytest.mark.parametrize("count", [1, 200])
def test_a_full_disk_is_raised_to_the_caller(count: int) -> None:
    before = threading.active_count()
    with pytest.raises(OSError, match="No space left on device") as raised:
        encode(Path("/dev/full"), moving(count, 256, 144))
    assert "_write" in {entry.name for entry in raised.traceback}
    assert threading.active_count() == before
    assert "/dev/full" not in open_files()


def test_an_aborted_encode_leaves_neither_a_thread_nor_an_open_file(path: Path) -> None:
    before = threading.active_count()
    with pytest.raises(StopError):
        encode(path, stopping_after(20))
    assert threading.active_count() == before
    assert str(path) not in open_files()


def test_encoding_no_frames_leaves_no_hanging_thread(path: Path) -> None:
    before = threading.active_count()
    with Encoder(path, 64, 48, 7, {}):
        pass
    assert threading.active_count() == before
