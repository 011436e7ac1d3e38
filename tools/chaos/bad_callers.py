"""Callers whose requests could slow down other callers: slow clients, and uploads that are expensive to parse."""

import socket
import threading
import time
from collections import Counter
from contextlib import ExitStack, suppress

import httpx2
from PIL import Image

from tools.harness.hostile_images import hostile_images

#: Connections of one attack by slow clients: more than the API has threads.
CONNECTIONS = 110

_HALF_A_REQUEST = b"POST /generate HTTP/1.1\r\nHost: localhost\r\nX-Slow: "


class BadCallers:
    """Make harmful requests, each in its own thread. `answers` counts the statuses of hostile uploads by file name."""

    def __init__(self, url: str) -> None:
        self._url = httpx2.URL(url)
        self._images = list(hostile_images(Image.new("RGB", (64, 48), (9, 99, 9))))
        self._threads: list[threading.Thread] = []
        self.answers: Counter[str] = Counter()

    def be_slow(self, seconds: float) -> bool:
        """Open connections, send half a request on each, and close them after `seconds`."""
        return self._start(self._hold, seconds)

    def upload(self, pick: float) -> bool:
        """Upload the hostile image that `pick` (0 to 1) chooses."""
        return self._start(self._post, *self._images[int(pick * len(self._images))])

    def join(self) -> None:
        """Wait until all requests have ended."""
        for thread in self._threads:
            thread.join()

    def _start(self, act, *arguments) -> bool:
        thread = threading.Thread(target=act, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()
        return True

    def _hold(self, seconds: float) -> None:
        with ExitStack() as stack:
            for _ in range(CONNECTIONS):
                with suppress(OSError):
                    client = socket.create_connection((self._url.host, self._url.port), timeout=5)
                    stack.enter_context(client)
                    client.sendall(_HALF_A_REQUEST)
            time.sleep(seconds)

    def _post(self, name: str, image: bytes) -> None:
        with httpx2.Client(base_url=self._url, timeout=60, trust_env=False) as client:
            try:
                answer = str(client.post("/generate", files={"image": image}).status_code)
            except httpx2.HTTPError:
                answer = "no answer"  # the API was killed, or the connection closed
        self.answers[f"{name}: {answer}"] += 1
