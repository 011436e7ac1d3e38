import json
from dataclasses import asdict, replace
from typing import Any

import pytest

from svd_service.config import ConfigurationError
from svd_service.errors import ImageSizeError, InvalidParameterError
from svd_service.jobs.model import Bounds, Defaults, Model, Sampling, Schedule
from svd_service.jobs.parameters import Parameters, Request
from svd_service.parameters import BOUNDS, DERIVED_FROM, TABLE, Fit, Format, Profile

MODEL = Model("m", "m", defaults=Defaults(width=1024, height=576), bounds=Bounds(width=(64, 1024), height=(64, 1024)))
LANDSCAPE, PORTRAIT, SQUARE = (1600, 900), (900, 1600), (500, 500)


def test_what_is_not_said_is_the_models_choice():
    parameters = Request().resolve(MODEL, LANDSCAPE)
    assert parameters.to_dict() | asdict(MODEL.defaults) == parameters.to_dict()
    assert parameters.fit is Fit.CROP


def test_a_seed_that_is_not_said_is_drawn_anew_each_time():
    assert Request().resolve(MODEL, LANDSCAPE).seed != Request().resolve(MODEL, LANDSCAPE).seed
    assert Request(seed=0).resolve(MODEL, LANDSCAPE).seed == 0


@pytest.mark.parametrize(
    ("request_", "picture", "size"),
    [
        (Request(), PORTRAIT, (576, 1024)),
        (Request(), SQUARE, (1024, 576)),
        (Request(fit=Fit.CROP), PORTRAIT, (1024, 576)),
        (Request(width=1024, height=576), PORTRAIT, (1024, 576)),
        (Request(height=512), PORTRAIT, (1024, 512)),
    ],
)
def test_auto_turns_the_video_upright_unless_a_size_was_asked_for(request_, picture, size):
    parameters = request_.resolve(MODEL, picture)
    assert (parameters.width, parameters.height) == size


@pytest.mark.parametrize("name", [*sorted({*BOUNDS} - {*DERIVED_FROM}), "width", "height", "num_frames"])
def test_every_bound_is_included_and_nothing_beyond_it(name):
    least, most = {**BOUNDS, **asdict(MODEL.bounds)}[name]
    # The other end of the guidance would be moved along; say it, so that only this bound is looked at.
    ends: dict[str, Any] = {"min_guidance_scale": 1.0, "max_guidance_scale": 10.0} if "guidance" in name else {}
    # The other side of the file would follow, and leave its own bounds.
    other = {"output_width": {"output_height": 64}, "output_height": {"output_width": 64}}.get(name, {})
    for value in (least, most):
        resolved = Request(**{**ends, name: value, **other}).resolve(MODEL, LANDSCAPE)
        assert getattr(resolved, name) == value
    step = TABLE[name].spec.multiple_of or 1
    for value in (least - step, most + step, float("nan")):
        with pytest.raises(InvalidParameterError) as refused:
            Request(**{**ends, name: value, **other}).resolve(MODEL, LANDSCAPE)
        assert refused.value.parameter == name


def test_a_model_makes_the_size_of_an_image_within_its_bounds_and_its_default_size_if_no_size_of_the_shape_fits():
    for size in ((1024, 576), (576, 1024), (768, 768)):
        assert Model("svd", "svd").size_of_shape(size) == size
    odd = Model("odd", "odd", bounds=Bounds(width=(1000, 1100), height=(1000, 1100)))
    assert odd.size_of_shape((1024, 576)) == (1024, 576)


def test_a_request_may_fix_the_image_sizes_and_then_the_video_has_the_images_shape():
    request = Request(image_sizes=[LANDSCAPE])
    parameters = request.resolve(MODEL, LANDSCAPE)
    assert (parameters.width, parameters.height) == (1024, 576)
    with pytest.raises(ImageSizeError, match="1600x900; got 900x1600"):
        request.resolve(MODEL, PORTRAIT)


def test_sizes_are_multiples_of_eight():
    with pytest.raises(InvalidParameterError, match="multiple of 8"):
        Request(width=100).resolve(MODEL, LANDSCAPE)


def test_guidance_may_not_fall_but_one_end_moves_the_other_along():
    with pytest.raises(InvalidParameterError):
        Request(min_guidance_scale=3, max_guidance_scale=2).resolve(MODEL, LANDSCAPE)
    up = Request(min_guidance_scale=5.0).resolve(MODEL, LANDSCAPE)
    assert (up.min_guidance_scale, up.max_guidance_scale) == (5.0, 5.0)


def test_parameters_come_back_from_json_as_they_went():
    parameters = Request(seed=3, fit=Fit.PAD).resolve(MODEL, LANDSCAPE)
    assert Parameters.from_dict(json.loads(json.dumps(parameters.to_dict()))) == parameters


def test_a_record_omits_optional_parameters_at_their_default_so_that_older_workers_can_read_it():
    for request in (Request(seed=3), Request(seed=3, interpolate=2, formats=(Format.GIF,)), Request(output_width=512)):
        parameters = request.resolve(MODEL, LANDSCAPE)
        assert Parameters.from_dict(json.loads(json.dumps(parameters.to_record()))) == parameters
    assert {"interpolate", "playback_fps", "loop"}.isdisjoint(Request(fps=9).resolve(MODEL, LANDSCAPE).to_record())
    assert Request(interpolate=2).resolve(MODEL, LANDSCAPE).to_record()["interpolate"] == 2


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


def test_a_folder_without_description_tells_its_frames(tmp_path, make_settings):
    (tmp_path / "unet").mkdir()
    (tmp_path / "model_index.json").write_text("{}")
    (tmp_path / "unet" / "config.json").write_text('{"num_frames": 14}')
    model = Model.of(make_settings(SVD_MODEL=tmp_path))
    assert (model.name, model.defaults.num_frames, model.trained) == (tmp_path.name, 14, True)


def test_a_folder_that_is_no_model_is_refused_at_start(tmp_path, make_settings):
    with pytest.raises(ConfigurationError, match="SVD_MODEL"):
        Model.of(make_settings(SVD_MODEL=tmp_path))


def test_hub_models_have_svds_own_defaults(make_settings):
    model = Model.of(make_settings(SVD_MODEL="stabilityai/stable-video-diffusion-img2vid", SVD_MODEL_REVISION="main"))
    assert (model.defaults.num_frames, model.defaults.width, model.revision) == (14, 1024, "main")
    assert Model.of(make_settings(SVD_MODEL="stabilityai/stable-video-diffusion-img2vid-xt")).defaults.num_frames == 25
    assert Model.of(make_settings(SVD_DEVICES="0")).name.endswith("-xt")


def test_the_model_of_the_package_is_the_default_without_cuda(settings):
    assert Model.of(settings).name == "nano"


def test_a_draft_is_made_in_the_models_draft_steps_unless_a_number_is_asked_for():
    assert Request().resolve(MODEL, LANDSCAPE).profile is Profile.EXACT
    draft = Request(profile=Profile.DRAFT).resolve(MODEL, LANDSCAPE)
    assert (draft.profile, draft.num_inference_steps) == (Profile.DRAFT, 10)
    more = Request(profile=Profile.DRAFT, num_inference_steps=15).resolve(MODEL, LANDSCAPE)
    assert (more.profile, more.num_inference_steps) == (Profile.DRAFT, 15)


def test_a_profile_that_the_model_does_not_offer_is_refused():
    alone = replace(MODEL, profiles={"exact": Sampling(25)})
    assert alone.profiles == {"exact": Sampling(25)}
    with pytest.raises(InvalidParameterError, match="this model offers exact; got draft"):
        Request(profile=Profile.DRAFT).resolve(alone, LANDSCAPE)


def test_a_model_says_what_its_profiles_are_and_svds_own_is_align_your_steps(make_settings, tmp_path):
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


def test_a_job_from_before_there_were_profiles_is_exact():
    told = Request().resolve(MODEL, LANDSCAPE).to_dict()
    del told["profile"]
    assert Parameters.from_dict(told).profile is Profile.EXACT


def test_formats_come_in_their_own_order_once_each_and_the_mp4_is_no_further_one():
    asked = Request(formats=(Format.ZIP, Format.MP4, Format.WEBM, Format.ZIP))
    parameters = asked.resolve(MODEL, LANDSCAPE)
    assert parameters.formats == (Format.WEBM, Format.ZIP)
    assert Parameters.from_dict(json.loads(json.dumps(parameters.to_dict()))) == parameters


def test_parameters_of_a_job_from_before_there_were_formats_can_be_read():
    told = Request().resolve(MODEL, LANDSCAPE).to_dict()
    del told["formats"]
    assert Parameters.from_dict(told).formats == ()
