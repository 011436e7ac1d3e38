from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from svd_service.config import ConfigurationError, Settings
from svd_service.jobs.model import Defaults, Model
from svd_service.video import loader
from svd_service.video.loader import Generator
from svd_service.video.memory_plan import FAST, GB, HOST, MEMORY_PLANS, choose, need
from svd_service.video.pipeline import Pipeline

#: SVD-XT with its defaults, in half precision.
XT = Defaults()
WEIGHTS = {"unet": round(3.05 * GB), "image_encoder": round(1.26 * GB), "vae": round(0.2 * GB)}


@pytest.mark.parametrize(
    ("free", "name"),
    [
        (140, "fast"),
        (23, "fast"),
        (15, "fast"),
        (11.3, "lean"),
        (9, "small"),
        (7.4, "least"),
        (5.6, "least"),
        (1, "least"),
    ],
)
def test_auto_chooses_the_fastest_plan_that_fits_or_the_last_one(free: float, name: str) -> None:
    assert choose("auto", free * GB, XT, WEIGHTS).name == name


@pytest.mark.parametrize("name", [plan.name for plan in MEMORY_PLANS])
def test_a_plan_set_by_name_is_used(name: str) -> None:
    assert choose(name, 1 * GB, XT, WEIGHTS).name == name


def test_each_plan_needs_less_memory_than_the_one_before() -> None:
    needs = [need(plan, XT, WEIGHTS) for plan in MEMORY_PLANS]
    assert needs == sorted(needs, reverse=True)
    assert need(FAST, XT, WEIGHTS) < 15 * GB
    assert needs[-1] < 8 * GB


def test_a_smaller_video_or_one_without_guidance_needs_less_memory() -> None:
    whole = need(FAST, XT, WEIGHTS)
    assert need(FAST, replace(XT, num_frames=14), WEIGHTS) < whole
    assert need(FAST, replace(XT, width=512), WEIGHTS) < whole
    assert need(FAST, replace(XT, max_guidance_scale=1.0), WEIGHTS) < whole
    assert need(FAST, replace(XT, decode_chunk_size=25), WEIGHTS) > whole


def test_graphs_keep_the_memory_of_sampling_while_the_video_is_decoded() -> None:
    assert need(FAST, XT, WEIGHTS, graphs=True) - need(FAST, XT, WEIGHTS) == pytest.approx(1.1 * 4.84 * GB)
    assert choose("auto", 15 * GB, XT, WEIGHTS).name == "fast"
    assert choose("auto", 15 * GB, XT, WEIGHTS, graphs=True).name == "lean"
    least = MEMORY_PLANS[-1]
    assert need(least, XT, WEIGHTS, graphs=True) == need(least, XT, WEIGHTS)


def test_the_settings_accept_every_plan() -> None:
    for name in ("auto", *(plan.name for plan in MEMORY_PLANS)):
        assert Settings.from_mapping({"SVD_MEMORY": name}).memory == name
    with pytest.raises(ConfigurationError, match="SVD_MEMORY"):
        Settings.from_mapping({"SVD_MEMORY": "tiny"})


@pytest.mark.parametrize(
    ("free", "setting", "name"), [(80, "auto", "fast"), (0.001, "auto", "least"), (80, "lean", "lean")]
)
def test_loading_chooses_a_plan_by_the_free_memory_and_logs_it(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, free: float, setting: str, name: str
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda place: (int(free * GB), int(80 * GB)))
    settings = Settings.from_mapping({"SVD_MODEL": str(tiny), "SVD_MEMORY": setting})
    with caplog.at_level("INFO", "svd_service"):
        plan = loader._plan(Pipeline.from_pretrained(tiny), Model.of(settings), torch.device("cuda", 0), settings)
    assert plan.name == name
    assert f"memory plan: {name} (SVD_MEMORY={setting})" in caplog.text
    assert ("more memory than is free" in caplog.text) == (free < 1)


def test_on_a_cpu_the_setting_has_no_effect_and_a_warning_is_logged(
    tiny: Path, load_model: Callable[..., Generator], caplog: pytest.LogCaptureFixture
) -> None:
    generator: Any = load_model(tiny, SVD_MEMORY="least")
    assert generator.plan == HOST
    assert "SVD_MEMORY=least has no effect: it applies to CUDA devices only" in caplog.text
