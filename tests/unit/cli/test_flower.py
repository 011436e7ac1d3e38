import os
import subprocess
import sys

import pytest

from svd_service.cli import flower

PASSWORD = "a-long-password"


class ReplacedError(Exception):
    """Raised instead of replacing this process; has the command that would replace it."""


@pytest.fixture
def started(monkeypatch, tmp_path):
    """Runs the command; returns the command line and environment of what replaces it."""

    def replace(program, command, environment):
        assert program == command[0] == sys.executable
        raise ReplacedError(command, environment)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "execve", replace)

    def start(**variables):
        for name in ("FLOWER_BASIC_AUTH", "FLOWER_AUTH", "SVD_FLOWER_BASIC_AUTH", "SVD_FLOWER_BIND"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(ReplacedError) as caught:
            flower.main()
        return caught.value.args

    return start


def test_it_listens_on_loopback_by_default(started):
    command, _ = started()
    assert command[-2:] == ["--address=127.0.0.1", "--port=5555"]


def test_it_listens_at_the_address_of_the_setting(started):
    command, _ = started(SVD_FLOWER_BIND="[::]:7000")
    assert command[-2:] == ["--address=::", "--port=7000"]


def test_the_password_is_in_the_environment_and_not_on_the_command_line(started):
    command, environment = started(SVD_FLOWER_BASIC_AUTH=f"ann:{PASSWORD}")
    assert environment["FLOWER_BASIC_AUTH"] == f"ann:{PASSWORD}"
    assert PASSWORD not in " ".join(command)


def test_without_a_password_it_generates_one_and_shows_it(started, capsys):
    command, environment = started()
    user, _, password = environment["FLOWER_BASIC_AUTH"].partition(":")
    assert user == "svd"
    assert len(password) >= 16
    assert password in capsys.readouterr().err
    assert password not in " ".join(command)
    assert started()[1]["FLOWER_BASIC_AUTH"] != environment["FLOWER_BASIC_AUTH"]


@pytest.mark.parametrize("name", ["FLOWER_BASIC_AUTH", "FLOWER_AUTH"])
def test_flowers_own_authentication_settings_are_kept(started, capsys, name):
    _, environment = started(**{name: "ann:own"})
    assert environment[name] == "ann:own"
    assert "password" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir"])
@pytest.mark.parametrize("given", [{}, {"FLOWER_AUTH": "ann"}, {"SVD_FLOWER_BASIC_AUTH": f"ann:{PASSWORD}"}], ids=str)
def test_its_counters_are_not_in_the_folder_of_the_api(started, name, given):
    _, environment = started(**given, **{name: "/dev/shm/metrics"})
    assert name not in environment


@pytest.mark.parametrize(("name", "value"), [("SVD_FLOWER_BIND", "everywhere"), ("SVD_FLOWER_BASIC_AUTH", "no-colon")])
def test_an_invalid_setting_is_reported_in_one_line(name, value, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "svd_service", "flower"],
        env={**os.environ, name: value},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"svd-service flower: {name}=")
    assert len(done.stderr.splitlines()) == 1
