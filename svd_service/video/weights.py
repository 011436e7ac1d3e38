"""Find a model's weights in a folder, on the hub or in the hub's cache, and explain a failure to the operator."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx2
from diffusers import StableVideoDiffusionPipeline
from huggingface_hub.errors import (
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    RevisionResolutionError,
)

from svd_service.jobs.model import Model
from svd_service.video.download_progress import Report, progress_reported

logger = logging.getLogger(__name__)

#: The variant in which the hub's models keep their weights in half precision.
HALF: Final = "fp16"

#: The hub is unreachable, and the model is not in its cache.
_UNREACHABLE: Final = (httpx2.TransportError, LocalEntryNotFoundError, OfflineModeIsEnabled, RevisionResolutionError)


class ModelLoadError(Exception):
    """The model cannot be loaded. The message has the cause, and what the operator can do."""


@dataclass(frozen=True)
class Weights:
    """A folder in diffusers' layout, which of its files to take, and which revision of the model it is."""

    folder: Path
    variant: str | None
    revision: str | None


def find(model: Model, *, half: bool, on_download: Report | None = None) -> Weights:
    """Find the weights of `model`; fetch them from the hub if they are neither a folder nor in the hub's cache.

    If a model has files in both precisions, those in half precision are used if `half`, else the others. A hub model's
    revision is the commit of its branch or tag. `on_download` gets the progress of a download.

    Raises:
        ModelLoadError: the weights cannot be found or fetched.
    """
    folder = Path(model.source).expanduser()
    if folder.is_dir():
        return Weights(folder, _variant(folder, half=half), model.revision)
    if model.source.count("/") != 1 or model.source.startswith((".", "/", "~")):
        raise ModelLoadError(f"SVD_MODEL={model.source}: there is no such folder, and it is not the id of a hub model")
    # If a firewall drops packets to the hub, the wait is long; this line names the setting that avoids it.
    logger.info("looking for %s on the hub, else in its cache (HF_HUB_OFFLINE=1: in its cache alone)", model.source)
    try:
        folder = _fetch(model, half=half, on_download=on_download)
    except Exception as error:
        raise _explained(model, error) from error
    return Weights(folder, _variant(folder, half=half), folder.name)


def _variant(folder: Path, *, half: bool) -> str | None:
    names = [path.name for path in folder.glob("*/*.safetensors")]
    halves = [name for name in names if f".{HALF}" in name]
    # If there are files of one kind only, they are used for either precision.
    return HALF if halves and (half or len(halves) == len(names)) else None


def _fetch(model: Model, *, half: bool, on_download: Report | None) -> Path:
    if half:
        try:
            return _download(model, HALF, on_download)
        except ValueError:
            pass  # diffusers raises it if the model has no such variant
    return _download(model, None, on_download)


def _download(model: Model, variant: str | None, on_download: Report | None) -> Path:
    # Only safetensors: the other format is pickle, which can execute arbitrary code.
    options = {"revision": model.revision, "variant": variant, "use_safetensors": True}
    with progress_reported(model.source, model.revision, variant, on_download):
        return Path(StableVideoDiffusionPipeline.download(model.source, **options))


def _explained(model: Model, error: BaseException) -> ModelLoadError:
    """Explain a failed fetch to the operator."""
    source, revision = model.source, model.revision or "main"
    causes = list(_causes(error))
    statuses = {cause.response.status_code for cause in causes if isinstance(cause, HfHubHTTPError)}
    if statuses & {401, 403}:
        return ModelLoadError(
            f"The hub denies access to {source}. Accept its licence on https://huggingface.co/{source} and set "
            f"HF_TOKEN to a token of that account (https://huggingface.co/settings/tokens); if there is no such model, "
            f"correct SVD_MODEL."
        )
    if any(isinstance(cause, RepositoryNotFoundError | RevisionNotFoundError) for cause in causes):
        return ModelLoadError(
            f"The hub has no model {source} with a revision {revision}: correct SVD_MODEL or SVD_MODEL_REVISION."
        )
    if statuses - {404} or any(isinstance(cause, _UNREACHABLE) for cause in causes):
        reason = str(causes[-1]).partition("\n")[0]
        return ModelLoadError(
            f"{source} is not in this machine's cache, and the hub cannot be reached: {reason}. Connect this "
            f"machine for the first start, or bring the model as a folder and set SVD_MODEL=/path/to/it."
        )
    return ModelLoadError(
        f"{source} cannot be fetched from the hub as Stable Video Diffusion in safetensors files: {error}"
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
