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
from svd_service.jobs.job_files import credentials_name, input_name
from svd_service.jobs.maintenance import ORPHAN_AGE
from svd_service.jobs.marks import MARKS, Mark
from svd_service.jobs.parameters import Request
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


@pytest.fixture(name="slot")
def _slot(slot, settings, redis_client, files):
    def render(image, parameters, path, report, *, further, **more):
        made = rendering(
            image if isinstance(image, Image.Image) else Image.new("RGB", (256, 144)), parameters, path, report
        )
        path.write_bytes(files[Format.MP4])
        for kind, target in further.items():
            target.write_bytes(files[kind])
        return replace(made, thumbnail=files["thumbnail"], spritesheet=files["spritesheet"])

    return replace(slot, render=render, marking=open_marking(settings, Signers(redis_client, settings)))


def submit(slot, content, **parameters):
    return slot.jobs.submit(
        None if content is None else io.BytesIO(content), Order(Request(**{"seed": 1} | parameters))
    )


def made(slot, job, kind=Format.MP4):
    with slot.jobs.results.open(job.id, kind=kind).file as file:
        return file.read()


def credentials(slot, job, kind=Format.MP4):
    certificates = slot.marking._signer.chain.signer.decode()
    return reader.read(io.BytesIO(made(slot, job, kind)), certificates)


def inputs(slot):
    return sorted(name for name, _ in slot.jobs.artifacts.names("inputs"))


@pytest.mark.parametrize("media_type", PILLOW)
def test_a_signed_image_is_an_ingredient_of_every_signed_format(slot, photo, camera, media_type):
    job = submit(slot, photo(media_type), formats=tuple(Format))
    assert inputs(slot) == [credentials_name(job.id), input_name(job.id)]
    assert run_job(job.id, slot) == "finished"
    for kind in Format:
        if MARKS[kind] is Mark.EMBEDDED:
            found = credentials(slot, job, kind)
            assert found.verdict is Verdict.MADE_HERE
            (ingredient,) = found.ingredients
            assert (ingredient.title, ingredient.relationship) == ("image", "inputTo")
            assert (ingredient.manifest.signer, ingredient.manifest.model) == (camera.common_name, "a-camera 7")
    assert inputs(slot) == []


def test_each_video_of_a_group_has_the_ingredient(slot, photo):
    group = slot.jobs.groups.submit(io.BytesIO(photo()), Order(Request(seed=1)), Seeds(2))
    for job in group.jobs:
        assert run_job(job.id, slot) == "finished"
        assert [each.title for each in credentials(slot, job).ingredients] == ["image"]
    assert inputs(slot) == []


def test_the_creation_names_the_ingredient(slot, photo):
    job = submit(slot, photo())
    run_job(job.id, slot)
    with reading_context() as options, c2pa.Reader(None, io.BytesIO(made(slot, job)), context=options) as found:
        manifest = json.loads(found.json())["manifests"][found.get_active_manifest()["label"]]
    (action,) = next(each["data"]["actions"] for each in manifest["assertions"] if each["label"] == "c2pa.actions.v2")
    assert action["action"] == "c2pa.created"
    assert [each["url"].rpartition("/")[2] for each in action["parameters"]["ingredients"]] == ["c2pa.ingredient.v3"]


def png():
    buffer = io.BytesIO()
    Image.new("RGB", (256, 144), "red").save(buffer, "PNG")
    return buffer.getvalue()


def test_an_unmarked_image_is_no_ingredient(slot):
    job = submit(slot, png())
    assert inputs(slot) == [input_name(job.id)]
    assert run_job(job.id, slot) == "finished"
    assert credentials(slot, job).ingredients == ()


def damaged(content, word, offset, by=b"\xff"):
    at = content.index(word) + offset
    return content[:at] + by + content[at + 1 :]


@pytest.mark.parametrize(
    ("word", "offset"),
    [(b"jumb", 0), (b"jumb", 30), (b"c2pa.assertions", 0), (b"c2pa.assertions", 60), (b"c2pa.signature", 40)],
)
def test_an_image_with_a_damaged_manifest_is_accepted(slot, photo, word, offset):
    job = submit(slot, damaged(photo("image/jpeg"), word, offset))
    assert run_job(job.id, slot) == "finished"
    assert credentials(slot, job).verdict is Verdict.MADE_HERE


def test_an_image_changed_after_signing_is_an_invalid_ingredient(slot, photo):
    signed = photo("image/jpeg")
    job = submit(slot, signed[:-40] + bytes([signed[-40] ^ 1]) + signed[-39:])
    assert run_job(job.id, slot) == "finished"
    assert credentials(slot, job).verdict is Verdict.MADE_HERE
    with reading_context() as options, c2pa.Reader(None, io.BytesIO(made(slot, job)), context=options) as found:
        (ingredient,) = found.get_active_manifest()["ingredients"]
    failures = {each["code"] for each in ingredient["validation_results"]["activeManifest"]["failure"]}
    assert "assertion.dataHash.mismatch" in failures


def test_an_image_whose_decoder_ends_while_reading_credentials_is_accepted(slot, photo, monkeypatch):
    request = pool.Decoder.request

    def ending(self, **wanted):
        if wanted["do"] == "credentials":
            self.stop()
            raise DecoderEndedError(-27)
        return request(self, **wanted)

    monkeypatch.setattr(pool.Decoder, "request", ending)
    job = submit(slot, photo())
    assert inputs(slot) == [input_name(job.id)]
    assert run_job(job.id, slot) == "finished"


def test_a_stored_manifest_that_the_library_rejects_is_left_out(slot, photo, caplog):
    job = submit(slot, photo())
    slot.jobs.artifacts.put(credentials_name(job.id), b"damaged")
    assert run_job(job.id, slot) == "finished"
    assert credentials(slot, job).ingredients == ()
    assert "signed without the credentials of its source" in caplog.text


def test_a_large_manifest_is_not_stored(slot, photo, monkeypatch):
    from svd_service.marking import ingredients

    found = ingredients.source_of(io.BytesIO(photo()), "image/png", "image")
    assert found is not None
    assert found.manifest_id.startswith("urn:c2pa:")
    monkeypatch.setattr(ingredients, "MAX_BYTES", len(found.archive) - 100)
    assert ingredients.source_of(io.BytesIO(photo()), "image/png", "image") is None


def test_a_video_is_an_ingredient_of_the_one_that_extends_it(slot, photo, camera):
    first = submit(slot, photo())
    run_job(first.id, slot)
    second = submit(slot, None, extend=first.id)
    assert run_job(second.id, slot) == "finished"
    (ingredient,) = credentials(slot, second).ingredients
    assert (ingredient.title, ingredient.manifest.signer) == ("video", slot.marking._signer.chain.common_name)


def test_a_cancelled_job_leaves_no_credentials(slot, photo):
    job = submit(slot, photo())
    assert slot.jobs.removal.cancel(job.id).state is State.CANCELLED
    assert inputs(slot) == []


def test_the_sweep_keeps_only_the_credentials_of_queued_jobs(slot, photo):
    job = submit(slot, photo())
    orphan = credentials_name("0f5e1f3a-5b1d-4c8e-9d3c-2f6f0f2a9b11")
    slot.jobs.artifacts.put(orphan, b"old")
    assert isinstance(slot.jobs.artifacts, LocalArtifacts)
    long_ago = time.time() - 2 * ORPHAN_AGE
    for name in inputs(slot):
        os.utime(slot.settings.data_dir / name, (long_ago, long_ago))
    assert slot.jobs.maintenance.sweep_orphans() == 1
    assert inputs(slot) == [credentials_name(job.id), input_name(job.id)]


def test_a_retried_job_has_the_credentials_too(slot, photo, make_settings, redis_url):
    settings = make_settings(REDIS_URL=redis_url, SVD_KEEP_INPUTS=60)
    jobs = use_cases(slot.jobs.ledger, slot.jobs.artifacts, settings, lambda job_id, _: None)
    failing = replace(slot, jobs=jobs, settings=settings, render=raising(ValueError("broken")))
    first = submit(failing, photo())
    assert run_job(first.id, failing) == "failed"
    again = jobs.administration.retry(first.id)
    assert run_job(again.id, slot) == "finished"
    assert [each.title for each in credentials(slot, again).ingredients] == ["image"]


def test_the_content_cache_distinguishes_images_by_their_credentials(slot):
    jobs, settings = slot.jobs, replace_settings(slot.settings, content_cache=True)
    digest = ContentCache(jobs.queries, jobs.ledger, jobs.artifacts, settings).digest
    job = submit(slot, png())
    same = (b"pixels", job.parameters, slot.jobs.model)
    assert digest(*same) == digest(*same, "")
    assert len({digest(*same), digest(*same, "urn:c2pa:1"), digest(*same, "urn:c2pa:2")}) == 3


def test_with_c2pa_off_or_without_the_library_images_are_accepted(slot, photo, monkeypatch):
    from svd_service.jobs import submit as submitting

    monkeypatch.setattr(submitting, "is_installed", lambda: False)
    job = submit(slot, photo())
    assert inputs(slot) == [input_name(job.id)]
