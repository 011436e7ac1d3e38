"""Write frames to a file in a separate thread, while the device decodes the next frames."""

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

#: Maximum number of frames that wait for a writer before `put` blocks: bounds the memory for a video of any length.
QUEUE_FRAMES: Final = 8


class Writer(ABC):
    """Writes frames of `width` x `height` pixels to a new file at `path`, as a context manager.

    The file is complete when the block has ended without an error. If the block raises, writing stops and the file at
    `path` is not usable.

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
        """Queue one frame, waiting while `QUEUE_FRAMES` are queued. The array must not change afterwards."""
        width, height = self._size
        if frame.shape != (height, width, 3) or frame.dtype != np.uint8:
            raise ValueError(f"expected uint8 of shape {(height, width, 3)}, got {frame.dtype} of {frame.shape}")
        if self._error is not None:
            raise self._error
        self._queue.put(frame)

    def end(self) -> None:
        """Mark the end of the frames without waiting for the file, so that several writers end in parallel."""
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
        """Write the file. `frames` end early when writing is abandoned (`_abandoned`)."""

    def _run(self) -> None:
        frames = self._taken()
        try:
            self._write(frames)
        except Exception as error:  # noqa: BLE001 - passed on, and raised in the thread that feeds this one
            self._error = error
        # A thread that waits in `put` must continue, to find the error.
        for _ in frames:
            pass

    def _taken(self) -> Iterator[Frame]:
        while (frame := self._queue.get()) is not None:
            if not self._abandoned.is_set():
                yield frame
