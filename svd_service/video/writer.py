"""Frames → a file, in a thread of its own: the device decodes the next frames in the meantime."""

import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

#: One frame: RGB, 8 bits, shape (height, width, 3).
Frame = NDArray[np.uint8]

#: Frames that may wait for a writer before `put` does: however long the video, no more of it is held than that.
QUEUE_FRAMES: Final = 8


class Writer(ABC):
    """Writes frames of `width` x `height` pixels into a new file at `path`, as a context.

    The file is whole when the block has ended well. When the block raises, writing stops and what is at `path` is
    worth nothing.

    Raises:
        OSError: from `put` or at the block's end, when the file cannot be written.
        av.error.FFmpegError: likewise, when the frames cannot be encoded.
    """

    def __init__(self, path: Path, width: int, height: int) -> None:
        self._path = path
        self._size = (width, height)
        self._queue: queue.Queue[Frame | None] = queue.Queue(QUEUE_FRAMES)
        self._ended = False
        self._abandoned = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=type(self).__name__.lower(), daemon=True)

    def put(self, frame: Frame) -> None:
        """Hand one frame over, waiting while `QUEUE_FRAMES` wait already. The array must not change any more."""
        width, height = self._size
        if frame.shape != (height, width, 3) or frame.dtype != np.uint8:
            raise ValueError(f"expected uint8 of shape {(height, width, 3)}, got {frame.dtype} of {frame.shape}")
        if self._error is not None:
            raise self._error
        self._queue.put(frame)

    def end(self) -> None:
        """Say that no more frames come, without waiting for the file: so that several writers end side by side."""
        if not self._ended:
            self._ended = True
            self._queue.put(None)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._abandoned.set()
        self.end()
        self._thread.join()
        if kind is None and self._error is not None:
            raise self._error

    @abstractmethod
    def _write(self, frames: Iterator[Frame]) -> None:
        """Write the file. `frames` end early when writing is given up, which `_abandoned` tells."""

    def _run(self) -> None:
        frames = self._taken()
        try:
            self._write(frames)
        except Exception as error:  # noqa: BLE001 - crosses over to the thread that feeds this one, and is raised there
            self._error = error
        # Whoever waits in `put` must get through, to find the error.
        for _ in frames:
            pass

    def _taken(self) -> Iterator[Frame]:
        while (frame := self._queue.get()) is not None:
            if not self._abandoned.is_set():
                yield frame
