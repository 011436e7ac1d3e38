"""Load a model's weights to its device: a generator over diffusers' Stable Video Diffusion pipeline."""

import logging
import os
import time
from collections.abc import Collection

import torch
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from svd_service.config import Settings
from svd_service.jobs.model import Model
from svd_service.video.download_progress import Report
from svd_service.video.generator import CPU, Generator
from svd_service.video.memory_plan import GB, HOST, MemoryPlan, choose, need
from svd_service.video.optimizations import COMPILING, Optimization, chosen, usable
from svd_service.video.out_of_memory import one_out_of_memory_error
from svd_service.video.pipeline import Pipeline
from svd_service.video.weights import ModelLoadError, Weights, find

__all__ = ["Generator", "ModelLoadError", "load"]

logger = logging.getLogger(__name__)


def load(
    model: Model,
    device: str,
    settings: Settings,
    optimizations: Collection[Optimization] | None = None,
    on_download: Report | None = None,
) -> Generator:
    """Load `model` on `device`: `cpu` in single precision, or a CUDA device's number (or name) in half.

    A process that sees one CUDA device only (`CUDA_VISIBLE_DEVICES`) gets that one, whatever its number on the host.
    Without `optimizations`, the settings decide. `on_download` gets the progress of a download.

    Raises:
        ModelLoadError: there is no such device, or the weights cannot be fetched or read.
    """
    began = time.monotonic()
    place = _place(device)
    if place != CPU:
        _require_usable(place, device)
    torch.set_num_threads(_threads(settings))
    weights = find(model, half=place != CPU, on_download=on_download)
    precision = torch.float32 if place == CPU else torch.float16
    optimizations = usable(chosen(settings.optimizations, place) if optimizations is None else optimizations)
    pipe = _open(weights, precision)
    plan = _plan(pipe, model, place, settings, graphs=Optimization.CUDA_GRAPHS in optimizations)
    if plan.model_offload:
        # Compiled code would have to follow its weights from the host to the device and back.
        optimizations -= COMPILING
    else:
        _move(pipe, place)
    generator = Generator(pipe, model, weights.revision, optimizations, plan, place)
    logger.info("loaded %s on %s in %.1f s", model.name, generator.device, time.monotonic() - began)
    logger.info("optimizations: %s", ", ".join(sorted(generator.optimizations)) or "none")
    if not model.trained:
        logger.warning("the weights of %s are untrained: its videos are noise", model.name)
    return generator


def _place(device: str) -> torch.device:
    if device == "cpu":
        return CPU
    visible = torch.cuda.device_count()
    if visible > 1 and not device.isdecimal():
        raise ModelLoadError(
            f"This process sees {visible} CUDA devices, so the name {device} selects none: set "
            f"CUDA_VISIBLE_DEVICES={device}, or SVD_DEVICES to a number."
        )
    index = 0 if visible <= 1 else int(device)
    if index >= visible:
        raise ModelLoadError(
            f"There is no CUDA device {device}: torch {torch.__version__} sees {visible} of them. Check the driver "
            f"(nvidia-smi) and that torch is a CUDA build, or set SVD_DEVICES=cpu."
        )
    return torch.device("cuda", index)


def _require_usable(place: torch.device, device: str) -> None:
    """Reject a device that torch lists but cannot compute with: it would fail in every job instead.

    `device_count` asks the driver's management library, which knows devices that CUDA itself does not get to run.
    """
    try:
        torch.cuda.init()
        capability = torch.cuda.get_device_capability(place)
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0]
        raise ModelLoadError(
            f"CUDA does not start on device {device}: {reason}. If the driver is older than CUDA {torch.version.cuda}, "
            f"for which torch {torch.__version__} is built, update it (nvidia-smi shows both). If it worked before, "
            f"look for Xid errors in the kernel's log (dmesg), and reset the device or restart the host."
        ) from error
    architectures = torch.cuda.get_arch_list()
    if not _runs(capability, architectures):
        raise ModelLoadError(
            f"CUDA device {device} has compute capability {capability[0]}.{capability[1]}, and torch "
            f"{torch.__version__} is built for {', '.join(architectures)}. Install a build of torch for that device "
            f"(https://pytorch.org/get-started), or set SVD_DEVICES to others."
        )


def _runs(capability: tuple[int, int], architectures: Collection[str]) -> bool:
    """Whether a build for `architectures` (`sm_90`, `compute_90`) has code for a device of that compute capability.

    Machine code (`sm`) runs on devices of the same major version, from its own minor version on; intermediate code
    (`compute`) on every newer device. A suffix (`sm_90a`) means that very version.
    """
    for kind, _, version in (each.partition("_") for each in architectures):
        digits = version.rstrip("abcdefghijklmnopqrstuvwxyz")
        built = (int(digits[:-1]), int(digits[-1]))
        if digits != version:
            fits = built == capability
        elif kind == "sm":
            fits = built[0] == capability[0] and built <= capability
        else:
            fits = built <= capability
        if fits:
            return True
    return not architectures


def _threads(settings: Settings) -> int:
    # Only the cores of this process: a container or taskset may allow it fewer than the machine has.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return settings.cpu_threads or max(1, cores // len(settings.worker_devices))


def _plan(pipe: Pipeline, model: Model, place: torch.device, settings: Settings, *, graphs: bool = False) -> MemoryPlan:
    """Choose the memory plan, and log it."""
    if place == CPU:
        if settings.memory != "auto":
            logger.warning("SVD_MEMORY=%s has no effect: it applies to CUDA devices only", settings.memory)
        return HOST
    free, _ = torch.cuda.mem_get_info(place)
    parts = {name: _bytes(part) for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    plan = choose(settings.memory, free, model.defaults, parts, graphs=graphs)
    takes = need(plan, model.defaults, parts, graphs=graphs)
    logger.info(
        "memory plan: %s (SVD_MEMORY=%s), about %.1f GB of %.1f GB free",
        plan.name,
        settings.memory,
        takes / GB,
        free / GB,
    )
    if takes > free:
        logger.warning("memory plan: needs more memory than is free; jobs may use the OOM fallback, or fail")
    return plan


def _bytes(part: torch.nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in (*part.parameters(), *part.buffers()))


def _move(pipe: Pipeline, place: torch.device) -> None:
    try:
        with one_out_of_memory_error():
            pipe.to(place)
    except torch.OutOfMemoryError as error:
        raise ModelLoadError(f"The model does not fit into the memory of {place}: {error}") from error


def _open(weights: Weights, precision: torch.dtype) -> Pipeline:
    for talk in (diffusers_logging, transformers_logging):
        talk.disable_progress_bar()
        # The libraries log through our handlers, in our format.
        talk.disable_default_handler()
        talk.enable_propagation()
    try:
        pipe: Pipeline = Pipeline.from_pretrained(
            weights.folder, dtype=precision, variant=weights.variant, use_safetensors=True, local_files_only=True
        )
    except Exception as error:
        raise ModelLoadError(
            f"{weights.folder} cannot be loaded as a Stable Video Diffusion in diffusers' layout, with safetensors "
            f"files. Copy or fetch it anew, or set SVD_MODEL to another. {type(error).__name__}: {error}"
        ) from error
    pipe.set_progress_bar_config(disable=True)
    return pipe
