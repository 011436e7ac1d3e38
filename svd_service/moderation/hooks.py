"""Two ways to ask an operator's hook: an HTTP request, signed like our webhooks, or a command."""

import contextlib
import http.client
import os
import shlex
import signal
import subprocess
import time
import uuid
from contextlib import closing
from typing import Final, Protocol
from urllib.parse import urlsplit

import msgspec

from svd_service.moderation.verdict import HookError, HookRequest
from svd_service.outbound import USER_AGENT, Exchange, RejectedURLError, target_of, within
from svd_service.webhooks.signing import Message, WebhookSecrets

#: Maximum bytes of an answer.
_ANSWER: Final = 65_536

#: The variables that a command gets: the service's own may hold secrets.
_VARIABLES: Final = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR")


class Hook(Protocol):
    """Asks for a verdict.

    Raises:
        HookError: there is none in time.
        UnavailableError: Redis, which holds the signing secret, cannot be reached.
    """

    def __call__(self, request: HookRequest) -> bytes:
        """The answer, as JSON."""
        ...


class HTTPHook:
    """POSTs the request to `url`, with the signature of Standard Webhooks by the installation's secret."""

    def __init__(self, url: str, secrets: WebhookSecrets, timeout: float) -> None:
        self._url = urlsplit(url)
        self._secrets = secrets
        self._timeout = timeout

    def __call__(self, request: HookRequest) -> bytes:
        """See `Hook`."""
        message = Message(f"msg_{uuid.uuid4().hex}", msgspec.json.encode(request))
        headers = {
            "Content-Type": "application/json",
            "User-Agent": USER_AGENT,
            **message.headers(self._secrets.of(""), time.time()),
        }

        def post(exchange: Exchange) -> bytes:
            with closing(exchange.connection(self._url)) as connection:
                connection.request("POST", target_of(self._url), body=message.body, headers=headers)
                with closing(connection.getresponse()) as answer:
                    if answer.status != 200:
                        raise HookError(f"it answered {answer.status}")
                    return answer.read(_ANSWER)

        try:
            # The operator chose the address, so any is permitted.
            return within(self._timeout, post, permitted=lambda _: True)
        except (RejectedURLError, OSError, http.client.HTTPException, ValueError) as error:
            raise HookError(str(error) or type(error).__name__) from None


class CommandHook:
    """Runs `command` with the request on its standard input; the answer is its standard output."""

    def __init__(self, command: str, timeout: float) -> None:
        self._command = shlex.split(command)
        self._timeout = timeout

    def __call__(self, request: HookRequest) -> bytes:
        """See `Hook`."""
        try:
            process = subprocess.Popen(  # noqa: S603 - the operator's own command
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={name: os.environ[name] for name in _VARIABLES if name in os.environ},  # noqa: TID251
                start_new_session=True,
            )
        except OSError as error:
            raise HookError(f"cannot be run: {error.strerror}") from None
        with process:
            try:
                answer, _ = process.communicate(msgspec.json.encode(request), timeout=self._timeout)
            except subprocess.TimeoutExpired:
                raise HookError("timed out") from None
            finally:
                # Its children too; they have its group.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        if process.returncode != 0:
            raise HookError(f"it ended with status {process.returncode}")
        return answer
