"""Frames → MP4 (H.264, BT.709), in a thread of its own: the device decodes the next frames in the meantime."""

import io
import queue
import threading
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import av
import numpy as np
from av.container import OutputContainer
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

#: One frame: RGB, 8 bits, shape (height, width, 3).
Frame = NDArray[np.uint8]

#: What libx264 is told. FFmpeg's H.264 guide calls CRF 17 "visually lossless or nearly so". `veryfast` and a lookahead
#: of 8 frames, because what is not encoded when the last frame comes is waited for: of 25 frames of a moving photo at
#: 1024x576, 0.07 s on 2 cores, where `medium` begins only then and takes 0.76 s; 939 KB against 1,103 KB, 38.5 against
#: 38.8 dB.
OPTIONS: Final = {"preset": "veryfast", "crf": "17", "rc-lookahead": "8"}

#: A constant, since x264's decisions, and so the bytes of the file, depend on it.
THREADS: Final = 4

#: Seconds from one keyframe to the next at most, so that a player can seek.
KEYFRAME_INTERVAL: Final = 2

#: Frames that may wait for the encoder before `put` does.
QUEUE_FRAMES: Final = 8


class _WriteThrough(io.BufferedWriter):
    """A file that holds nothing back: to move the index to the front, the muxer reads what it wrote by the file's name.

    The raw file would do, if it did not write a part only, without an error, where the disk is full.
    """

    def write(self, data: Any, /) -> int:
        count = super().write(data)
        self.flush()
        return count


class Encoder:
    """Writes frames into a new file at `path`, as a context: the file is whole when the block has ended well.

    The same frames and tags give the same bytes. When the block raises, encoding stops and what is at `path` is no
    video. `tags` are MP4's own, such as `title`, `comment` and `encoding_tool`; `fps` is in frames per second, width
    and height are even.

    Raises:
        OSError: from `put` or at the block's end, when the file cannot be written.
        av.error.FFmpegError: likewise, when the frames cannot be encoded.
    """

    def __init__(self, path: Path, width: int, height: int, fps: int, tags: Mapping[str, str]) -> None:
        self._path = path
        self._size = (width, height)
        self._fps = fps
        self._tags = dict(tags)
        self._queue: queue.Queue[Frame | None] = queue.Queue(QUEUE_FRAMES)
        self._abandoned = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="encoder", daemon=True)

    def put(self, frame: Frame) -> None:
        """Hand one frame over, waiting while `QUEUE_FRAMES` wait already. The array must not change any more."""
        width, height = self._size
        if frame.shape != (height, width, 3) or frame.dtype != np.uint8:
            raise ValueError(f"expected uint8 of shape {(height, width, 3)}, got {frame.dtype} of {frame.shape}")
        if self._error is not None:
            raise self._error
        self._queue.put(frame)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._abandoned.set()
        self._queue.put(None)
        self._thread.join()
        if kind is None and self._error is not None:
            raise self._error

    def _run(self) -> None:
        frames = self._taken()
        try:
            self._encode(frames)
        except Exception as error:  # noqa: BLE001 - crosses over to the thread that feeds this one, and is raised there
            self._error = error
            # Whoever waits in `put` must get through, to find the error.
            for _ in frames:
                pass

    def _taken(self) -> Iterator[Frame]:
        while (frame := self._queue.get()) is not None:
            yield frame

    def _encode(self, frames: Iterator[Frame]) -> None:
        # The file is ours, not PyAV's, which leaves one open that it could not begin (on a full disk).
        with (
            _WriteThrough(io.FileIO(self._path, "w")) as file,
            av.open(file, "w", format="mp4", options={"movflags": "+faststart"}) as container,
        ):
            container.metadata.update(self._tags)
            stream = self._add_stream(container)
            reformatter = VideoReformatter()
            for index, frame in enumerate(frames):
                if self._abandoned.is_set():
                    return
                picture = reformatter.reformat(
                    av.VideoFrame.from_ndarray(frame, format="rgb24"),
                    format="yuv420p",
                    dst_colorspace=Colorspace.ITU709,
                    src_color_range=ColorRange.JPEG,
                    dst_color_range=ColorRange.MPEG,
                )
                picture.pts, picture.time_base = index, Fraction(1, self._fps)
                container.mux(stream.encode(picture))
            if not self._abandoned.is_set():
                container.mux(stream.encode())

    def _add_stream(self, container: OutputContainer) -> VideoStream:
        stream = container.add_stream("libx264", rate=self._fps, options=OPTIONS)
        stream.width, stream.height = self._size
        stream.pix_fmt = "yuv420p"
        codec = stream.codec_context
        codec.thread_count = THREADS
        codec.gop_size = KEYFRAME_INTERVAL * self._fps
        # Without all four, players guess: by the size, and each in its own way.
        codec.colorspace = Colorspace.ITU709
        codec.color_primaries = ColorPrimaries.BT709
        codec.color_trc = ColorTrc.BT709
        codec.color_range = ColorRange.MPEG
        return stream
