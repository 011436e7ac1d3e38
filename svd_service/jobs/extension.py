"""Extending a video: what a job that continues another one inherits from it, and must have in common with it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from svd_service.errors import InvalidParameterError
from svd_service.jobs.clip import parsed_size
from svd_service.parameters import Delivery

#: Parameters that are not inherited: each extension has its own seed, and as many segments as it requests.
_OWN: Final = frozenset({"seed", "segments", "loop", "extend", "extend_as", "extended_frames"})

#: Parameters that set the size: an extension has the size of the video that it continues.
_SIZES: Final = ("width", "height", "output_width", "output_height")

#: Parameters that set the rate of the frames, of which one file has one.
_RATES: Final = ("interpolate", "playback_fps")


@dataclass(frozen=True)
class Extended:
    """The video of a finished job that another one continues: `parameters` are its effective ones, as a mapping."""

    job_id: str
    frames: int
    parameters: Mapping[str, Any]

    def inherited(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Values of the parameters that a request, which sets `given`, has from the extended video."""
        values = {name: value for name, value in self.parameters.items() if name not in _OWN}
        if "profile" in given:
            del values["num_inference_steps"]  # the profile's
        if given.keys() & {"fps", "interpolate"} and not _is_joined(given):
            del values["playback_fps"]  # follows from the two
        return values | {"extended_frames": self.frames if _is_joined(given) else 0}

    def check(self, values: Mapping[str, Any], given: Mapping[str, Any]) -> None:
        """Check the values in effect of a request that sets `given`.

        Raises:
            InvalidParameterError: it asks for another size, or for one file with frames of two rates.
        """
        if "size" in given and parsed_size(given["size"]) != self._output_size:
            size = "{}x{}".format(*self._output_size)
            raise InvalidParameterError("size", f"size: must be that of the extended video, {size}")
        fixed = dict.fromkeys(_SIZES, "")
        if _is_joined(given):
            fixed |= dict.fromkeys(_RATES, " unless extend_as is alone")
        for name, exception in fixed.items():
            if values[name] != self.parameters[name]:
                raise InvalidParameterError(
                    name,
                    f"{name}: must be that of the extended video{exception}: {self.parameters[name]}",
                )

    @property
    def _output_size(self) -> tuple[int, int]:
        return self.parameters["output_width"], self.parameters["output_height"]


def _is_joined(given: Mapping[str, Any]) -> bool:
    return bool(given.get("extend_as", Delivery.JOINED) == Delivery.JOINED)
