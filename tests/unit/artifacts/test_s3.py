"""What only the S3 store has: links, its settings, time limits, and what its errors reveal."""

import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import botocore.auth
import pytest
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from svd_service.api.http.downloads import KINDS
from svd_service.artifacts import s3
from svd_service.artifacts.base import ArtifactStore, ArtifactsUnavailableError, MissingArtifactError
from svd_service.artifacts.choice import store_of
from svd_service.artifacts.local import LocalArtifacts
from svd_service.artifacts.s3 import Bucket, S3Artifacts
from svd_service.config import ConfigurationError, Settings
from svd_service.jobs.job import RESULT_FILES, ResultFile
from svd_service.jobs.job_files import file_name
from tools.harness.stand_in import Answer, StandIn

NAME = "results/3f2b/1.mp4"

Make = Callable[..., ArtifactStore]


@pytest.fixture
def make(make_settings: Callable[..., Settings], s3_variables: dict[str, str]) -> Make:
    """The store of the test's own bucket, with other settings as keywords."""
    return lambda **variables: store_of(make_settings(**(s3_variables | variables)))


@pytest.fixture
def store(make: Make) -> ArtifactStore:
    return make()


@pytest.fixture
def silent() -> Iterator[str]:
    """URL of a server that accepts connections and never answers, as if its cable were unplugged."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_the_settings_choose_the_store(make_settings: Callable[..., Settings], tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    for variables, root in (({}, tmp_path / "data"), ({"SVD_ARTIFACTS": shared}, shared)):
        store = store_of(make_settings(**variables))
        store.put(NAME, b"video")
        assert isinstance(store, LocalArtifacts)
        assert (root / NAME).read_bytes() == b"video"
    assert isinstance(store_of(make_settings(SVD_ARTIFACTS="s3://bucket/a/prefix/")), S3Artifacts)


@pytest.mark.parametrize(
    "place", ["s3://", "s3://B", "s3://bucket/../other", "s3://bucket//x", "data", "http://host/x"]
)
def test_an_invalid_store_url_is_rejected(make_settings: Callable[..., Settings], place: str) -> None:
    with pytest.raises(ConfigurationError, match="SVD_ARTIFACTS"):
        make_settings(SVD_ARTIFACTS=place)


def test_an_access_key_without_its_secret_is_rejected(make_settings: Callable[..., Settings]) -> None:
    with pytest.raises(ConfigurationError, match="SVD_S3_SECRET_ACCESS_KEY"):
        store_of(make_settings(SVD_ARTIFACTS="s3://bucket", SVD_S3_ACCESS_KEY_ID="a"))


def test_without_the_extra_the_message_names_the_package_to_install(
    make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"svd-service\[s3\]"):
        store_of(make_settings(SVD_ARTIFACTS="s3://bucket"))


def test_the_endpoint_of_the_bucket_follows_the_settings() -> None:
    assert Bucket("b", region="eu-west-3").url() == "https://s3.eu-west-3.amazonaws.com"
    assert Bucket("b", path_style=False).url() == "https://b.s3.us-east-1.amazonaws.com"
    assert Bucket("b", endpoint="http://host:9000/").url() == "http://host:9000"
    ours = Bucket("b", endpoint="http://host:9000", public_endpoint="https://videos.example", path_style=False)
    assert (ours.url(), ours.url(public=True)) == ("http://b.host:9000", "https://b.videos.example")


@pytest.mark.parametrize("kind", RESULT_FILES)
def test_a_link_serves_the_bytes_with_their_type_and_name(store: ArtifactStore, kind: ResultFile) -> None:
    name = file_name(NAME, kind)
    store.put(name, b"bytes")
    link = store.link(name, 60)
    assert link is not None
    media_type, ending = KINDS[kind]
    shown = "attachment" if ending == ".zip" else "inline"
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(link, timeout=10) as answer:
        assert (answer.read(), answer.headers["Content-Type"]) == (b"bytes", media_type)
        assert answer.headers["Content-Disposition"] == f'{shown}; filename="3f2b{ending}"'


def test_a_link_expires_and_has_the_public_endpoint(make: Make) -> None:
    link = make(SVD_S3_PUBLIC_ENDPOINT="https://videos.example").link(NAME, 60)
    assert link is not None
    assert link.startswith("https://videos.example/svd-test/")
    assert "X-Amz-Expires=60&" in link


def test_a_link_is_signed_as_botocore_signs_it(
    make: Make, s3_variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    key = Credentials(s3_variables["SVD_S3_ACCESS_KEY_ID"], s3_variables["SVD_S3_SECRET_ACCESS_KEY"])
    link = urlsplit(make().link(NAME, 60) or "")
    signed_at = datetime.strptime(parse_qs(link.query)["X-Amz-Date"][0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda: signed_at)
    theirs = AWSRequest("GET", link._replace(query="").geturl())
    botocore.auth.S3SigV4QueryAuth(key, "s3", s3_variables["SVD_S3_REGION"], expires=60).add_auth(theirs)
    assert parse_qs(link.query) == parse_qs(urlsplit(theirs.url).query)


def test_a_wrong_secret_is_rejected(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ArtifactsUnavailableError, match="denies access"):
        make(SVD_S3_SECRET_ACCESS_KEY="wrong").put(NAME, b"video")
    assert "403" in caplog.text


def test_the_local_store_has_no_links(tmp_path: Path) -> None:
    store: ArtifactStore = LocalArtifacts(tmp_path)
    assert store.link(NAME, 60) is None


def test_variables_of_aws_are_ignored(
    make: Make, s3_variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1",
        "AWS_S3_EXPRESS": "true",
        "AWS_REQUESTER_PAYS": "true",
        "AWS_UNSIGNED_PAYLOAD": "true",
        "AWS_ACCESS_KEY_ID": "another",
        "AWS_SESSION_TOKEN": "leaked",
        "AWS_REGION": "mars-north-1",
        "AWS_SKIP_SIGNATURE": "true",
    }.items():
        monkeypatch.setenv(name, value)
    store = make()
    store.put(NAME, b"video")
    link = store.link(NAME, 60) or ""
    assert f"{s3_variables['SVD_S3_ACCESS_KEY_ID']}%2F" in link
    assert "%2Feu-central-1%2F" in link
    assert "leaked" not in link


def test_a_file_of_several_parts_is_stored_whole(store: ArtifactStore) -> None:
    content = os.urandom(1_000_000) * 17
    assert len(content) > s3.PART
    with store.staged(NAME) as path:
        path.write_bytes(content)
    with store.open(NAME) as file:
        assert file.read() == content


def test_reading_streams_the_file(store: ArtifactStore) -> None:
    store.put(NAME, bytes(8_000_000))
    with store.open(NAME) as file:
        assert len(file.read(10)) == 10
        file.seek(7_999_990)
        assert len(file.read()) == 10
        store.delete(NAME)
        file.seek(0)
        with pytest.raises(MissingArtifactError):
            file.read(10)


def test_a_file_replaced_while_it_is_read_is_not_mixed_with_its_replacement(store: ArtifactStore) -> None:
    store.put(NAME, b"a" * 1_000_000)
    with store.open(NAME) as file:
        file.read(10)
        store.put(NAME, b"b" * 1_000_000)
        file.seek(500_000)
        with pytest.raises(ArtifactsUnavailableError):
            file.read(10)


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    server = StandIn()
    yield server
    server.stop()


def test_to_check_the_store_takes_one_request(make: Make, stand_in: StandIn) -> None:
    # One page of the many objects of a bucket that the service shares.
    objects = "".join(
        f"<Contents><Key>{number}</Key><Size>1</Size><LastModified>2026-01-01T00:00:00Z</LastModified></Contents>"
        for number in range(1000)
    )
    more = "<IsTruncated>true</IsTruncated><NextContinuationToken>more</NextContinuationToken>"
    listing = Answer(f"<ListBucketResult>{more}{objects}</ListBucketResult>".encode())
    stand_in.answer("GET /svd-test?list-type=2", listing)
    make(SVD_S3_ENDPOINT=stand_in.url, SVD_ARTIFACTS="s3://svd-test").ready()
    assert len(stand_in.requests) == 1


def test_a_weak_etag_does_not_prevent_seeking(make: Make, stand_in: StandIn) -> None:
    content = b"0123456789" * 100_000  # more than a buffer
    headers = {"ETag": 'W/"weak"', "Last-Modified": "Mon, 05 Jan 2026 00:00:00 GMT"}
    rest = Answer(content[500_007:], 206, {**headers, "Content-Range": "bytes 500007-999999/1000000"})
    stand_in.answer(f"GET /svd-test/{NAME}", Answer(content, headers=headers), rest)
    with make(SVD_S3_ENDPOINT=stand_in.url, SVD_ARTIFACTS="s3://svd-test").open(NAME) as file:
        assert file.read(2) == b"01"
        file.seek(500_007)
        assert file.read() == content[500_007:]
    # A server must answer 412 to a weak ETag in it.
    assert [request.headers["If-Match"] for request in stand_in.requests] == [None, None]


USES: dict[str, Callable[[ArtifactStore], object]] = {
    "ready": lambda store: store.ready(),
    "put": lambda store: store.put(NAME, b"video"),
    "staged": lambda store: store.staged(NAME).__enter__(),
    "open": lambda store: store.open(NAME),
    "size": lambda store: store.size(NAME),
    "delete": lambda store: store.delete(NAME),
    "names": lambda store: list(store.names("results")),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_a_store_that_does_not_answer_times_out(
    make: Make, silent: str, use: Callable[[ArtifactStore], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "READ_TIMEOUT", 1)
    began = time.monotonic()
    with pytest.raises(ArtifactsUnavailableError) as caught:
        use(make(SVD_S3_ENDPOINT=silent))
    # Without a limit it would wait forever. (This machine may be slow, so the bound is wide.)
    assert time.monotonic() - began < 30
    # The message reaches callers: it must not contain the store's address or its answer.
    assert str(caught.value) == "the artifact store cannot be reached"


@pytest.mark.parametrize("use", [use for name, use in USES.items() if name != "delete"])
def test_a_missing_bucket_is_not_reported_as_a_missing_artifact(
    make: Make, use: Callable[[ArtifactStore], object]
) -> None:
    with pytest.raises(ArtifactsUnavailableError):
        use(make(SVD_ARTIFACTS="s3://no-such-bucket"))


def test_without_a_writable_disk_nothing_is_staged(make: Make, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = make(SVD_DATA_DIR=str(tmp_path / "file" / "data"))
    with pytest.raises(ArtifactsUnavailableError, match="disk"), store.staged(NAME):
        pytest.fail("the block was entered")
    store.put(NAME, b"needs no disk")


def test_foreign_objects_in_the_bucket_are_not_listed(make: Make, s3_variables: dict[str, str]) -> None:
    place = s3_variables["SVD_ARTIFACTS"]
    ours, another = make(), make(SVD_ARTIFACTS=f"{place}-another")
    another.put(NAME, b"another's")
    ours.put(NAME, b"ours")
    assert [name for name, _ in ours.names()] == [NAME]


FORKED = """
import os, sys
from svd_service.artifacts.choice import store_of
from svd_service.config import Settings

store = store_of(Settings.from_mapping(os.environ))
print("obstore" in sys.modules, flush=True)  # a process that has loaded it must not fork
child = os.fork()
store.put("results/3f2b/%d.mp4" % (child == 0), b"video")
print("put", flush=True)
if child:
    os.waitpid(child, 0)
"""


def test_a_store_created_before_a_fork_works_after_it(s3_variables: dict[str, str], tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "SVD_DATA_DIR": str(tmp_path), **s3_variables}
    command = [sys.executable, "-c", FORKED]
    done = subprocess.run(
        command, env=environment, cwd=Path(__file__).parents[3], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.split() == ["False", "put", "put"], done.stderr
