"""Requests to the service: connection, retries, errors. The client's methods are built on it."""

import contextlib
import errno
import ipaddress
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlsplit

import httpx2

from svd_service import __version__
from svd_service.client.errors import AnswerError, InvalidKeyError, UnreachableError, error_of
from svd_service.client.events import Event, read_events
from svd_service.retry import Retry

#: Statuses of a service that is restarting, or of a proxy in front of it.
AWAY: Final = frozenset({502, 503, 504})

#: Codes of a 404 that concerns the job or group, not the route.
_UNKNOWN: Final = frozenset({"unknown_job", "unknown_group"})

#: Pauses between retries: seconds of the first, growth and random spread.
FIRST_PAUSE, GROWTH, JITTER = 0.2, 1.5, 0.1

_Parsed = TypeVar("_Parsed")


class Transport:
    """Requests to the service at `base_url`; `timeout` and `patience` in seconds, as of `Client`.

    Raises:
        InvalidKeyError: the key cannot be sent.
        UnreachableError: the address, or a proxy or certificates that the environment names, are invalid.
    """

    def __init__(self, base_url: str, api_key: str | None, timeout: float, patience: float) -> None:
        self.base_url = (base_url if "://" in base_url else f"http://{base_url}").rstrip("/")
        self._patience = patience
        headers = {"User-Agent": f"svd-service/{__version__}"}
        if key := _checked(api_key or ""):
            headers["Authorization"] = f"Bearer {key}"
        self._http = _open(self.base_url, headers, timeout)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def get(self, path: str, within: float | None = None) -> httpx2.Response:
        """Return the successful response to a GET, retried; if `within` is given, for at most so many seconds."""
        return self.retry(lambda: self.send("GET", path), within=within)

    def send(self, method: str, path: str, **content: Any) -> httpx2.Response:
        """Return the response to one request; raises the error of an unsuccessful one."""
        answer = self.request(method, path, **content)
        if not answer.is_success:
            raise error_of(answer)
        return answer

    def request(self, method: str, path: str, **content: Any) -> httpx2.Response:
        """Return the response to one request, successful or not.

        Raises:
            AnswerError: the server redirects to another address, to which neither a key nor an image is sent.
        """
        with self._named_errors():
            answer = self._http.request(method, self.base_url + path, **content)
            if answer.has_redirect_location:
                raise self._redirected(answer, path.partition("?")[0])
            return answer

    def _redirected(self, answer: httpx2.Response, path: str) -> AnswerError:
        target = str(answer.url.join(answer.headers["Location"]).copy_with(query=None))
        if target.endswith(path):
            message = f"{self.base_url} redirects to {target.removesuffix(path)}: use that address"
        else:
            message = f"the server at {self.base_url} is not svd-service: it redirects to {target}"
        return AnswerError(message, answer.status_code)

    def submit(
        self,
        form: Mapping[str, str],
        files: Mapping[str, tuple[str, bytes]],
        cancel_after: int | None = None,
        idempotency_key: str | None = None,
    ) -> httpx2.Response:
        """Return the response to a submission, which has `cancel_after` seconds, if given, to end."""
        deadline = {} if cancel_after is None else {"Cancel-After": str(cancel_after)}
        headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4()), **deadline}
        # Not after 429: while the queue is full, the image must not be uploaded repeatedly.
        return self.retry(lambda: self.send("POST", "/generate", data=form, files=files, headers=headers), AWAY)

    def cancel(self, path: str) -> httpx2.Response | None:
        """Return the response to cancelling the job or group at `path`; `None`: the service may lack the route.

        Services of earlier releases only have the DELETE that deletes what has ended.
        """
        try:
            return self.retry(lambda: self.send("POST", f"{path}/cancel"))
        except AnswerError as error:
            if error.status_code in {404, 405} and error.code not in _UNKNOWN:
                return None
            raise

    def events(self, path: str, last_id: str) -> Iterator[Event]:
        """Yield the server-sent events at `path` after the one with `last_id`."""
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last_id} if last_id else {})
        with self._named_errors(), self._http.stream("GET", self.base_url + path, headers=headers) as answer:
            if not answer.is_success:
                answer.read()
                raise error_of(answer)
            yield from read_events(answer.iter_lines())

    def download(self, path: str, target: Path) -> Path:
        """Write what is at `path` to the file `target`, which is replaced when the download is complete; retried.

        Raises:
            OSError: the file cannot be written.
        """
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
        # Not after the target, whose name may be as long as names can be.
        part = target.with_name(f".svd-{uuid.uuid4().hex[:8]}.part")
        try:
            self.retry(lambda: self.stream_to(part, path))
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
        return target

    def stream_to(self, part: Path, path: str) -> httpx2.Response:
        """Write the file at `path` to `part`.

        Raises:
            AnswerError: another server answers, such as a proxy with its login page.
            OSError: the file cannot be written.
        """
        # The service may redirect to its store. The API key is not sent there.
        reading = self._http.stream("GET", self.base_url + path, follow_redirects=True)
        with self._named_errors(), reading as answer:
            if not answer.is_success:
                answer.read()
                raise error_of(answer)
            if _is_page(answer):
                raise _another_server(answer)
            with part.open("wb") as file:
                for block in answer.iter_bytes():
                    file.write(block)
        return answer

    @contextlib.contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except (httpx2.RequestError, httpx2.InvalidURL, UnicodeError) as error:  # UnicodeError: of a host's name
            raise UnreachableError(f"{self.base_url}: {str(error) or type(error).__name__}") from error

    def retry(
        self,
        request: Callable[[], httpx2.Response],
        statuses: frozenset[int] = AWAY | {429},
        within: float | None = None,
    ) -> httpx2.Response:
        """Return the response to `request`, retried while the service is unreachable or answers one of `statuses`.

        If `within` is given, no attempt begins after so many seconds.
        """
        patience = self._patience if within is None else min(self._patience, within)
        return self._retry(request, lambda error: _may_pass(error, statuses), patience)

    def act(self, path: str, **content: Any) -> httpx2.Response:
        """Return the response to a POST that must not be repeated: retried if the service has certainly not acted."""
        return self._retry(lambda: self.send("POST", path, **content), _is_undone, self._patience)

    def _retry(
        self, request: Callable[[], httpx2.Response], is_worthwhile: Callable[[Exception], bool], patience: float
    ) -> httpx2.Response:
        retry = Retry(
            (UnreachableError, AnswerError),
            patience,
            first_pause=FIRST_PAUSE,
            factor=GROWTH,
            jitter=JITTER,
            is_worthwhile=is_worthwhile,
        )
        return retry(request)


def read(answer: httpx2.Response, parse: Callable[[Any], _Parsed]) -> _Parsed:
    """Return what `parse` makes of the response's JSON, or of `None` if the response is empty.

    Raises:
        AnswerError: another server answers: the body is not JSON, or has another shape.
    """
    try:
        return parse(answer.json() if answer.content else None)
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise _another_server(answer) from error


def _another_server(answer: httpx2.Response) -> AnswerError:
    server = answer.url.netloc.decode()
    return AnswerError(f"the server at {server} is not svd-service: its answer has another form", answer.status_code)


def _is_page(answer: httpx2.Response) -> bool:
    """Return whether the response is a text for people or programs, which no result is."""
    kind = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    return kind in {"text/html", "application/xhtml+xml", "application/json"} or kind.endswith("+json")


def form_of(
    image: str | PathLike[str] | bytes | None, parameters: Mapping[str, object]
) -> tuple[dict[str, str], dict[str, tuple[str, bytes]]]:
    """Return the fields and the files of a submission's form.

    Raises:
        OSError: the file cannot be read.
    """
    form = {name: _text(value) for name, value in parameters.items() if value is not None}
    return form, {} if image is None else {"image": file_of(image)}


def file_of(file: str | PathLike[str] | bytes) -> tuple[str, bytes]:
    """Return the name and the content of a file, given as its path or its bytes.

    Raises:
        OSError: the file cannot be read.
    """
    return ("image", file) if isinstance(file, bytes) else (_encodable(Path(file).name), Path(file).read_bytes())


def _checked(api_key: str) -> str:
    """Return the key without surrounding whitespace, such as the newline at the end of a file.

    Raises:
        InvalidKeyError: it cannot be sent.
    """
    key = api_key.strip()
    if not (key.isascii() and key.isprintable()):
        raise InvalidKeyError("the API key has control or non-ASCII characters, which no key has")
    return key


def _may_pass(error: Exception, statuses: frozenset[int]) -> bool:
    if isinstance(error, AnswerError):
        return error.status_code in statuses
    hopeless = (httpx2.UnsupportedProtocol, httpx2.InvalidURL, httpx2.TooManyRedirects, UnicodeError)
    return not isinstance(error.__cause__, hopeless)


def _is_undone(error: Exception) -> bool:
    """Return whether the service received no request, or says that it can be sent again."""
    if isinstance(error, AnswerError):
        return error.status_code in {429, 503} and error.retry_after is not None
    return isinstance(error.__cause__, (httpx2.ConnectError, httpx2.ConnectTimeout))


def _text(value: object) -> str:
    """Return a parameter as a form field."""
    return _encodable(",".join(value) if isinstance(value, (list, tuple)) else str(value))


def _encodable(text: str) -> str:
    """Return the text with "?" for what UTF-8 cannot encode: the bytes of a name or argument in another encoding."""
    return text.encode(errors="replace").decode()


def word(job_id: str) -> str:
    """Return an id as a part of a path."""
    return quote(job_id, safe="", errors="replace")


def _open(base_url: str, headers: Mapping[str, str], timeout: float) -> httpx2.Client:
    try:
        is_loopback = _is_loopback(base_url)
    except ValueError as error:
        raise UnreachableError(f"{base_url}: {error}") from error
    try:
        # A proxy from the environment cannot be used to reach this machine.
        return httpx2.Client(headers=headers, timeout=timeout, trust_env=not is_loopback)
    except OSError as error:
        variables = "the certificates of SSL_CERT_FILE or SSL_CERT_DIR cannot be read"
        raise UnreachableError(f"{base_url}: {variables}: {error.strerror or error}") from error
    except (ValueError, ImportError, httpx2.InvalidURL) as error:
        variables = "the proxy of ALL_PROXY, HTTP_PROXY or HTTPS_PROXY cannot be used"
        raise UnreachableError(f"{base_url}: {variables}: {error}") from error


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
