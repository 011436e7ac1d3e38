from pathlib import Path

import pytest

from svd_service.config import ConfigurationError, Settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REDIS_PORT", "none"),
        ("REDIS_PORT", "0"),
        ("REDIS_URL", "http://localhost"),
        ("SVD_DEVICES", "gpu0"),
        ("VIDEO_WIDTH", "100"),
        ("VIDEO_HEIGHT", "8"),
        ("VIDEO_FRAMES", "1"),
        ("SVD_LEASE", "soon"),
        ("SVD_LOG_FORMAT", "xml"),
        ("SVD_NAMESPACE", "a:b"),
        ("SVD_FLOWER_BASIC_AUTH", "nocolon"),
    ],
)
def test_a_wrong_value_is_refused_with_the_variables_name(name, value):
    with pytest.raises(ConfigurationError, match=name):
        Settings.from_mapping({name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REDIS_URL", "http://svd:s3cret@host"),
        ("SVD_API_KEYS", "ann:sk-svd-s3cret"),
        ("SVD_FLOWER_BASIC_AUTH", "s3cret"),
    ],
)
def test_a_wrong_value_that_may_be_a_secret_is_not_shown(name, value):
    with pytest.raises(ConfigurationError, match=rf"{name}=\*\*\*: ") as refused:
        Settings.from_mapping({name: value})
    assert "s3cret" not in str(refused.value)


def test_the_environment_and_the_env_file_are_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("REDIS_HOST=file\nVIDEO_FRAMES=14\n")
    monkeypatch.setenv("REDIS_HOST", "environment")
    settings = Settings.load()
    assert settings.redis == "redis://environment:6379/0"
    assert settings.video_frames == 14


def test_a_mapping_stands_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("REDIS_HOST=file\n")
    monkeypatch.setenv("REDIS_PORT", "7000")
    assert Settings.from_mapping({}).redis == "redis://localhost:6379/0"


def test_redis_url_wins_over_host_and_port():
    assert Settings.from_mapping({"REDIS_URL": "rediss://u:p@h:1/2", "REDIS_HOST": "x"}).redis == "rediss://u:p@h:1/2"


def test_an_empty_value_is_no_value():
    settings = Settings.from_mapping({"REDIS_URL": "", "SVD_MODEL": "", "VIDEO_WIDTH": "", "SVD_DEVICES": ""})
    assert (settings.redis_url, settings.model, settings.video_width, settings.devices) == (None, None, None, "")


def test_devices_are_a_list_and_choose_the_model():
    settings = Settings.from_mapping({"SVD_DEVICES": "0, 1"})
    assert settings.worker_devices == ("0", "1")
    assert settings.model_source == "stabilityai/stable-video-diffusion-img2vid-xt"
    assert Path(Settings.from_mapping({"SVD_DEVICES": "cpu"}).model_source).name == "nano"


def test_settings_do_not_change():
    with pytest.raises(Exception, match="immutable"):
        setattr(Settings.from_mapping({}), "redis_port", 1)  # noqa: B010
