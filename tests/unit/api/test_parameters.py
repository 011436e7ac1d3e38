"""The table of parameters, and its completeness in everything derived from it."""

from inspect import signature
from typing import Any

import pytest

from svd_service.api.http.parameter_forms import list_of
from svd_service.api.native.schema import GenerateForm
from svd_service.api.openai.schema import ExtensionForm, VideoForm
from svd_service.api.stability.schema import AlphaGenerationForm, GenerationForm
from svd_service.cli.generate import generate
from svd_service.jobs.parameters import Parameters
from svd_service.parameters import DERIVED_FROM, OF_THE_VIDEO, TABLE, Format, Parameter


def test_forms_of_dialects_with_extensions_accept_every_parameter():
    assert TABLE.keys() <= {*GenerateForm.__struct_fields__}
    # OpenAI's dialect extends videos by another route, under other field names.
    assert TABLE.keys() - {*VideoForm.__struct_fields__} == {"extend", "extend_as"}
    assert TABLE.keys() - {*ExtensionForm.__struct_fields__} == {"extend"}


@pytest.mark.parametrize("form", [GenerationForm, AlphaGenerationForm])
def test_stabilitys_forms_accept_only_the_parameters_that_they_name(form):
    own = {"image", "seed", "cfg_scale", "motion_bucket_id"}
    assert {*form.__struct_fields__} == own | {"profile", "formats", "webhook_url"}


def test_the_command_line_has_an_option_for_every_parameter_that_it_does_not_handle_itself():
    assert TABLE.keys() - signature(generate).parameters.keys() == {"formats", "webhook_url"}


def test_every_parameter_of_the_video_has_an_effective_value():
    of_the_extended_video = {"extended_frames"}
    assert {*OF_THE_VIDEO} | of_the_extended_video == {*Parameters.__dataclass_fields__, *DERIVED_FROM}


def _schema_limits(schema: dict[str, Any]) -> dict[str, Any]:
    names = {"minimum": "minimum", "maximum": "maximum", "multipleOf": "multiple_of", "maxLength": "max_length"}
    return {ours: schema[theirs] for theirs, ours in names.items() if theirs in schema}


@pytest.mark.parametrize("row", TABLE.values(), ids=TABLE)
def test_the_openapi_document_has_the_limits_and_descriptions_of_the_table(http, row: Parameter):
    schema = http.get("/openapi.json").json["components"]["schemas"]["GenerateForm"]["properties"][row.name]
    limits = {name: getattr(row.spec, name) for name in ("minimum", "maximum", "multiple_of", "max_length")}
    assert _schema_limits(schema) == {name: limit for name, limit in limits.items() if limit is not None}
    assert schema["description"] == row.spec.description
    # Generated clients send defaults, and an extension has other defaults.
    assert ("default" in schema) == (row.name == "priority")


@pytest.mark.parametrize("value", ["webp,gif", ["webp", "gif"], "webp, gif", ["webp,gif"]])
def test_a_list_parameter_is_text_with_commas_or_a_list(value):
    assert list_of(TABLE["formats"], value) == (Format.WEBP, Format.GIF)
