"""Marking of files by a worker; unsigned files never become visible."""

import hashlib
import io
import logging
from dataclasses import replace
from datetime import timedelta

import c2pa
import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from svd_service import bootstrap
from svd_service.config import ConfigurationError
from svd_service.jobs.job import ResultFile, State, Still
from svd_service.jobs.marks import library_type
from svd_service.ledger.signers import Signers
from svd_service.ledger.workers import WorkerStatus
from svd_service.marking import chain as chains
from svd_service.marking.c2pa_library import context
from svd_service.marking.chain import Chain
from svd_service.marking.signer import Signer
from svd_service.parameters import Format
from svd_service.worker import marking
from svd_service.worker.attempt import run_job
from svd_service.worker.marking import UNMARKED, Marking, open_marking
from tests.unit.marking.authorities import Authority, time_stamp_authority
from tests.unit.worker.samples import VIDEO, rendering, submitted


@pytest.fixture
def signers(redis_client, settings):
    return Signers(redis_client, settings)


def state_of(content: bytes, kind: ResultFile = Format.MP4) -> str:
    with context() as settings, c2pa.Reader(library_type(kind), io.BytesIO(content), context=settings) as reader:
        return str(reader.get_validation_state())


def chain_of(marking: Marking) -> Chain:
    assert marking._signer is not None
    return marking._signer.chain


@pytest.fixture(name="render")
def _render(files):
    def render(image, parameters, path, report, *, further, **more):
        made = rendering(image, parameters, path, report)
        path.write_bytes(files[Format.MP4])
        for kind, target in further.items():
            target.write_bytes(files[kind])
        return replace(made, thumbnail=files["thumbnail"], spritesheet=files["spritesheet"])

    return render


def test_every_file_of_a_result_except_webm_is_signed(worker_context, settings, signers, render, files):
    job = submitted(worker_context.jobs, formats=tuple(Format))
    worker_context = replace(worker_context, render=render, marking=open_marking(settings, signers))
    assert run_job(job.id, worker_context) == "finished"
    result = worker_context.jobs.queries.find(job.id).result
    for kind in result.kinds:
        opened = worker_context.jobs.results.open(job.id, kind=kind)
        with opened.file:
            content = opened.file.read()
        if kind is Format.WEBM:
            assert content == files[Format.WEBM]
        else:
            assert state_of(content, kind) == "Valid"
        if isinstance(kind, Format):
            assert (opened.size, opened.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    credentials = result.provenance["content_credentials"]
    assert credentials == {
        "state": "signed, signer unknown",
        "unsigned_sha256": hashlib.sha256(files[Format.MP4]).hexdigest(),
    }


def test_a_copy_of_the_content_cache_has_a_valid_signature(
    worker_context, make_settings, redis_url, signers, render, published
):
    settings = make_settings(REDIS_URL=redis_url, SVD_CONTENT_CACHE="true")
    jobs = bootstrap.use_cases(
        worker_context.jobs.ledger, worker_context.jobs.artifacts, settings, lambda job_id, _: None
    )
    worker_context = replace(worker_context, jobs=jobs, render=render, marking=open_marking(settings, signers))
    jobs.ledger.workers.heartbeat(WorkerStatus("host/0", "cpu", "instance", 1, jobs.model.name, True, 0.0, 1.0))
    first = submitted(jobs)
    assert run_job(first.id, worker_context) == "finished"
    second = submitted(jobs)
    assert second.cached_from == first.id
    contents = []
    for job in (first, second):
        with jobs.results.open(job.id).file as file:
            contents.append(file.read())
    assert contents[0] == contents[1]
    assert state_of(contents[1]) == "Valid"


def test_a_file_that_cannot_be_signed_fails_the_job_and_leaves_nothing(worker_context, job, settings, signers):
    worker_context = replace(
        worker_context, marking=open_marking(settings, signers)
    )  # the stand-in's video is not an MP4
    assert run_job(job.id, worker_context) == "failed"
    failed = worker_context.jobs.queries.find(job.id)
    assert (failed.state, failed.failure.code) == (State.FAILED, "signing_failed")
    assert list(worker_context.jobs.artifacts.names()) == []


def test_nothing_is_visible_if_the_process_is_killed_while_signing(
    worker_context, job, settings, signers, render, chain
):
    class Killed(BaseException):
        """Stands for SIGKILL: nothing catches it."""

    class Dying(Signer):
        def sign_file(self, path, media_type, claims):
            super().sign_file(path, media_type, claims)
            raise Killed

    worker_context = replace(worker_context, render=render, marking=Marking(Dying(chain), "signed, signer unknown"))
    with pytest.raises(Killed):
        run_job(job.id, worker_context)
    assert [name.partition("/")[0] for name, _ in worker_context.jobs.artifacts.names()] == ["inputs"]
    assert worker_context.jobs.queries.find(job.id).result is None


def test_hosts_that_start_concurrently_share_one_chain(make_settings, redis_url, redis_client, tmp_path):
    hosts = [make_settings(REDIS_URL=redis_url, SVD_DATA_DIR=str(tmp_path / name)) for name in "abc"]
    found = [open_marking(host, Signers(redis_client, host)) for host in hosts]
    assert len({chain_of(each).fingerprint for each in found}) == 1
    assert len({chains.stored(host.data_dir) for host in hosts}) == 1
    assert len(Signers(redis_client, hosts[0]).certificates()) == 1


def test_a_host_that_loses_the_race_uses_the_chain_of_the_other(settings, signers, monkeypatch):
    theirs = chains.make()
    share = signers.share

    def late(chain: str) -> str:
        share(theirs.pem.decode())
        found: str = share(chain)
        return found

    monkeypatch.setattr(signers, "share", late)
    assert chain_of(open_marking(settings, signers)) == theirs
    assert chains.stored(settings.data_dir) == theirs


def test_the_chain_survives_the_loss_of_redis_data(settings, signers, redis_client):
    before = chain_of(open_marking(settings, signers))
    redis_client.flushall()
    assert chain_of(open_marking(settings, signers)) == before


@pytest.fixture
def settings_with(make_settings, redis_url, tmp_path):
    """Settings of an operator with a chain of their own."""

    def make(chain):
        files = {"SVD_C2PA_CERT_FILE": chain.certificates, "SVD_C2PA_KEY_FILE": chain.key}
        for name, content in files.items():
            (tmp_path / name).write_bytes(content)
        return make_settings(REDIS_URL=redis_url, **{name: tmp_path / name for name in files})

    return make


def test_an_operators_certificate_signs_in_its_name(settings_with, redis_client, signers, chain):
    found = open_marking(settings_with(chain), signers)
    assert found.state == f"signed by {chain.common_name}"
    assert signers.certificates() == [chain.signer.decode()]
    redis_client.flushall()
    found.register(signers)
    assert signers.certificates() == [chain.signer.decode()]
    assert signers.shared() is None


@pytest.mark.parametrize("purposes", [(), (ExtendedKeyUsageOID.SERVER_AUTH,)])
def test_a_certificate_that_may_not_sign_is_a_configuration_error(settings_with, signers, tmp_path, purposes):
    settings = settings_with(Authority().chain(purposes))
    with pytest.raises(ConfigurationError, match=rf"SVD_C2PA_CERT_FILE='{tmp_path}.*certificate"):
        open_marking(settings, signers)
    assert signers.certificates() == []


def test_with_an_expired_certificate_nothing_is_generated(worker_context, job):
    chain = Authority().chain(valid_for=-timedelta(hours=1))
    worker_context = replace(worker_context, render=None, marking=Marking(Signer(chain), "signed by An operator"))
    assert run_job(job.id, worker_context) == "failed"
    failure = worker_context.jobs.queries.find(job.id).failure
    assert failure.code == "signing_failed"
    assert "the certificate is valid from" in failure.message


def test_previews_are_signed_without_a_time_stamp(job, files, chain, tmp_path):
    with time_stamp_authority(tmp_path) as authority:
        marking = Marking(Signer(chain, authority.url), "signed")
        preview = marking.sign_preview(job, files[Still.THUMBNAIL])
        assert authority.requests == []
        assert state_of(preview, Still.THUMBNAIL) == "Valid"
        marking.sign_still(job, files[Still.THUMBNAIL], Still.THUMBNAIL)
        assert len(authority.requests) == 1


def test_with_c2pa_off_the_worker_warns_and_changes_nothing(
    make_settings, redis_url, signers, worker_context, job, caplog
):
    found = open_marking(make_settings(REDIS_URL=redis_url, SVD_C2PA="off"), signers)
    assert found is UNMARKED
    assert (found.state, signers.shared()) == ("off", None)
    assert "not marked as generated: SVD_C2PA is off" in caplog.text
    assert run_job(job.id, replace(worker_context, marking=found)) == "finished"
    opened = worker_context.jobs.results.open(job.id)
    with opened.file as file:
        assert file.read() == VIDEO
    assert opened.result.provenance["content_credentials"]["state"] == "off"


def test_without_the_package_the_worker_warns_and_continues(
    settings, signers, worker_context, job, monkeypatch, caplog
):
    monkeypatch.setattr(marking, "is_installed", lambda: False)
    found = open_marking(settings, signers)
    assert found.state == "not installed"
    assert "pip install 'svd-service[c2pa]'" in caplog.text
    assert run_job(job.id, replace(worker_context, marking=found)) == "finished"


def test_the_log_names_the_signer(settings, signers, caplog):
    caplog.set_level(logging.INFO)
    chain = chain_of(open_marking(settings, signers))
    assert f"Content Credentials: signed, signer unknown (certificate {chain.fingerprint[:16]})" in caplog.text
