"""Frames → MP4 (H.264), WebM (AV1), animated WebP or GIF, by FFmpeg's encoders, as the frames come."""

import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Final, cast

import av
import numpy as np
from av.container import OutputContainer
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray
from PIL import Image

from svd_service.video.writer import QUEUE_FRAMES, Frame, Writer

__all__ = ["GIF", "KEYFRAME_INTERVAL", "MP4", "QUEUE_FRAMES", "WEBM", "WEBP", "Encoder", "Frame", "Kind"]

#: Constant, since x264's decisions, and so the bytes of the file, depend on it.
THREADS: Final = 4

#: Maximum seconds between two keyframes, so that a player can seek.
KEYFRAME_INTERVAL: Final = 2


@dataclass(frozen=True)
class Kind:
    """A kind of file: FFmpeg's names of container, codec and pixel format, and the options of the first two.

    `shades` converts a frame for the codec where a conversion of the pixel format is not enough. Frames that are less
    than `shortest` hundredths of a second after the one before are left out. `sized` are options by width and height.
    """

    container: str
    codec: str
    pixels: str
    options: Mapping[str, str] = field(default_factory=dict)
    container_options: Mapping[str, str] = field(default_factory=dict)
    shades: Callable[[Frame], av.VideoFrame] | None = None
    shortest: int = 0
    sized: Callable[[int, int], Mapping[str, str]] = lambda *_: {}

    @property
    def is_video(self) -> bool:
        """Whether it is a video, with keyframes and a declared color space, rather than an animated image."""
        return self.shades is None and self.pixels == "yuv420p"


def _quantized(frame: Frame) -> av.VideoFrame:
    """Convert a frame to its own palette of 256 colors, dithered.

    Compared on photos with FFmpeg's palettegen and paletteuse, median cut and ordered dithering, this has the smallest
    error at a scale where single pixels are not visible (44 to 49 dB) and the least flicker; it takes 68 ms for
    1024x576, median cut one second.
    """
    image = Image.fromarray(frame)
    palette = image.quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    indices = image.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
    # PyAV accepts a pair for this format, which its type hints do not include.
    pair: Any = np.asarray(indices), _argb(palette)
    return av.VideoFrame.from_ndarray(pair, format="pal8")


def _argb(palette: Image.Image) -> NDArray[np.uint8]:
    colors = np.frombuffer(bytes(palette.getpalette() or b""), np.uint8).reshape(-1, 3)
    table = np.zeros((256, 4), np.uint8)
    table[:, 0] = 255
    table[: len(colors), 1:] = colors
    return table


#: FFmpeg's H.264 guide calls CRF 17 "visually lossless or nearly so". `veryfast` and a lookahead of 8 frames keep the
#: wait after the last frame short: for 25 frames of a moving photo at 1024x576, 0.07 s on 2 cores, where `medium`
#: begins only then and takes 0.76 s; 939 KB against 1,103 KB, 38.5 against 38.8 dB.
MP4: Final = Kind(
    container="mp4",
    codec="libx264",
    pixels="yuv420p",
    options={"preset": "veryfast", "crf": "17", "rc-lookahead": "8"},
    container_options={"movflags": "+faststart"},
)

#: A quarter of the MP4's size at slightly lower fidelity (40.6 against 41.7 dB). `bitexact`: Matroska would write a
#: random number into each file. The number of threads does not change the bytes, but bounds the memory.
WEBM: Final = Kind(
    container="webm",
    codec="libsvtav1",
    pixels="yuv420p",
    options={"preset": "8", "crf": "25"},
    container_options={"fflags": "+bitexact"},
    # With two threads, libsvtav1 hangs for ever if width or height have fewer than about 25 pixels.
    sized=lambda width, height: {"svtav1-params": f"lp={1 if min(width, height) < 64 else 2}"},
)

#: Loops forever, like the GIF. Both store each frame's duration: WebP in milliseconds, GIF in hundredths of a second.
WEBP: Final = Kind(
    container="webp",
    codec="libwebp_anim",
    pixels="bgra",
    options={"quality": "80", "compression_level": "4"},
    container_options={"loop": "0"},
)

#: Browsers show a frame of one hundredth of a second ten times as long, and two frames at one hundredth are an error.
GIF: Final = Kind(
    container="gif", codec="gif", pixels="pal8", container_options={"loop": "0"}, shades=_quantized, shortest=2
)


def _hundredths(index: int, fps: int) -> int:
    """The time of a frame in hundredths of a second, rounded as FFmpeg does."""
    return (200 * index + fps) // (2 * fps)


class _WriteThrough(io.BufferedWriter):
    """An unbuffered file: to move the index to the front, the muxer reads what it wrote through the file's name.

    A raw file alone is not enough: on a full disk it writes only a part, without an error. `failure` is the error of a
    failed write, which FFmpeg sometimes replaces by one of its own.
    """

    failure: OSError | None = None

    def write(self, data: Any, /) -> int:
        try:
            count = super().write(data)
            self.flush()
        except OSError as error:
            self.failure = error
            raise
        return count


class Encoder(Writer):
    """Writes frames to a new file of `kind`, like every `Writer`. The same frames and tags give the same bytes.

    `tags` are MP4's own, such as `title`, `comment` and `encoding_tool`; WebM has them too, WebP and GIF none. `fps` is
    in frames per second, width and height are even.
    """

    def __init__(
        self, path: Path, width: int, height: int, fps: int, tags: Mapping[str, str], kind: Kind = MP4
    ) -> None:
        super().__init__(path, width, height)
        self._fps = fps
        self._tags = dict(tags)
        self._kind = kind
        self._reformatter = VideoReformatter()

    def _write(self, frames: Iterator[Frame]) -> None:
        # We open the file, since PyAV does not close one that it could not begin (on a full disk).
        with _WriteThrough(io.FileIO(self._path, "w")) as file:
            try:
                self._encode(frames, file)
            except av.error.FFmpegError:
                if file.failure is not None:
                    raise file.failure from None
                raise

    def _encode(self, frames: Iterator[Frame], file: io.BufferedWriter) -> None:
        with (
            av.open(
                file, "w", format=self._kind.container, container_options=dict(self._kind.container_options)
            ) as container,
        ):
            container.metadata.update(self._tags)
            stream = self._add_stream(container)
            due = 0
            for index, frame in enumerate(frames):
                if self._kind.shortest:
                    at = _hundredths(index, self._fps)
                    if at < due:
                        continue
                    due = at + self._kind.shortest
                converted = self._converted(frame)
                converted.pts, converted.time_base = index, Fraction(1, self._fps)
                container.mux(stream.encode(converted))
            if not self._abandoned.is_set():
                container.mux(stream.encode())

    def _converted(self, frame: Frame) -> av.VideoFrame:
        if self._kind.shades is not None:
            return self._kind.shades(frame)
        converted = av.VideoFrame.from_ndarray(frame, format="rgb24")
        if not self._kind.is_video:
            return self._reformatter.reformat(converted, format=self._kind.pixels)
        return self._reformatter.reformat(
            converted,
            format=self._kind.pixels,
            dst_colorspace=Colorspace.ITU709,
            src_color_range=ColorRange.JPEG,
            dst_color_range=ColorRange.MPEG,
        )

    def _add_stream(self, container: OutputContainer) -> VideoStream:
        options = {**self._kind.options, **self._kind.sized(*self._size)}
        stream = cast(VideoStream, container.add_stream(self._kind.codec, rate=self._fps, options=options))
        stream.width, stream.height = self._size
        stream.pix_fmt = self._kind.pixels
        if self._kind.is_video:
            codec = stream.codec_context
            codec.thread_count = THREADS
            codec.gop_size = KEYFRAME_INTERVAL * self._fps
            # Without all four, players guess from the size, each in its own way.
            codec.colorspace = Colorspace.ITU709
            codec.color_primaries = ColorPrimaries.BT709
            codec.color_trc = ColorTrc.BT709
            codec.color_range = ColorRange.MPEG
        return stream
