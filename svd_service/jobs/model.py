"""A model as callers and operators see it: its name, its defaults and its limits.

A folder in diffusers' layout may carry a `svd_service.json` with these fields; without it, the description comes from
`unet/config.json`, and for an unknown hub id from SVD-XT. No weights are read here, so the web process can do it.
"""

import json
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from fractions import Fraction
from pathlib import Path
from typing import Any, Final, Self

from svd_service import validation
from svd_service.config import ConfigurationError, Settings
from svd_service.jobs.license import License, license_of
from svd_service.parameters import Profile

#: Width and height in pixels.
Size = tuple[int, int]

#: Written beside a model's `model_index.json`.
DESCRIPTION_FILE = "svd_service.json"


@dataclass(frozen=True)
class Defaults:
    """Values of the parameters that a request omits. Sizes in pixels, `fps` in frames per second."""

    width: int = 1024
    height: int = 576
    num_frames: int = 25
    num_inference_steps: int = 25
    fps: int = 7
    motion_bucket_id: int = 127
    noise_aug_strength: float = 0.02
    min_guidance_scale: float = 1.0
    max_guidance_scale: float = 3.0
    decode_chunk_size: int = 4


@dataclass(frozen=True)
class Bounds:
    """Minimum and maximum that the model accepts, inclusive. Sizes are multiples of 8 pixels."""

    width: tuple[int, int] = (64, 2048)
    height: tuple[int, int] = (64, 2048)
    num_frames: tuple[int, int] = (2, 50)


class Schedule(StrEnum):
    """Where a video's noise levels come from."""

    MODEL = "model"  # the model's own scheduler
    ALIGN_YOUR_STEPS = "align_your_steps"  # those found for Stable Video Diffusion (arXiv 2404.14507)


@dataclass(frozen=True)
class Sampling:
    """How a profile runs a model: its noise levels, and its number of steps unless a request sets it."""

    num_inference_steps: int
    schedule: Schedule = Schedule.MODEL


#: The draft profile of a model without one of its own: the ten steps of Align Your Steps.
SVD_DRAFT: Final = Sampling(10, Schedule.ALIGN_YOUR_STEPS)


@dataclass(frozen=True)
class Model:
    """A model's description. `source` is the hub id or folder; `trained` is false for random weights; `license` is that
    of the weights, where it is known.
    """

    name: str
    source: str
    revision: str | None = None
    description: str = ""
    trained: bool = True
    defaults: Defaults = field(default_factory=Defaults)
    bounds: Bounds = field(default_factory=Bounds)
    profiles: dict[str, Sampling] = field(default_factory=dict)
    license: License | None = None

    def __post_init__(self) -> None:
        exact = Sampling(self.defaults.num_inference_steps)
        object.__setattr__(
            self, "profiles", {Profile.EXACT.value: exact, **(self.profiles or {Profile.DRAFT.value: SVD_DRAFT})}
        )

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The model that `settings` name, with the sizes that they override.

        Raises:
            ConfigurationError: the folder is no model, or a default lies outside the model's bounds.
        """
        source = settings.model_source
        described = _describe(Path(source)) if _is_folder(source) else _of_hub(source)
        overridden = {
            name: value
            for name, value in (
                ("width", settings.video_width),
                ("height", settings.video_height),
                ("num_frames", settings.video_frames),
            )
            if value is not None
        }
        bounds = Bounds(**{name: tuple(pair) for name, pair in described.pop("bounds", {}).items()})
        for name, value in overridden.items():
            least, most = getattr(bounds, name)
            if not least <= value <= most:
                variable = {"num_frames": "VIDEO_FRAMES"}.get(name, f"VIDEO_{name.upper()}")
                raise ConfigurationError(f"{variable}={value}: the model {source} takes {least} to {most}")
        defaults = Defaults(**{**described.pop("defaults", {}), **overridden})
        profiles = {
            name: Sampling(**{**sampling, "schedule": Schedule(sampling.get("schedule", Schedule.MODEL))})
            for name, sampling in described.pop("profiles", {}).items()
        }
        described.setdefault("revision", settings.model_revision)
        stated = described.pop("license", None)
        licensed = License(**stated) if stated else license_of(source)
        return cls(source=source, defaults=defaults, bounds=bounds, profiles=profiles, license=licensed, **described)

    def size_of_shape(self, size: Size) -> Size:
        """The size of a video in the shape of an image of `size`: the same size, if the model can make it.

        Otherwise it is the size of the same shape whose area is nearest to that of the model's default size. If the
        model's bounds leave no such size, it is the default size.
        """
        if self._can_make(size):
            return size
        # The smallest multiple of the shape whose sides are multiples of eight.
        shape = Fraction(*size)
        unit = (8 * shape.numerator, 8 * shape.denominator)
        default = (self.defaults.width, self.defaults.height)
        sizes = [(unit[0] * times, unit[1] * times) for times in range(1, max(self.bounds.width) // unit[0] + 1)]
        fitting = [each for each in sizes if self._can_make(each)]
        return min(fitting, key=lambda each: abs(each[0] * each[1] - default[0] * default[1]), default=default)

    def _can_make(self, size: Size) -> bool:
        bounds = (self.bounds.width, self.bounds.height)
        return all(minimum <= side <= maximum for side, (minimum, maximum) in zip(size, bounds, strict=True))

    def summary(self) -> dict[str, Any]:
        """The description of the model that a job stores."""
        return {"name": self.name, "revision": self.revision, "trained": self.trained}

    def to_dict(self) -> dict[str, Any]:
        """Everything."""
        return asdict(self)

    def shown(self) -> dict[str, Any]:
        """The same for callers, without paths of the host."""
        return {**self.to_dict(), "source": Path(self.source).name if _is_folder(self.source) else self.source}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_dict`. Unknown fields, written by a newer version, are ignored."""
        return validation.convert(values, cls)


def _is_folder(source: str) -> bool:
    return Path(source).is_dir() or source.startswith((".", "/", "~"))


def _describe(folder: Path) -> dict[str, Any]:
    folder = folder.expanduser()
    if not (folder / "model_index.json").is_file():
        raise ConfigurationError(f"SVD_MODEL={folder}: there is no model in diffusers' layout (no model_index.json)")
    description = folder / DESCRIPTION_FILE
    if description.is_file():
        return dict(json.loads(description.read_text(encoding="utf-8")))
    unet = folder / "unet" / "config.json"
    frames = json.loads(unet.read_text(encoding="utf-8")).get("num_frames", 25) if unet.is_file() else 25
    return {"name": folder.name, "defaults": {"num_frames": frames}}


def _of_hub(source: str) -> dict[str, Any]:
    # The 14-frame model is the one without "xt"; both were trained at 1024x576 (the model cards on the hub).
    frames = 25 if "xt" in source.rsplit("/", 1)[-1] else 14
    return {"name": source, "defaults": {"num_frames": frames}}
