import json

import pytest

from svd_service.config import CPU_MODEL, CUDA_MODEL
from svd_service.jobs.license import License, license_of
from svd_service.jobs.model import Model


@pytest.mark.parametrize(
    "source", [CUDA_MODEL, "stabilityai/stable-video-diffusion-img2vid", "/data/stable-video-diffusion-img2vid"]
)
def test_stable_video_diffusion_has_stabilitys_licence_and_notice(source):
    found = license_of(source)
    assert found is not None
    assert (found.name, found.notice) == ("Stability AI Community License", "Powered by Stability AI")
    assert found.url.startswith("https://huggingface.co/stabilityai/stable-video-diffusion-img2vid")
    assert found.url.endswith("/LICENSE.md")


def test_the_nano_model_has_the_codes_licence_and_no_notice():
    assert license_of(CPU_MODEL) == License("Apache License 2.0", "https://www.apache.org/licenses/LICENSE-2.0")


def test_the_licence_of_another_model_is_unknown():
    assert license_of("somebody/else") is None


def test_a_models_licence_is_shown_and_survives_serialization(make_settings):
    model = Model.of(make_settings(SVD_MODEL=CUDA_MODEL))
    assert model.shown()["license"]["notice"] == "Powered by Stability AI"
    assert Model.from_dict(json.loads(json.dumps(model.to_dict()))) == model


def test_a_folder_may_state_its_licence(tmp_path, make_settings):
    (tmp_path / "model_index.json").write_text("{}")
    stated = {"name": "Mine", "url": "https://example.com/license", "notice": "Made with Mine"}
    (tmp_path / "svd_service.json").write_text(json.dumps({"name": "mine", "license": stated}))
    assert Model.of(make_settings(SVD_MODEL=tmp_path)).license == License(**stated)
