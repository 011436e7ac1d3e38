import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from svd_service.config import ConfigurationError, Settings
from svd_service.environment.sources import hub_variables


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REDIS_PORT", "none"),
        ("REDIS_PORT", "0"),
        ("REDIS_URL", "http://localhost"),
        ("SVD_DEVICES", "gpu0"),
        ("SVD_DEVICES", "GPU-"),
        ("SVD_DEVICES", "GPU-0,"),
        ("SVD_DEVICES", "MIG-GPU-8932f937/1"),
        ("VIDEO_WIDTH", "100"),
        ("VIDEO_HEIGHT", "8"),
        ("VIDEO_FRAMES", "1"),
        ("SVD_LEASE", "soon"),
        ("SVD_LOG_FORMAT", "xml"),
        ("SVD_NAMESPACE", "a:b"),
        ("SVD_FLOWER_BASIC_AUTH", "nocolon"),
    ],
)
def test_a_wrong_value_is_rejected_with_the_variables_name(name, value):
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
    with pytest.raises(ConfigurationError, match=rf"{name}=\*\*\*: ") as rejected:
        Settings.from_mapping({name: value})
    assert "s3cret" not in str(rejected.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REDIS_URL", "redis://:s3cret@host:1/0"),
        ("SVD_S3_SECRET_ACCESS_KEY", "s3cret"),
        ("SVD_API_KEYS", f"ann:{'0' * 64}"),
        ("SVD_FLOWER_BASIC_AUTH", "ann:s3cret"),
    ],
)
def test_a_secret_loses_the_whitespace_around_it(name, value):
    assert Settings.from_mapping({name: f" {value}\n"}) == Settings.from_mapping({name: value})
    assert Settings.from_mapping({name: " \n"}) == Settings.from_mapping({})


def test_the_environment_and_the_env_file_are_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("REDIS_HOST=file\nVIDEO_FRAMES=14\n")
    monkeypatch.setenv("REDIS_HOST", "environment")
    settings = Settings.load()
    assert settings.redis == "redis://environment:6379/0"
    assert settings.video_frames == 14


def test_an_empty_variable_does_not_hide_its_value_in_the_env_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("SVD_API_KEYS=\nVIDEO_FRAMES=14\n")
    monkeypatch.setenv("VIDEO_FRAMES", "")
    monkeypatch.setenv("SVD_API_KEYS", f"ann:{'0' * 64}")
    settings = Settings.load()
    assert settings.video_frames == 14
    assert settings.api_keys.startswith("ann:")


def test_the_hubs_variables_come_from_the_same_places(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("HF_TOKEN=file\nHF_HOME=file\nHF_ENDPOINT=\nOTHER=file\n", encoding="utf-8-sig")
    monkeypatch.setenv("HF_HOME", "environment")
    found = hub_variables()
    assert (found["HF_TOKEN"], found["HF_HOME"]) == ("file", "environment")
    assert {"HF_ENDPOINT", "OTHER"}.isdisjoint(found)


def test_a_mapping_does_not_read_the_environment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("REDIS_HOST=file\n")
    monkeypatch.setenv("REDIS_PORT", "7000")
    assert Settings.from_mapping({}).redis == "redis://localhost:6379/0"


def test_redis_url_takes_precedence_over_host_and_port():
    assert Settings.from_mapping({"REDIS_URL": "rediss://u:p@h:1/2", "REDIS_HOST": "x"}).redis == "rediss://u:p@h:1/2"


def test_tls_is_used_for_rediss_urls_and_certificates_are_always_verified(tmp_path):
    assert Settings.from_mapping({"REDIS_URL": "redis://h:1/0"}).redis_address.tls is None
    assert Settings.from_mapping({"REDIS_URL": "rediss://h:1/0"}).redis_address.tls == {"ssl_cert_reqs": "required"}
    names = {"REDIS_CA_FILE": "ssl_ca_certs", "REDIS_CERT_FILE": "ssl_certfile", "REDIS_KEY_FILE": "ssl_keyfile"}
    files = {variable: str(tmp_path / variable) for variable in names}
    tls = Settings.from_mapping({"REDIS_URL": "rediss://h:1/0", **files}).redis_address.tls
    assert tls == {"ssl_cert_reqs": "required", **{names[variable]: path for variable, path in files.items()}}


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"REDIS_URL": "redis://h:1/0", "REDIS_CA_FILE": "ca.pem"}, "REDIS_CA_FILE"),
        ({"REDIS_URL": "rediss://h:1/0", "REDIS_CERT_FILE": "c.pem"}, "REDIS_KEY_FILE"),
        ({"REDIS_SENTINELS": "a:1"}, "REDIS_SENTINELS"),
        ({"REDIS_SENTINELS": "a:1", "REDIS_URL": "unix:///redis.sock"}, "REDIS_SENTINELS"),
        ({"REDIS_SENTINELS": "a", "REDIS_URL": "redis://m/0"}, "REDIS_SENTINELS"),
        ({"REDIS_SENTINELS": "a:1,", "REDIS_URL": "redis://m/0"}, "REDIS_SENTINELS"),
        ({"REDIS_SENTINEL_AUTH": "x"}, "REDIS_SENTINEL_AUTH"),
    ],
)
def test_contradictory_settings_of_redis_are_rejected(variables: dict[str, str], named: str):
    with pytest.raises(ConfigurationError, match=named):
        Settings.from_mapping(variables)


def test_with_sentinels_the_host_is_the_name_of_the_master():
    settings = Settings.from_mapping(
        {"REDIS_URL": "rediss://svd:p%40ss@MyMaster/3", "REDIS_SENTINELS": "a:26379, b.example.org:1"}
    )
    assert settings.sentinels == (("a", 26379), ("b.example.org", 1))
    assert settings.redis_address.sentinel_master == "MyMaster"
    assert settings.redis_address.broker == "sentinel://svd:p%40ss@a:26379/3;sentinel://svd:p%40ss@b.example.org:1/3"
    assert settings.redis_address.tls == {"ssl_cert_reqs": "required"}


def test_without_sentinels_celery_has_the_same_url():
    assert Settings.from_mapping({"REDIS_URL": "rediss://u:p@h:1/2"}).redis_address.broker == "rediss://u:p@h:1/2"
    assert (
        Settings.from_mapping({"REDIS_URL": "unix:///tmp/r.sock"}).redis_address.broker == "redis+socket:///tmp/r.sock"
    )


def test_an_empty_value_counts_as_unset():
    settings = Settings.from_mapping({"REDIS_URL": "", "SVD_MODEL": "", "VIDEO_WIDTH": "", "SVD_DEVICES": ""})
    assert (settings.redis_url, settings.model, settings.video_width, settings.devices) == (None, None, None, "")


def test_devices_are_a_list_and_determine_the_default_model():
    settings = Settings.from_mapping({"SVD_DEVICES": "0, 1"})
    assert settings.worker_devices == ("0", "1")
    assert settings.model_source == "stabilityai/stable-video-diffusion-img2vid-xt"
    assert Path(Settings.from_mapping({"SVD_DEVICES": "cpu"}).model_source).name == "nano"


@pytest.mark.parametrize(
    "names",
    [
        ("GPU-8932f937-d72c-4106-c12f-20bd9faed9f6",),
        ("GPU-8932f937", "1"),
        ("MIG-6a1d3f0e-0000-5000-8000-000000000001", "MIG-6a1d3f0e-0000-5000-8000-000000000002"),
        ("MIG-GPU-8932f937-d72c-4106-c12f-20bd9faed9f6/1/0",),
    ],
)
def test_devices_may_have_the_names_of_nvidia_smi(names):
    settings = Settings.from_mapping({"SVD_DEVICES": ", ".join(names)})
    assert settings.worker_devices == names
    assert settings.model_source == "stabilityai/stable-video-diffusion-img2vid-xt"


def test_settings_are_immutable():
    with pytest.raises(Exception, match="immutable"):
        setattr(Settings.from_mapping({}), "redis_port", 1)  # noqa: B010


def test_a_secret_is_read_from_the_file_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("REDIS_URL", raising=False)
    (tmp_path / "REDIS_URL").write_text("redis://:p@host:1/0\n")
    monkeypatch.setenv("SVD_SECRETS_DIR", str(tmp_path))
    assert Settings.load().redis == "redis://:p@host:1/0"


def test_a_variable_takes_precedence_over_the_file_of_a_secret_unless_it_is_empty(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "SVD_FLOWER_BASIC_AUTH").write_text("file:secret")
    monkeypatch.setenv("SVD_SECRETS_DIR", str(tmp_path))
    monkeypatch.setenv("SVD_FLOWER_BASIC_AUTH", "ann:secret")
    assert Settings.load().flower_basic_auth == "ann:secret"
    monkeypatch.setenv("SVD_FLOWER_BASIC_AUTH", "")
    assert Settings.load().flower_basic_auth == "file:secret"


def test_only_secrets_are_read_from_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "SVD_LOG_LEVEL").write_text("DEBUG")
    monkeypatch.setenv("SVD_SECRETS_DIR", str(tmp_path))
    assert Settings.load().log_level == "INFO"


def test_a_wrong_secret_in_a_file_is_rejected_without_showing_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "SVD_FLOWER_BASIC_AUTH").write_text("s3cret")
    monkeypatch.setenv("SVD_SECRETS_DIR", str(tmp_path))
    with pytest.raises(ConfigurationError, match=r"SVD_FLOWER_BASIC_AUTH=\*\*\*"):
        Settings.load()
    (tmp_path / "SVD_FLOWER_BASIC_AUTH").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="cannot read the secret"):
        Settings.load()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("SVD_JOB_TIMEOUT", value) for value in ("inf", "Infinity", "1e400", "1e300", "nan", "-inf")],
        ("SVD_DRAIN_TIMEOUT", "inf"),
        ("SVD_RESULT_TTL", "inf"),
        ("SVD_CLIENT_MIN_RATE", "inf"),
        ("SVD_API_THREADS", "9" * 30),
        ("SVD_MAX_UPLOAD_BYTES", "-1"),
        ("SVD_MAX_UPLOAD_BYTES", "9" * 17),
        *[
            ("SVD_BIND", value)
            for value in ("127.0.0.1:99999", "127.0.0.1:-1", "127.0.0.1", "8000", "a b:80", "[::1:80")
        ],
        ("SVD_EXPORTER_BIND", "127.0.0.1:70000"),
        ("SVD_FLOWER_BIND", "unix:/run/flower"),
        ("REDIS_URL", "redis://:pass#word@redis/0"),
        ("REDIS_URL", "redis://:pass/word@redis/0"),
        ("REDIS_URL", "redis://:pass?word@redis/0"),
        ("REDIS_URL", "redis://:pass@word@redis/0"),
        *[("REDIS_URL", f"redis://:pass{character}word@redis/0") for character in "[]\u2100"],
        *[("REDIS_HOST", value) for value in ("host:6380", "ann@host", "host/0", "[::1", "a b")],
        ("REDIS_URL", "redis://redis:99999/0"),
        ("REDIS_URL", "redis://redis/zero"),
        ("REDIS_SENTINELS", "one:26379,two:99999"),
        ("SVD_S3_ENDPOINT", "http://store:99999"),
        ("SVD_DATA_DIR", __file__),
        ("SVD_DATA_DIR", f"/tmp/{'long' * 64}"),
        ("SVD_DATA_DIR", "~nosuch/data"),
        ("SVD_MODEL", "~nosuch/model"),
    ],
)
def test_a_value_that_would_fail_later_is_rejected_with_its_name(name: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{name}=") as error:
        Settings.from_mapping({name: value})
    if name == "REDIS_URL":
        assert "word" not in str(error.value).replace("password", "")
        if "word" in value:
            assert "%23" in str(error.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("SVD_BIND", value) for value in (":8000", "[::]:8000", "localhost:80", "unix:/run/svd.sock", "fd://3")],
        ("REDIS_URL", "redis://user:pass%23word@redis:6379/0"),
        ("REDIS_URL", "rediss://redis"),
        ("REDIS_URL", "redis://redis/1?protocol=3"),
        ("REDIS_URL", "unix:///run/redis.sock?db=1"),
        ("SVD_S3_ENDPOINT", "https://store.example:8443/"),
    ],
)
def test_valid_values_are_accepted(name: str, value: str) -> None:
    assert value in vars_of(Settings.from_mapping({name: value}))


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_a_redis_host_may_be_an_ipv6_address(host: str) -> None:
    assert Settings.from_mapping({"REDIS_HOST": host}).redis == "redis://[::1]:6379/0"


@pytest.mark.parametrize("name", ["data/deep", "secrets"])
def test_a_folder_that_this_user_may_not_enter_is_rejected_with_its_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SVD_DATA_DIR" if name == "data/deep" else "SVD_SECRETS_DIR", name)
    stat = Path.stat

    def forbidden(path: Path, **options: bool) -> os.stat_result:
        if path.is_relative_to(tmp_path / name) or path == tmp_path / "secrets":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", forbidden)
    with pytest.raises(ConfigurationError, match=rf"SVD_(DATA|SECRETS)_DIR=.*{name}.*: .*Permission denied"):
        Settings.load()


def vars_of(settings: Settings) -> list[object]:
    return [getattr(settings, field) for field in Settings.__struct_fields__]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "latin-1"])
def test_an_env_file_in_another_encoding_is_rejected_with_its_name(
    encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_bytes("# für\nSVD_NAMESPACE=other\n".encode(encoding))
    with pytest.raises(ConfigurationError, match=r"\.env: .*UTF-8"):
        Settings.load()


def test_an_env_file_may_begin_with_a_byte_order_mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_bytes("SVD_NAMESPACE=other\n".encode("utf-8-sig"))
    assert Settings.load().namespace == "other"


#: Programs that import the API, read every script, and print text that a terminal without UTF-8 cannot show.
API = """
from svd_service.wsgi import application
from svd_service.ledger.constants import Constants
from svd_service.ledger.scripts import LUA, source
for path in LUA.glob("*.lua"):
    source(path.stem, LUA, Constants())
"""
COMMAND = """
import sys
from rich.console import Console
from svd_service.cli.main import app, main
@app.command()
def speak():
    Console().print("Stopping \\u2026 \\u00fc")
sys.argv[1:] = ["speak"]
main()
"""


@pytest.mark.parametrize("program", [API, COMMAND])
def test_programs_work_in_a_locale_without_utf_8(program: str, tmp_path: Path) -> None:
    environment = {
        "LANG": "C",
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "SVD_DATA_DIR": f"{tmp_path}",
        "SVD_DEVICES": "cpu",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = [sys.executable, "-c", program]
    ran = subprocess.run(command, env=environment, capture_output=True, timeout=60, check=False)
    assert (ran.returncode, b"Error" in ran.stderr) == (0, False), ran.stderr
