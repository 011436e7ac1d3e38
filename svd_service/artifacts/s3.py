"""Artifacts in a bucket of an S3-compatible store, so that hosts need no shared disk (extra `s3`).

An object appears completely or not at all, as S3 guarantees for a PUT. A file is written to this host's disk first,
since the index of an MP4 is moved to its front at the end.

obstore must not be imported before its first use: its threads do not survive a fork, and Celery's parent forks.
"""

import io
import logging
import mimetypes
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast

from svd_service.artifacts.base import (
    ArtifactsUnavailableError,
    MissingArtifactError,
    Retrying,
    checked,
    is_name,
    once,
)
from svd_service.artifacts.staging import DISK_TROUBLE, Staging

if TYPE_CHECKING:
    from obstore import GetOptions
    from obstore.store import ClientConfig, RetryConfig, S3Credential, S3CredentialProvider, S3Store

logger = logging.getLogger(__name__)

#: Seconds to connect; between two bytes of a response; and for one request of an upload, of at most `PART` bytes.
CONNECT_TIMEOUT: Final = 2
READ_TIMEOUT: Final = 5
UPLOAD_TIMEOUT: Final = 60

#: Bytes up to which a file is sent in one request, and of each part of a larger one; number of concurrent parts.
PART: Final = 16 * 1024 * 1024
PARTS_AT_ONCE: Final = 2

#: Minimum number of bytes per read from the connection.
CHUNK: Final = 64 * 1024

# Missing from Python's own table on some systems.
_TYPES: Final = {".webp": "image/webp"}


@dataclass(frozen=True)
class Bucket:
    """Location of the objects, and the credentials.

    Attributes:
        name: name of the bucket, which must exist.
        prefix: prefix of all keys; may be empty.
        endpoint: URL of the store; default: AWS in the region.
        public_endpoint: the same as clients reach it, for links; default: `endpoint`.
        access_key_id, secret_access_key: default: obstore's own sources (`AWS_…`, instance metadata).
        path_style: the bucket is the first part of the path; otherwise of the host name.
    """

    name: str
    prefix: str = ""
    endpoint: str | None = None
    public_endpoint: str | None = None
    region: str = "us-east-1"
    access_key_id: str | None = None
    secret_access_key: str | None = None
    path_style: bool = True

    def url(self, *, public: bool = False) -> str:
        """The endpoint, with the bucket in the host's name if it belongs there."""
        url = self.public_endpoint if public else None
        url = (url or self.endpoint or f"https://s3.{self.region}.amazonaws.com").rstrip("/")
        if self.path_style:
            return url
        return url.replace("://", f"://{self.name}.", 1)


class S3Artifacts:
    """An `ArtifactStore` in `bucket`; files are written to the local folder `staging` first.

    No call takes longer than the timeouts above: an unreachable store is detected within `CONNECT_TIMEOUT` or
    `READ_TIMEOUT` seconds, one that vanishes during an upload within `UPLOAD_TIMEOUT`.
    """

    def __init__(self, bucket: Bucket, staging: Path) -> None:
        self._bucket = bucket
        self._staging = Staging(staging)

    def ready(self) -> None:
        """See `ArtifactStore`."""
        import obstore  # noqa: PLC0415

        # A missing bucket is an error, too. One page is enough: the bucket may have a million other objects.
        with _translated():
            next(iter(obstore.list(self._store)), None)

    def put(self, name: str, data: bytes) -> None:
        """See `ArtifactStore`."""
        self._upload(checked(name), data)

    @contextmanager
    def staged(self, name: str, retrying: Retrying = once) -> Iterator[Path]:
        """See `ArtifactStore`."""
        suffix = PurePosixPath(checked(name)).suffix
        retrying(self._prepare)
        with self._staging.file(suffix) as path:
            with _disk(DISK_TROUBLE):
                yield path
            retrying(lambda: self._upload(name, path))

    def open(self, name: str) -> BinaryIO:
        """See `ArtifactStore`. The bytes are streamed as they are read; a `seek` starts a new request."""
        try:
            return cast(BinaryIO, io.BufferedReader(_Reader(self._store, checked(name)), CHUNK))
        except MissingArtifactError:
            self.ready()  # raises if the bucket is missing
            raise

    def size(self, name: str) -> int:
        """See `ArtifactStore`."""
        import obstore  # noqa: PLC0415

        try:
            with _translated(missing=checked(name)):
                return int(obstore.head(self._store, name)["size"])
        except MissingArtifactError:
            self.ready()
            raise

    def link(self, name: str, seconds: float) -> str:
        """See `ArtifactStore`: a presigned URL."""
        import obstore  # noqa: PLC0415

        with _translated():
            return obstore.sign(self._public_store, "GET", checked(name), timedelta(seconds=seconds))

    def delete(self, name: str) -> None:
        """See `ArtifactStore`."""
        import obstore  # noqa: PLC0415

        with suppress(MissingArtifactError), _translated(missing=checked(name)):
            obstore.delete(self._store, name)

    def names(self, folder: str = "") -> Iterator[tuple[str, float]]:
        """See `ArtifactStore`."""
        import obstore  # noqa: PLC0415

        prefix = checked(folder.removesuffix("/")) if folder else None
        with _translated():
            for page in obstore.list(self._store, prefix):
                for found in page:
                    if is_name(found["path"]):  # others may use the bucket, too
                        yield found["path"], found["last_modified"].timestamp()

    def sweep_staging(self, older_than: float) -> int:
        """See `ArtifactStore`, for this host's disk. Parts of interrupted uploads are left to the bucket's
        lifecycle rules.
        """
        with _disk():
            return self._staging.sweep(older_than)

    def _prepare(self) -> None:
        with _disk():
            self._staging.prepare()
        self.ready()

    def _upload(self, name: str, content: bytes | Path) -> None:
        import obstore  # noqa: PLC0415

        # An upload may take long; an unreachable store is detected before.
        with suppress(MissingArtifactError), _translated(missing=name):
            obstore.head(self._store, name)
        with _disk():
            size = content.stat().st_size if isinstance(content, Path) else len(content)
        with _translated():
            obstore.put(
                self._uploading_store,
                name,
                content,
                attributes=_attributes(name),
                use_multipart=size > PART,
                chunk_size=PART,
                max_concurrency=PARTS_AT_ONCE,
            )

    # For responses of any length: the timeout is between two bytes.
    @cached_property
    def _store(self) -> "S3Store":
        return self._connected(self._bucket.url(), {"read_timeout": f"{READ_TIMEOUT}s", "timeout": "1d"})

    # A read timeout would start with the upload, so the whole request is limited.
    @cached_property
    def _uploading_store(self) -> "S3Store":
        return self._connected(self._bucket.url(), {"timeout": f"{UPLOAD_TIMEOUT}s"})

    @cached_property
    def _public_store(self) -> "S3Store":
        return self._connected(self._bucket.url(public=True), {})

    def _connected(self, endpoint: str, timeouts: "ClientConfig") -> "S3Store":
        from obstore.store import S3Store  # noqa: PLC0415

        bucket = self._bucket
        client: ClientConfig = {"allow_http": True, "connect_timeout": f"{CONNECT_TIMEOUT}s", **timeouts}
        # Once, for a connection that the store closed in the meantime, and not after a timeout.
        retry: RetryConfig = {"max_retries": 1, "retry_timeout": timedelta(seconds=1)}
        return S3Store(
            bucket.name,
            prefix=bucket.prefix or None,
            credential_provider=self._credentials(),
            client_options=client,
            retry_config=retry,
            # Everything that obstore would otherwise take from AWS' own variables.
            endpoint=endpoint,
            aws_endpoint_url_s3=endpoint,  # of both, this one counts
            s3_express=False,
            request_payer=False,
            unsigned_payload=False,
            region=bucket.region,
            virtual_hosted_style_request=not bucket.path_style,
            skip_signature=False,
            disable_bulk_delete=True,  # not supported by every store
        )

    def _credentials(self) -> "S3CredentialProvider | None":
        key_id, secret = self._bucket.access_key_id, self._bucket.secret_access_key
        if not key_id or not secret:
            return None
        # As a provider, so that no token from the environment is added.
        fixed: S3Credential = {"access_key_id": key_id, "secret_access_key": secret, "token": None, "expires_at": None}
        return lambda: fixed


class _Reader(io.RawIOBase):
    """The bytes of an object: a stream from its beginning, and after a `seek` a new one from there.

    Raises:
        MissingArtifactError: there is no such object.
        ArtifactsUnavailableError: from every method that reads.
    """

    def __init__(self, store: "S3Store", name: str) -> None:
        self._store = store
        self._name = name
        self._position = 0
        self._rest = memoryview(b"")
        self._stream: Iterator[Any] | None = None
        self._etag: str | None = None
        self._etag, self._size = self._request()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._position >= self._size:
            return 0
        with _translated(missing=self._name):
            if self._stream is None:
                self._request()
            while not self._rest:
                # obstore raises if the stream ends early.
                self._rest = memoryview(next(cast(Iterator[Any], self._stream)))
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        self._position += count
        return count

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if position < 0:
            raise ValueError(f"negative position {position}")
        if position != self._position:
            self._position, self._stream, self._rest = position, None, memoryview(b"")
        return position

    def tell(self) -> int:
        return self._position

    def close(self) -> None:
        # Dropping the stream closes its connection if there is more to read.
        self._stream, self._rest = None, memoryview(b"")
        super().close()

    def _request(self) -> tuple[str | None, int]:
        """Start a stream at the current position; return the object's ETag and length in bytes."""
        import obstore  # noqa: PLC0415

        options: GetOptions = {}
        if self._position:
            options["range"] = {"offset": self._position}
        if self._etag:
            options["if_match"] = self._etag  # never half of one object and half of another
        with _translated(missing=self._name):
            answer = obstore.get(self._store, self._name, options=options)
            self._stream = iter(answer.stream(min_chunk_size=CHUNK))
            etag = answer.meta["e_tag"]
            # A weak one, of a proxy that compresses, matches nothing.
            return None if etag is None or etag.startswith("W/") else etag, answer.meta["size"]


def _attributes(name: str) -> dict[str, str]:
    """Headers of a download from the store itself: media type and file name, the same as the API's."""
    path = PurePosixPath(name)
    kind = _TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    shown = "attachment" if path.suffix == ".zip" else "inline"
    return {"Content-Type": kind, "Content-Disposition": f'{shown}; filename="{path.parent.name}{path.suffix}"'}


@contextmanager
def _translated(missing: str | None = None) -> Iterator[None]:
    """Translate obstore's errors. Their messages, which contain hosts and keys, only go to the log."""
    from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError  # noqa: PLC0415

    try:
        yield
    except FileNotFoundError as error:
        if missing is not None:
            raise MissingArtifactError(f"there is no artifact {missing}") from None
        raise _unavailable("has no such bucket", error) from error
    except (PermissionDeniedError, UnauthenticatedError) as error:
        raise _unavailable("denies access", error) from error
    except (BaseError, OSError) as error:
        raise _unavailable("cannot be reached", error) from error


def _unavailable(what: str, error: Exception) -> ArtifactsUnavailableError:
    logger.warning("the S3 store %s: %s", what, str(error).partition("\n")[0])
    return ArtifactsUnavailableError(f"the artifact store {what}")


@contextmanager
def _disk(trouble: frozenset[int] | None = None) -> Iterator[None]:
    """Translate an `OSError` of this host's disk (only those of `trouble`, if given) into the contract's error."""
    try:
        yield
    except OSError as error:
        if trouble is not None and error.errno not in trouble:
            raise
        raise ArtifactsUnavailableError(f"the disk for unfinished videos fails: {error.strerror or error}") from error
