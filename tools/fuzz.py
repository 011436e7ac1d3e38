"""Send mutated images, forms and JSON to a real API: no response is a 5xx, and `/health` stays fast.

`python -m tools.fuzz --inputs 20000` starts its own Redis and API on the loopback interface and sends the inputs from
several clients. It exits with 1 if a response is a 5xx (including that of a busy service) or `/health` is slow. It
also prints the memory of the API's processes.
"""

import argparse
import collections
import io
import json
import os
import random
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import httpx2
import pillow_heif
from PIL import Image

from svd_service.config import CPU_MODEL
from tools.benchmark import photo
from tools.harness.local import free_port, redis_program

#: Maximum 95th percentile of the response time of `/health`, in seconds.
MAX_HEALTH: Final = 0.25

#: Number of concurrent clients.
CLIENTS: Final = 4

#: The routes that accept an image, and its field.
ROUTES: Final = (("/generate", "image"), ("/v1/videos", "input_reference"), ("/v2beta/image-to-video", "image"))

#: Bytes that have a meaning to parsers.
_TOKENS: Final = (
    b"\0", b"\xff", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xd8", b"\xff\xda", b"\xff\xd9", b"Exif\0\0",
    b"IDAT", b"IEND", b"iCCP", b"acTL", b"ftyp", b"meta", b"VP8X", b"II*\0", b"--", b"\r\n", b'"', b"{", b"[", b"%",
)  # fmt: skip


def specimens() -> list[bytes]:
    """Return images of all formats, modes and features that Pillow writes."""
    pillow_heif.register_heif_opener()
    with Image.open(photo.SOURCE) as source:
        image = source.convert("RGB").resize((96, 64))
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds: list[tuple[str, str, dict[str, Any]]] = [
        ("RGB", "JPEG", {"exif": exif}), ("RGB", "JPEG", {"progressive": True}), ("CMYK", "JPEG", {}),
        ("L", "JPEG", {}), ("RGB", "PNG", {"exif": exif}), ("RGBA", "PNG", {}), ("P", "PNG", {}), ("1", "PNG", {}),
        ("I;16", "PNG", {}), ("RGB", "WEBP", {"exif": exif}), ("RGBA", "WEBP", {"lossless": True}),
        ("RGB", "AVIF", {"speed": 10}), ("RGBA", "AVIF", {"speed": 10}), ("RGB", "HEIF", {}), ("P", "GIF", {}),
        ("RGB", "BMP", {}), ("P", "BMP", {}), ("RGB", "TIFF", {}), ("RGB", "TIFF", {"compression": "jpeg"}),
        ("RGB", "TIFF", {"compression": "tiff_lzw"}), ("RGB", "TIFF", {"big_tiff": True}), ("F", "TIFF", {}),
    ]  # fmt: skip
    found = []
    for mode, kind, options in kinds:
        buffer = io.BytesIO()
        (image.convert("L") if mode == "I;16" else image).convert(mode).save(buffer, kind, **options)
        found.append(buffer.getvalue())
    return found


def mutated(content: bytes, chance: random.Random) -> bytes:
    """Return `content` with a few mutations; a PNG may get correct checksums, which would reveal all mutations."""
    found = bytearray(content)
    # Mutations have the greatest effect in headers.
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        at = chance.randrange(min(len(found), 600) if chance.random() < 0.7 else len(found)) if found else 0
        token = chance.choice(_TOKENS) if chance.random() < 0.5 else chance.randbytes(chance.choice((1, 2, 4)))
        match chance.randrange(8):
            case 0:
                del found[at:]
            case 1:
                del found[at : at + chance.randrange(1, 40)]
            case 2:
                found[at:at] = token * chance.choice((1, 10, 1_000, 100_000))
            case 3:
                found[at:at] = found[at : at + chance.randrange(1, 400)] * chance.choice((1, 10, 1_000))
            case _:
                found[at : at + len(token)] = token
    return _checked(bytes(found)) if found.startswith(b"\x89PNG") and chance.random() < 0.7 else bytes(found)


def _checked(png: bytes) -> bytes:
    found, at = bytearray(png), 8
    while at + 12 <= len(found):
        (length,) = struct.unpack_from(">I", found, at)
        if at + 12 + length > len(found):
            break
        struct.pack_into(">I", found, at + 8 + length, zlib.crc32(found[at + 4 : at + 8 + length]))
        at += 12 + length
    return bytes(found)


def requests(seed: int, images: list[bytes]) -> Iterator[tuple[str, bytes, str]]:
    """Yield path, body and media type of inputs endlessly."""
    chance = random.Random(seed)  # noqa: S311 - the same inputs every time
    boundary = "x7Fuzz"
    while True:
        path, field = chance.choice(ROUTES)
        content = chance.choice(images)
        kind = chance.random()
        if kind < 0.15:
            value = {field: {"image_url": "data:,x"}, "seed": 7, "fit": "crop", "formats": ["gif"], "prompt": "cat"}
            yield path, mutated(json.dumps(value).encode(), chance), "application/json"
            continue
        if kind < 0.8:
            content = mutated(content, chance)
        body = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="seed"\r\n\r\n7\r\n--{boundary}\r\n'
            f'Content-Disposition: form-data; name="{field}"; filename="a"\r\nContent-Type: image/x\r\n\r\n'
        ).encode()
        body += content + f"\r\n--{boundary}--\r\n".encode()
        if kind >= 0.8:
            body = mutated(body, chance)
        yield path, body, f"multipart/form-data; boundary={boundary}"


def _send(base: str, seed: int, count: int, answers: "collections.Counter[int]", folder: Path) -> None:
    inputs = requests(seed, specimens())
    with httpx2.Client(base_url=base, timeout=60, trust_env=False) as http:
        for _, (path, body, kind) in zip(range(count), inputs, strict=False):
            answer = http.post(path, content=body, headers={"Content-Type": kind})
            answers[answer.status_code] += 1
            if answer.status_code >= 500:
                name = folder / f"{answer.status_code}-{path.replace('/', '_')}-{zlib.crc32(body):08x}"
                name.write_bytes(body)
                print(f"{answer.status_code} {path} {kind}: {answer.text[:200]}; the body is in {name}")


class Watch(threading.Thread):
    """Polls `/health` ten times a second, and measures the memory of the API's processes."""

    def __init__(self, base: str, root: int) -> None:
        super().__init__(daemon=True)
        self._base, self._root = base, root
        self._ended = threading.Event()
        self.seconds: list[float] = []
        self.largest = 0

    def run(self) -> None:
        """Poll until `stop` is called."""
        with httpx2.Client(base_url=self._base, timeout=60, trust_env=False) as http:
            while not self._ended.wait(0.1):
                began = time.perf_counter()
                http.get("/health")
                self.seconds.append(time.perf_counter() - began)
                self.largest = max(self.largest, *resident(self._root))

    def stop(self) -> None:
        """Stop polling."""
        self._ended.set()
        self.join()


def resident(root: int) -> list[int]:
    """Return the resident bytes of each process of a tree."""
    children, sizes = collections.defaultdict(list), {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            children[int(fields[1])].append(int(stat.parent.name))
            sizes[int(stat.parent.name)] = int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
    found, left = [], [root]
    while left:
        process = left.pop()
        found.append(sizes.get(process, 0))
        left += children[process]
    return found


@contextmanager
def service(folder: Path) -> Iterator[tuple[str, int]]:
    """Run an API with its own Redis until the block ends; yield its address and process id."""
    redis_port, port = free_port(), free_port()
    variables = {
        "REDIS_URL": f"redis://127.0.0.1:{redis_port}/0",
        "SVD_MODEL": CPU_MODEL,
        "SVD_DEVICES": "cpu",
        "SVD_DATA_DIR": str(folder / "data"),
        "SVD_MAX_QUEUED": "1000000",
        "SVD_BIND": f"127.0.0.1:{port}",
        "SVD_ACCESS_LOG": "false",
    }
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("SVD_", "VIDEO_", "REDIS_"))}
    command = [sys.executable, "-m", "gunicorn", "-c", "python:svd_service.gunicorn", "svd_service.wsgi:application"]
    redis = [redis_program(), "--port", str(redis_port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    with (folder / "log").open("wb") as log:
        processes = [subprocess.Popen(redis, stdout=log, stderr=log)]
        processes.append(subprocess.Popen(command, env=clean | variables, cwd=folder, stdout=log, stderr=log))
    try:
        base = f"http://127.0.0.1:{port}"
        for _ in range(600):
            with suppress(httpx2.RequestError):
                httpx2.get(f"{base}/health", trust_env=False)
                break
            time.sleep(0.1)
        yield base, processes[1].pid
    finally:
        for process in reversed(processes):
            process.terminate()
            process.wait()


def main() -> None:
    """Send the inputs and report; exit with 1 on failures."""
    parser = argparse.ArgumentParser(description="Send mutated inputs to an API, and check its responses.")
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    answers: collections.Counter[int] = collections.Counter()
    kept = Path(tempfile.mkdtemp(prefix="svd-fuzz-"))
    with tempfile.TemporaryDirectory(prefix="svd-fuzz-") as name, service(Path(name)) as (base, pid):
        idle = resident(pid)
        watch = Watch(base, pid)
        watch.start()
        each = (base, arguments.inputs // CLIENTS)
        clients = [
            threading.Thread(target=_send, args=(each[0], arguments.seed * CLIENTS + number, each[1], answers, kept))
            for number in range(CLIENTS)
        ]
        began = time.monotonic()
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        watch.stop()
        after = resident(pid)
        seconds = time.monotonic() - began
    p95 = statistics.quantiles(watch.seconds, n=20)[-1]
    print(f"{answers.total()} inputs in {seconds:.0f} s: {dict(sorted(answers.items()))}")
    print(f"/health: median {statistics.median(watch.seconds) * 1000:.0f} ms, p95 {p95 * 1000:.0f} ms")
    in_mb = [[round(size / 1e6) for size in sizes] for sizes in (idle, after)]
    print(f"memory of the processes in MB: {in_mb[0]} before, {in_mb[1]} after; largest {watch.largest / 1e6:.0f}")
    failed = sum(count for status, count in answers.items() if status >= 500)
    raise SystemExit(failed > 0 or p95 > MAX_HEALTH or answers.total() < arguments.inputs // CLIENTS * CLIENTS)


if __name__ == "__main__":
    main()
