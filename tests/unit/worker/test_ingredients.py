"""The Content Credentials of an image are an ingredient of the video's, and never a reason to reject its pixels."""

import io
import json
import os
import time
from dataclasses import replace

import c2pa
import pytest
from msgspec.structs import replace as replace_settings
from PIL import Image

from svd_service.artifacts.local import LocalArtifacts
from svd_service.bootstrap import use_cases
from svd_service.jobs.content_cache import ContentCache
from svd_service.jobs.groups import Seeds
from svd_service.jobs.images import pool
from svd_service.jobs.images.pool import DecoderEndedError
from svd_service.jobs.job import State
from svd_service.jobs.job_files import credentials_name, input_name, input_video_name
from svd_service.jobs.maintenance import ORPHAN_AGE
from svd_service.jobs.marks import MARKS, Mark
from svd_service.jobs.parameters import VideoRequest
from svd_service.jobs.submit import Order
from svd_service.ledger.signers import Signers
from svd_service.marking import chain as chains
from svd_service.marking import reader
from svd_service.marking.c2pa_library import reading_context
from svd_service.marking.findings import Verdict
from svd_service.marking.signer import Claims, Signer
from svd_service.parameters import Format
from svd_service.worker.attempt import run_job
from svd_service.worker.marking import open_marking
from tests.unit.worker.samples import raising, rendering

PILLOW = {"image/png": "PNG", "image/jpeg": "JPEG", "image/webp": "WEBP"}


@pytest.fixture(scope="session")
def camera():
    return chains.make()


@pytest.fixture(name="photo")
def _photo(camera):
    def photo(media_type="image/png", size=(256, 144)):
        buffer = io.BytesIO()
        Image.effect_noise(size, 50).convert("RGB").save(buffer, PILLOW[media_type])
        return Signer(camera).sign(buffer.getvalue(), media_type, Claims("photo", "a-camera", "7"))

    return photo


@pytest.fixture(name="worker_context")
def _slot(worker_context, settings, redis_client, files):
    def render(image, parameters, path, report, *, further, **more):
        made = rendering(
            image if isinstance(image, Image.Image) else Image.new("RGB", (256, 144)), parameters, path, report
        )
        path.write_bytes(files[Format.MP4])
        for kind, target in further.items():
            target.write_bytes(files[kind])
        return replace(made, thumbnail=files["thumbnail"], spritesheet=files["spritesheet"])

    return replace(worker_context, render=render, marking=open_marking(settings, Signers(redis_client, settings)))


def submit(worker_context, content, **parameters):
    return worker_context.jobs.submit(
        None if content is None else io.BytesIO(content), Order(VideoRequest(**{"seed": 1} | parameters))
    )


def made(worker_context, job, kind=Format.MP4):
    with worker_context.jobs.results.open(job.id, kind=kind).file as file:
        return file.read()


def credentials(worker_context, job, kind=Format.MP4):
    certificates = worker_context.marking._signer.chain.signer.decode()
    return reader.read(io.BytesIO(made(worker_context, job, kind)), certificates)


def inputs(worker_context):
    return sorted(name for name, _ in worker_context.jobs.artifacts.names("inputs"))


@pytest.mark.parametrize("media_type", PILLOW)
def test_a_signed_image_is_an_ingredient_of_every_signed_format(worker_context, photo, camera, media_type):
    job = submit(worker_context, photo(media_type), formats=tuple(Format))
    assert inputs(worker_context) == [credentials_name(job.id), input_name(job.id)]
    assert run_job(job.id, worker_context) == "finished"
    for kind in Format:
        if MARKS[kind] is Mark.EMBEDDED:
            found = credentials(worker_context, job, kind)
            assert found.verdict is Verdict.MADE_HERE
            (ingredient,) = found.ingredients
            assert (ingredient.title, ingredient.relationship) == ("image", "inputTo")
            assert (ingredient.manifest.signer, ingredient.manifest.model) == (camera.common_name, "a-camera 7")
    assert inputs(worker_context) == []


def test_each_video_of_a_group_has_the_ingredient(worker_context, photo):
    group = worker_context.jobs.groups.submit(io.BytesIO(photo()), Order(VideoRequest(seed=1)), Seeds(2))
    for job in group.jobs:
        assert run_job(job.id, worker_context) == "finished"
        assert [each.title for each in credentials(worker_context, job).ingredients] == ["image"]
    assert inputs(worker_context) == []


def test_the_creation_names_the_ingredient(worker_context, photo):
    job = submit(worker_context, photo())
    run_job(job.id, worker_context)
    with (
        reading_context() as options,
        c2pa.Reader(None, io.BytesIO(made(worker_context, job)), context=options) as found,
    ):
        manifest = json.loads(found.json())["manifests"][found.get_active_manifest()["label"]]
    (action,) = next(each["data"]["actions"] for each in manifest["assertions"] if each["label"] == "c2pa.actions.v2")
    assert action["action"] == "c2pa.created"
    assert [each["url"].rpartition("/")[2] for each in action["parameters"]["ingredients"]] == ["c2pa.ingredient.v3"]


def png():
    buffer = io.BytesIO()
    Image.new("RGB", (256, 144), "red").save(buffer, "PNG")
    return buffer.getvalue()


def test_an_unmarked_image_is_no_ingredient(worker_context):
    job = submit(worker_context, png())
    assert inputs(worker_context) == [input_name(job.id)]
    assert run_job(job.id, worker_context) == "finished"
    assert credentials(worker_context, job).ingredients == ()


def damaged(content, word, offset, by=b"\xff"):
    at = content.index(word) + offset
    return content[:at] + by + content[at + 1 :]


@pytest.mark.parametrize(
    ("word", "offset"),
    [(b"jumb", 0), (b"jumb", 30), (b"c2pa.assertions", 0), (b"c2pa.assertions", 60), (b"c2pa.signature", 40)],
)
def test_an_image_with_a_damaged_manifest_is_accepted(worker_context, photo, word, offset):
    job = submit(worker_context, damaged(photo("image/jpeg"), word, offset))
    assert run_job(job.id, worker_context) == "finished"
    assert credentials(worker_context, job).verdict is Verdict.MADE_HERE


def test_an_image_changed_after_signing_is_an_invalid_ingredient(worker_context, photo):
    signed = photo("image/jpeg")
    job = submit(worker_context, signed[:-40] + bytes([signed[-40] ^ 1]) + signed[-39:])
    assert run_job(job.id, worker_context) == "finished"
    assert credentials(worker_context, job).verdict is Verdict.MADE_HERE
    with (
        reading_context() as options,
        c2pa.Reader(None, io.BytesIO(made(worker_context, job)), context=options) as found,
    ):
        (ingredient,) = found.get_active_manifest()["ingredients"]
    failures = {each["code"] for each in ingredient["validation_results"]["activeManifest"]["failure"]}
    assert "assertion.dataHash.mismatch" in failures


def test_an_image_whose_decoder_ends_while_reading_credentials_is_accepted(worker_context, photo, monkeypatch):
    request = pool.DecoderProcess.request

    def ending(self, **wanted):
        if wanted["do"] == "credentials":
            self.stop()
            raise DecoderEndedError(-27)
        return request(self, **wanted)

    monkeypatch.setattr(pool.DecoderProcess, "request", ending)
    job = submit(worker_context, photo())
    assert inputs(worker_context) == [input_name(job.id)]
    assert run_job(job.id, worker_context) == "finished"


def test_a_stored_manifest_that_the_library_rejects_is_left_out(worker_context, photo, caplog):
    job = submit(worker_context, photo())
    worker_context.jobs.artifacts.put(credentials_name(job.id), b"damaged")
    assert run_job(job.id, worker_context) == "finished"
    assert credentials(worker_context, job).ingredients == ()
    assert "signed without the credentials of its source" in caplog.text


def test_a_large_manifest_is_not_stored(worker_context, photo, monkeypatch):
    from svd_service.marking import ingredients

    found = ingredients.source_of(io.BytesIO(photo()), "image/png", "image")
    assert found is not None
    assert found.manifest_id.startswith("urn:c2pa:")
    monkeypatch.setattr(ingredients, "MAX_BYTES", len(found.archive) - 100)
    assert ingredients.source_of(io.BytesIO(photo()), "image/png", "image") is None


def test_a_video_is_an_ingredient_of_the_one_that_extends_it(worker_context, photo, camera):
    first = submit(worker_context, photo())
    run_job(first.id, worker_context)
    second = submit(worker_context, None, extend=first.id)
    assert run_job(second.id, worker_context) == "finished"
    (ingredient,) = credentials(worker_context, second).ingredients
    assert (ingredient.title, ingredient.manifest.signer) == ("video", worker_context.marking._signer.chain.common_name)


def test_a_cancelled_job_leaves_no_credentials(worker_context, photo):
    job = submit(worker_context, photo())
    assert worker_context.jobs.removal.cancel(job.id).state is State.CANCELLED
    assert inputs(worker_context) == []


def test_the_sweep_keeps_only_the_credentials_of_queued_jobs(worker_context, photo, redis_client):
    redis_client.set("svd:born", 0)
    job = submit(worker_context, photo())
    orphan = credentials_name("0f5e1f3a-5b1d-4c8e-9d3c-2f6f0f2a9b11")
    worker_context.jobs.artifacts.put(orphan, b"old")
    assert isinstance(worker_context.jobs.artifacts, LocalArtifacts)
    long_ago = time.time() - 2 * ORPHAN_AGE
    for name in inputs(worker_context):
        os.utime(worker_context.settings.data_dir / name, (long_ago, long_ago))
    assert worker_context.jobs.maintenance.sweep_orphans() == 1
    assert inputs(worker_context) == [credentials_name(job.id), input_name(job.id)]


def test_a_retried_job_has_the_credentials_too(worker_context, photo, make_settings, redis_url):
    settings = make_settings(REDIS_URL=redis_url, SVD_KEEP_INPUTS=60)
    jobs = use_cases(worker_context.jobs.ledger, worker_context.jobs.artifacts, settings, lambda job_id, _: None)
    failing = replace(worker_context, jobs=jobs, settings=settings, render=raising(ValueError("broken")))
    first = submit(failing, photo())
    assert run_job(first.id, failing) == "failed"
    again = jobs.administration.retry(first.id)
    assert run_job(again.id, worker_context) == "finished"
    assert [each.title for each in credentials(worker_context, again).ingredients] == ["image"]


def test_a_retried_extension_extends_the_same_video(worker_context, make_settings, redis_url):
    settings = make_settings(REDIS_URL=redis_url, SVD_KEEP_INPUTS=60)
    jobs = use_cases(worker_context.jobs.ledger, worker_context.jobs.artifacts, settings, lambda job_id, _: None)
    source = submit(worker_context, png())
    assert run_job(source.id, worker_context) == "finished"
    first = jobs.submit(None, Order(VideoRequest(extend=source.id)))
    failing = replace(worker_context, jobs=jobs, settings=settings, render=raising(ValueError("broken")))
    assert run_job(first.id, failing) == "failed"
    again = jobs.administration.retry(first.id)
    assert again.input == input_video_name(again.id)
    with jobs.artifacts.open(first.input) as before, jobs.artifacts.open(again.input) as after:
        assert after.read() == before.read()


def test_the_content_cache_distinguishes_images_by_their_credentials(worker_context):
    jobs, settings = worker_context.jobs, replace_settings(worker_context.settings, content_cache=True)
    digest = ContentCache(jobs.queries, jobs.ledger, jobs.artifacts, settings).digest
    job = submit(worker_context, png())
    same = (b"pixels", job.parameters, worker_context.jobs.model)
    assert digest(*same) == digest(*same, "")
    assert len({digest(*same), digest(*same, "urn:c2pa:1"), digest(*same, "urn:c2pa:2")}) == 3


def test_with_c2pa_off_or_without_the_library_images_are_accepted(worker_context, photo, monkeypatch):
    from svd_service.jobs import submit as submitting

    monkeypatch.setattr(submitting, "is_installed", lambda: False)
    job = submit(worker_context, photo())
    assert inputs(worker_context) == [input_name(job.id)]
