"""Faults of a worker under test. Python imports this module at startup if its folder is on PYTHONPATH.

The environment variable TEST_FAULTS is a JSON object:

``stand_in``       seconds per step. The model is a stand-in without torch, since Celery, Redis and the ledger are what
                   is tested, and steps of a constant duration make that repeatable.
``video_bytes``    bytes of the stand-in's videos
``load_seconds``   seconds that loading the model takes
``load_fails``     a file; while it exists, the model cannot be loaded
``skew``           seconds by which the host's clock is wrong
``celery``         Celery settings that override the service's
``constants``      values by `module:NAME` that override the service's, to disable a mechanism
"""

import importlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

#: Seeds that make the stand-in fail.
KILLS_ITS_PROCESS, HANGS, LOSES_THE_DEVICE, FILLS_THE_DISK = 666, 667, 668, 669

#: Bytes of a video that is too large for the disk.
TOO_LARGE = 50_000_000


class AcceleratorError(RuntimeError):
    """Has the name of torch's exception for an error of CUDA."""


def prepare(conf: Any, faults: dict[str, Any]) -> None:
    """Apply the faults to the worker's parent process before it starts."""
    conf.update(faults.get("celery", {}))
    for name, value in faults.get("constants", {}).items():
        module, _, constant = name.partition(":")
        owner, _, constant = constant.rpartition(".")
        found = importlib.import_module(module)
        if owner:
            setattr(getattr(found, owner), constant, tuple(value))
        else:
            setattr(found, constant, value)
    if "stand_in" in faults:
        package, pipeline = ModuleType("svd_service.video"), ModuleType("svd_service.video.loader")
        package.__dict__.update(render=stand_in(faults["stand_in"], faults.get("video_bytes", 7)), pipeline=pipeline)
        model = SimpleNamespace(
            device="stand-in",
            device_memory=lambda: None,
            plan=SimpleNamespace(name="host"),
            warm_up=lambda: None,
        )
        pipeline.__dict__.update(load=lambda *_, **__: model)
        sys.modules.update({package.__name__: package, pipeline.__name__: pipeline})


def stand_in(seconds: float, video_bytes: int) -> Any:
    """Return a replacement of `render` whose steps take `seconds` each."""

    def render(_: Any, __: Any, parameters: Any, path: Path, on_progress: Any, **___: Any) -> SimpleNamespace:
        from svd_service.jobs.job import Phase, Progress

        steps, segments = parameters.num_inference_steps, parameters.segments
        for segment in range(1, segments + 1):
            on_progress(Progress(Phase.PREPARING, segment=segment, segments=segments))
            for step in range(1, steps + 1):
                time.sleep(seconds)
                cause_fault(parameters.seed)
                on_progress(Progress(Phase.SAMPLING, step, steps, segment, segments))
        path.write_bytes(bytes(video_bytes if parameters.seed != FILLS_THE_DISK else TOO_LARGE))
        return SimpleNamespace(
            width=parameters.width,
            height=parameters.height,
            frames=3,
            seconds={"sampling": 1.0},
            provenance={},
            thumbnail=b"one",
            spritesheet=b"all",
        )

    return render


def cause_fault(seed: int) -> None:
    if seed == KILLS_ITS_PROCESS:
        os.kill(os.getpid(), signal.SIGKILL)
    if seed == HANGS:
        time.sleep(3_600)
    if seed == LOSES_THE_DEVICE:
        raise AcceleratorError("CUDA error: an illegal memory access was encountered\nAnd what to do about it.")


def load(faults: dict[str, Any]) -> None:
    """Apply the faults to a child process before it loads the model."""
    time.sleep(faults.get("load_seconds", 0))
    if "load_fails" in faults and Path(faults["load_fails"]).exists():
        os.environ["SVD_MODEL"] = "/nowhere"
        importlib.import_module("svd_service.config").settings.cache_clear()


if "TEST_FAULTS" in os.environ:
    _faults = json.loads(os.environ["TEST_FAULTS"])
    if _skew := _faults.get("skew", 0):
        # No module that has been imported so far keeps a reference to the original function.
        _correct = time.time
        time.time = lambda: _correct() + _skew

    if "stand_in" in _faults:
        os.environ["SVD_C2PA"] = "off"  # the stand-in's file is not a video that can be signed

    from celery.signals import celeryd_init, worker_process_init

    # These run before the service's own handlers, which connect later.
    celeryd_init.connect(lambda conf, **_: prepare(conf, _faults), weak=False)
    worker_process_init.connect(lambda **_: load(_faults), weak=False)
