"""What a worker under test suffers. Python imports this module at its start where this folder is on PYTHONPATH.

The environment variable TEST_FAULTS is an object of JSON:

``stand_in``       seconds that a step takes. The model is a stand-in, which needs no torch: it is Celery, Redis and the
                   ledger that are put to the test, and a step that always takes as long makes that repeatable.
``video_bytes``    how many bytes the stand-in's videos have
``load_seconds``   seconds that loading the model takes
``load_fails``     a file; while it is there the model cannot be loaded
``skew``           seconds by which the host's clock is wrong
``celery``         settings of Celery's, instead of ours
``constants``      values of ours by `module:NAME`, to switch a mechanism off
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

#: What a video's seed means to the stand-in.
KILLS_ITS_PROCESS, HANGS, LOSES_THE_DEVICE, FILLS_THE_DISK = 666, 667, 668, 669

#: Bytes of a video that is too large for the disk.
TOO_LARGE = 50_000_000


class AcceleratorError(RuntimeError):
    """By its name torch's, for an error of CUDA's own."""


def prepare(conf: Any, faults: dict[str, Any]) -> None:
    """In the worker's parent, before it has begun."""
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
    """A generation of steps that take so long, each."""

    def render(_: Any, __: Any, parameters: Any, path: Path, on_progress: Any, **___: Any) -> SimpleNamespace:
        from svd_service.jobs.job import Phase, Progress

        steps, segments = parameters.num_inference_steps, parameters.segments
        for segment in range(1, segments + 1):
            on_progress(Progress(Phase.PREPARING, segment=segment, segments=segments))
            for step in range(1, steps + 1):
                time.sleep(seconds)
                suffer(parameters.seed)
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


def suffer(seed: int) -> None:
    if seed == KILLS_ITS_PROCESS:
        os.kill(os.getpid(), signal.SIGKILL)
    if seed == HANGS:
        time.sleep(3_600)
    if seed == LOSES_THE_DEVICE:
        raise AcceleratorError("CUDA error: an illegal memory access was encountered\nAnd what to do about it.")


def load(faults: dict[str, Any]) -> None:
    """In a worker's process, before it loads the model."""
    time.sleep(faults.get("load_seconds", 0))
    if "load_fails" in faults and Path(faults["load_fails"]).exists():
        os.environ["SVD_MODEL"] = "/nowhere"
        importlib.import_module("svd_service.config").settings.cache_clear()


if "TEST_FAULTS" in os.environ:
    _faults = json.loads(os.environ["TEST_FAULTS"])
    if _skew := _faults.get("skew", 0):
        # Nothing has been imported yet that would have taken the right one.
        _right = time.time
        time.time = lambda: _right() + _skew

    if "stand_in" in _faults:
        os.environ["SVD_C2PA"] = "off"  # its video is none that can be signed

    from celery.signals import celeryd_init, worker_process_init

    # Before ours, which connect later.
    celeryd_init.connect(lambda conf, **_: prepare(conf, _faults), weak=False)
    worker_process_init.connect(lambda **_: load(_faults), weak=False)
