"""The licences of models' weights, as far as they are known."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from svd_service.config import CPU_MODEL


@dataclass(frozen=True)
class License:
    """The licence of a model's weights. `notice` is the text that a service with it must show, if any."""

    name: str
    url: str
    notice: str = ""


_APACHE: Final = License("Apache License 2.0", "https://www.apache.org/licenses/LICENSE-2.0")

#: What the names of Stable Video Diffusion's hub ids and folders have in common.
_SVD: Final = "stable-video-diffusion"


def license_of(source: str) -> License | None:
    """The licence of the weights at `source` (hub id or folder), by its name; `None` if it is not known."""
    if source == CPU_MODEL:
        return _APACHE
    if _SVD not in Path(source).name.lower():
        return None
    repository = source if source.startswith("stabilityai/") else f"stabilityai/{Path(source).name}"
    url = f"https://huggingface.co/{repository}/blob/main/LICENSE.md"
    return License("Stability AI Community License", url, "Powered by Stability AI")
