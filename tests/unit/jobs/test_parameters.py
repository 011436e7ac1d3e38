import json
from dataclasses import asdict, replace
from typing import Any

import pytest

from svd_service.config import ConfigurationError
from svd_service.errors import ImageSizeError, InvalidParameterError
from svd_service.jobs.model import Bounds, Defaults, Model, Sampling, Schedule
from svd_service.jobs.parameters import Parameters, VideoRequest
from svd_service.parameters import BOUNDS, DERIVED_FROM, TABLE, Fit, Format, Profile

MODEL = Model("m", "m", defaults=Defaults(width=1024, height=576), bounds=Bounds(width=(64, 1024), height=(64, 1024)))
LANDSCAPE, PORTRAIT, SQUARE = (1600, 900), (900, 1600), (500, 500)


def test_omitted_values_are_the_models_defaults():
    parameters = VideoRequest().resolve(MODEL, LANDSCAPE)
    assert parameters.to_dict() | asdict(MODEL.defaults) == parameters.to_dict()
    assert parameters.fit is Fit.CROP


def test_an_omitted_seed_is_random_each_time():
    assert VideoRequest().resolve(MODEL, LANDSCAPE).seed != VideoRequest().resolve(MODEL, LANDSCAPE).seed
    assert VideoRequest(seed=0).resolve(MODEL, LANDSCAPE).seed == 0


@pytest.mark.parametrize(
    ("request_", "image_size", "size"),
    [
        (VideoRequest(), PORTRAIT, (576, 1024)),
        (VideoRequest(), SQUARE, (1024, 576)),
        (VideoRequest(fit=Fit.CROP), PORTRAIT, (1024, 576)),
        (VideoRequest(width=1024, height=576), PORTRAIT, (1024, 576)),
        (VideoRequest(height=512), PORTRAIT, (1024, 512)),
        (VideoRequest(output_width=1280, output_height=720), PORTRAIT, (1024, 576)),
        (VideoRequest(output_width=720, output_height=1280), LANDSCAPE, (576, 1024)),
        (VideoRequest(output_width=1280), PORTRAIT, (576, 1024)),
    ],
)
def test_auto_fit_turns_the_video_upright_unless_a_size_was_requested(request_, image_size, size):
    parameters = request_.resolve(MODEL, image_size)
    assert (parameters.width, parameters.height) == size


@pytest.mark.parametrize("name", [*sorted({*BOUNDS} - {*DERIVED_FROM}), "width", "height", "num_frames"])
def test_every_limit_is_inclusive(name):
    least, most = {**BOUNDS, **asdict(MODEL.bounds)}[name]
    # The other end of the guidance would be adjusted; set it, so that only this limit is tested.
    ends: dict[str, Any] = {"min_guidance_scale": 1.0, "max_guidance_scale": 10.0} if "guidance" in name else {}
    # The other side of the output would follow, and exceed its own limits.
    other = {"output_width": {"output_height": 64}, "output_height": {"output_width": 64}}.get(name, {})
    for value in (least, most):
        resolved = VideoRequest(**{**ends, name: value, **other}).resolve(MODEL, LANDSCAPE)
        assert getattr(resolved, name) == value
    step = TABLE[name].spec.multiple_of or 1
    for value in (least - step, most + step, float("nan")):
        with pytest.raises(InvalidParameterError) as rejected:
            VideoRequest(**{**ends, name: value, **other}).resolve(MODEL, LANDSCAPE)
        assert rejected.value.parameter == name


def test_a_model_uses_the_images_shape_within_its_limits_or_else_its_default_size():
    for size in ((1024, 576), (576, 1024), (768, 768)):
        assert Model("svd", "svd").size_of_shape(size) == size
    odd = Model("odd", "odd", bounds=Bounds(width=(1000, 1100), height=(1000, 1100)))
    assert odd.size_of_shape((1024, 576)) == (1024, 576)


def test_a_request_may_list_the_accepted_image_sizes_and_the_video_has_the_images_shape():
    request = VideoRequest(image_sizes=[LANDSCAPE])
    parameters = request.resolve(MODEL, LANDSCAPE)
    assert (parameters.width, parameters.height) == (1024, 576)
    with pytest.raises(ImageSizeError, match="1600x900; got 900x1600"):
        request.resolve(MODEL, PORTRAIT)


def test_sizes_are_multiples_of_eight():
    with pytest.raises(InvalidParameterError, match="multiple of 8"):
        VideoRequest(width=100).resolve(MODEL, LANDSCAPE)


def test_guidance_must_not_decrease_and_one_end_adjusts_the_other():
    with pytest.raises(InvalidParameterError):
        VideoRequest(min_guidance_scale=3, max_guidance_scale=2).resolve(MODEL, LANDSCAPE)
    up = VideoRequest(min_guidance_scale=5.0).resolve(MODEL, LANDSCAPE)
    assert (up.min_guidance_scale, up.max_guidance_scale) == (5.0, 5.0)


def test_parameters_survive_a_round_trip_through_json():
    parameters = VideoRequest(seed=3, fit=Fit.PAD).resolve(MODEL, LANDSCAPE)
    assert Parameters.from_dict(json.loads(json.dumps(parameters.to_dict()))) == parameters


def test_a_record_omits_optional_parameters_at_their_default_so_that_older_workers_can_read_it():
    for request in (
        VideoRequest(seed=3),
        VideoRequest(seed=3, interpolate=2, formats=(Format.GIF,)),
        VideoRequest(output_width=512),
    ):
        parameters = request.resolve(MODEL, LANDSCAPE)
        assert Parameters.from_dict(json.loads(json.dumps(parameters.to_record()))) == parameters
    assert {"interpolate", "playback_fps", "loop"}.isdisjoint(VideoRequest(fps=9).resolve(MODEL, LANDSCAPE).to_record())
    assert VideoRequest(interpolate=2).resolve(MODEL, LANDSCAPE).to_record()["interpolate"] == 2


def test_a_folder_describes_its_model(tmp_path, make_settings):
    (tmp_path / "model_index.json").write_text("{}")
    described = {"name": "mine", "trained": False, "defaults": {"width": 512}, "bounds": {"width": [64, 512]}}
    (tmp_path / "svd_service.json").write_text(json.dumps(described))
    model = Model.of(make_settings(SVD_MODEL=tmp_path, VIDEO_WIDTH=256))
    assert (model.name, model.trained, model.source) == ("mine", False, str(tmp_path))
    assert model.defaults == replace(Defaults(), width=256)
    assert model.bounds.width == (64, 512)
    with pytest.raises(ConfigurationError, match="VIDEO_WIDTH=1024"):
        Model.of(make_settings(SVD_MODEL=tmp_path, VIDEO_WIDTH=1024))


def test_the_frames_of_a_folder_without_a_description_are_in_its_configuration(tmp_path, make_settings):
    (tmp_path / "unet").mkdir()
    (tmp_path / "model_index.json").write_text("{}")
    (tmp_path / "unet" / "config.json").write_text('{"num_frames": 14}')
    model = Model.of(make_settings(SVD_MODEL=tmp_path))
    assert (model.name, model.defaults.num_frames, model.trained) == (tmp_path.name, 14, True)


def test_a_folder_without_a_model_is_rejected_at_start(tmp_path, make_settings):
    with pytest.raises(ConfigurationError, match="SVD_MODEL"):
        Model.of(make_settings(SVD_MODEL=tmp_path))


def test_hub_models_have_the_defaults_of_svd(make_settings):
    model = Model.of(make_settings(SVD_MODEL="stabilityai/stable-video-diffusion-img2vid", SVD_MODEL_REVISION="main"))
    assert (model.defaults.num_frames, model.defaults.width, model.revision) == (14, 1024, "main")
    assert Model.of(make_settings(SVD_MODEL="stabilityai/stable-video-diffusion-img2vid-xt")).defaults.num_frames == 25
    assert Model.of(make_settings(SVD_DEVICES="0")).name.endswith("-xt")


def test_the_built_in_model_is_the_default_without_cuda(settings):
    assert Model.of(settings).name == "nano"


def test_a_draft_has_the_models_draft_steps_unless_a_number_is_requested():
    assert VideoRequest().resolve(MODEL, LANDSCAPE).profile is Profile.EXACT
    draft = VideoRequest(profile=Profile.DRAFT).resolve(MODEL, LANDSCAPE)
    assert (draft.profile, draft.num_inference_steps) == (Profile.DRAFT, 10)
    more = VideoRequest(profile=Profile.DRAFT, num_inference_steps=15).resolve(MODEL, LANDSCAPE)
    assert (more.profile, more.num_inference_steps) == (Profile.DRAFT, 15)


def test_a_profile_that_the_model_does_not_offer_is_rejected():
    alone = replace(MODEL, profiles={"exact": Sampling(25)})
    assert alone.profiles == {"exact": Sampling(25)}
    with pytest.raises(InvalidParameterError, match="this model offers exact; got draft"):
        VideoRequest(profile=Profile.DRAFT).resolve(alone, LANDSCAPE)


def test_a_model_describes_its_profiles_and_svds_draft_uses_align_your_steps(make_settings, tmp_path):
    (tmp_path / "model_index.json").write_text("{}")
    description = {"name": "m", "defaults": {"num_inference_steps": 4}}
    (tmp_path / "svd_service.json").write_text(json.dumps(description))
    assert Model.of(make_settings(SVD_MODEL=str(tmp_path))).profiles == {
        "exact": Sampling(4),
        "draft": Sampling(10, Schedule.ALIGN_YOUR_STEPS),
    }
    (tmp_path / "svd_service.json").write_text(
        json.dumps({**description, "profiles": {"draft": {"num_inference_steps": 2}}})
    )
    assert Model.of(make_settings(SVD_MODEL=str(tmp_path))).profiles["draft"] == Sampling(2, Schedule.MODEL)


def test_a_record_without_a_profile_is_exact():
    record = VideoRequest().resolve(MODEL, LANDSCAPE).to_dict()
    del record["profile"]
    assert Parameters.from_dict(record).profile is Profile.EXACT


def test_formats_are_in_a_fixed_order_without_duplicates_and_without_mp4():
    request = VideoRequest(formats=(Format.ZIP, Format.MP4, Format.WEBM, Format.ZIP))
    parameters = request.resolve(MODEL, LANDSCAPE)
    assert parameters.formats == (Format.WEBM, Format.ZIP)
    assert Parameters.from_dict(json.loads(json.dumps(parameters.to_dict()))) == parameters


def test_a_record_without_formats_can_be_read():
    record = VideoRequest().resolve(MODEL, LANDSCAPE).to_dict()
    del record["formats"]
    assert Parameters.from_dict(record).formats == ()
