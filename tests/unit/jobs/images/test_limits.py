"""No upload deprives others of a decoder, memory or time."""

import contextlib
import os
import resource
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from svd_service.config import Settings
from svd_service.errors import BrokenImageError, ImageTooLargeError, RejectedError, UnavailableError
from svd_service.jobs.images import opening, pool
from svd_service.jobs.images.decoding import opened
from svd_service.parameters import Fit
from tests.unit.jobs.images.image_files import PHOTO, SETTINGS, fitted, orientation, png_chunks, png_of, stored
from tests.unit.jobs.images.test_metadata import GREY, tiff
from tools.harness.hostile_images import hostile_images, run_length_bmp

SMALL = PHOTO.resize((64, 48))


HOSTILE = dict(hostile_images(SMALL))


@pytest.mark.parametrize(("name", "data"), HOSTILE.items(), ids=HOSTILE)
def test_a_hostile_file_is_rejected_quickly_and_in_little_memory(name: str, data: bytes) -> None:
    before, peak = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with contextlib.suppress(RejectedError):
        opened(data, 50_000_000).fitted(64, 48, pad=False)
    # Without the limits it takes minutes. Measuring coverage takes most of the few tenths of a second.
    assert time.process_time() - before < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 250_000  # kB


def test_decoding_has_a_time_limit_and_the_next_image_is_read() -> None:
    with pytest.raises(ImageTooLargeError, match="processor time"):
        fitted(run_length_bmp(18_000_000))
    assert fitted(stored(SMALL, "png")).size == (64, 48)


def test_address_space_is_limited() -> None:
    program = """
from svd_service.jobs.images import limits
limits.allow(pixels=0, file_bytes=0)
try:
    bytearray(400_000_000)
except MemoryError:
    limits.lift()
    bytearray(400_000_000)
    print("limited")
"""
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "limited\n"


def test_a_small_compression_bomb_is_unpacked_only_up_to_the_image_size() -> None:
    chunks = png_chunks(stored(SMALL, "png"))
    data = png_of([chunks[0], (b"IDAT", zlib.compress(bytes(300_000_000))), chunks[-1]])
    fitted(data)
    assert fitted(stored(SMALL, "jpeg", exif=orientation(3))).size == (64, 48)


# Decoder processes


@pytest.fixture
def decoder() -> pool.DecoderProcess:
    found = opening._pool_of(SETTINGS)._free.queue[-1]
    found.start()
    return found


def pid(decoder: pool.DecoderProcess) -> int:
    assert decoder._process is not None
    return decoder._process.pid


def test_a_decoder_is_reused(decoder: pool.DecoderProcess) -> None:
    fitted(stored(SMALL, "png"))
    first = pid(decoder)
    fitted(stored(SMALL, "jpeg"))
    assert pid(decoder) == first


def test_an_image_survives_the_end_of_its_decoder(decoder: pool.DecoderProcess) -> None:
    os.kill(pid(decoder), signal.SIGKILL)
    with opening.open_image(stored(SMALL, "png"), SETTINGS) as image:
        os.kill(pid(decoder), signal.SIGKILL)
        assert image.fitted(32, 24, Fit.CROP).size == (32, 24)


def test_an_image_survives_a_decoder_that_has_ended_before_the_next_request(decoder: pool.DecoderProcess) -> None:
    with opening.open_image(stored(SMALL, "png"), SETTINGS) as image:
        os.kill(pid(decoder), signal.SIGKILL)
        os.waitid(os.P_PID, pid(decoder), os.WEXITED | os.WNOWAIT)
        assert image.fitted(32, 24, Fit.CROP).size == (32, 24)


@pytest.mark.parametrize(
    ("signal_", "error"),
    [(signal.SIGSEGV, BrokenImageError), (signal.SIGKILL, UnavailableError), (signal.SIGPROF, ImageTooLargeError)],
)
def test_an_image_whose_decoder_ends_each_time_is_rejected(
    monkeypatch: pytest.MonkeyPatch, signal_: signal.Signals, error: type[Exception]
) -> None:
    start = pool.DecoderProcess.start

    def start_and_end(decoder: pool.DecoderProcess) -> Any:
        channel = start(decoder)
        os.kill(pid(decoder), signal_)
        return channel

    monkeypatch.setattr(pool.DecoderProcess, "start", start_and_end)
    with pytest.raises(error):
        fitted(stored(SMALL, "png"))


def test_a_decoder_has_neither_the_environment_nor_the_files_of_its_parent(decoder: pool.DecoderProcess) -> None:
    fitted(stored(SMALL, "png"))
    process = Path("/proc") / str(pid(decoder))
    assert (process / "environ").read_bytes() == b""
    assert len(list((process / "fd").iterdir())) <= 8


def test_decoders_end_with_their_parent() -> None:
    program = """
import sys, time
from svd_service.config import Settings
from svd_service.jobs.images import opening
settings = Settings.from_mapping({"SVD_DEVICES": "cpu"})
with opening.open_image(sys.stdin.buffer.read(), settings) as image:
    print(image._decoder._process.pid, flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        parent.stdin.write(stored(SMALL, "png"))
        parent.stdin.close()
        child = Path("/proc") / parent.stdout.readline().decode().strip()
        assert child.exists()
        parent.kill()
    deadline = time.monotonic() + 20
    while child.exists() and (child / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_an_upload_is_rejected_while_all_decoders_are_busy() -> None:
    few = pool.Pool(1, wait=0.05)
    try:
        with few.decoder(), pytest.raises(UnavailableError, match="busy"), few.decoder():
            pass
        with few.decoder() as decoder:
            assert decoder is few._decoders[0]
    finally:
        few.close()


def test_an_upload_waits_for_a_decoder() -> None:
    few, order = pool.Pool(1), []
    try:

        def wait() -> None:
            with few.decoder():
                order.append("second")

        with few.decoder():
            thread = threading.Thread(target=wait)
            thread.start()
            time.sleep(0.1)
            order.append("first")
        thread.join(20)
        assert order == ["first", "second"]
    finally:
        few.close()


def test_no_data_of_an_image_stays_in_its_decoders_files(decoder: pool.DecoderProcess) -> None:
    fitted(stored(SMALL, "png"))
    assert (os.fstat(decoder.source.fileno()).st_size, os.fstat(decoder.target.fileno()).st_size) == (0, 0)


def test_only_one_of_the_largest_images_is_decoded_at_a_time(make_settings: Callable[..., Settings]) -> None:
    large = stored(Image.new("L", (4_200, 4_200)), "png")
    decoders, done = opening._pool_of(SETTINGS), threading.Event()

    def fit() -> None:
        fitted(large)
        done.set()

    with decoders.large:
        other = threading.Thread(target=fit)
        other.start()
        assert not done.wait(0.3)
        assert fitted(stored(SMALL, "png")).size == (64, 48)
    other.join(60)
    assert done.is_set()


def test_a_tag_with_too_many_values_is_rejected() -> None:
    data = bytearray(tiff(GREY))
    at = data.rindex(struct.pack("<HHI", 273, 4, 1))
    data[at + 4 : at + 8] = struct.pack("<I", 0x7FFFFFFF)
    with pytest.raises(ImageTooLargeError, match="strips"):
        fitted(bytes(data))
