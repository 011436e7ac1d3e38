import pytest

from svd_service.config import Settings
from svd_service.environment.devices import cuda_devices


@pytest.fixture
def three_devices(monkeypatch: pytest.MonkeyPatch):
    # A container that has the host's second, third and sixth device.
    monkeypatch.setattr("glob.glob", lambda pattern: [pattern.replace("[0-9]*", number) for number in "125"])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    cuda_devices.cache_clear()
    yield
    cuda_devices.cache_clear()


@pytest.mark.usefixtures("three_devices")
@pytest.mark.parametrize(
    ("visible", "devices"),
    [
        (None, ("0", "1", "2")),
        ("2", ("2",)),
        ("2, 0", ("2", "0")),
        ("0,7,1", ("0",)),
        ("GPU-8932f937", ("GPU-8932f937",)),
        ("", ("cpu",)),
        ("-1", ("cpu",)),
    ],
)
def test_the_worker_uses_the_devices_visible_to_cuda(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, devices: tuple[str, ...]
):
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    settings = Settings.from_mapping({})
    assert settings.worker_devices == devices
    # A worker's process narrows it to its own device; its settings still list all devices.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", devices[-1])
    assert settings.worker_devices == devices
    assert Settings.from_mapping({"SVD_DEVICES": "1"}).worker_devices == ("1",)
