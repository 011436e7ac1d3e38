"""The model on a device: seconds by phase, share of the limit, memory; each optimization and each profile."""

import gc
import resource
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from svd_service.config import Settings
from svd_service.errors import InvalidOutputError
from svd_service.jobs.job import Progress
from svd_service.jobs.model import Model
from svd_service.jobs.parameters import Parameters, VideoRequest
from svd_service.parameters import Profile
from svd_service.video import Rendering, render
from svd_service.video.loader import Generator, load
from svd_service.video.memory_plan import FAST, HOST, MEMORY_PLANS, MemoryPlan
from svd_service.video.optimizations import AUTO, COMPILING, CPU_ONLY, Optimization
from tools.benchmark import architectures, machine, photo
from tools.benchmark.calls import check, frames
from tools.benchmark.prepared import PREPARED
from tools.benchmark.report import BenchmarkError, bar, save, show, show_bars, summary

#: TFLOP of SVD-XT's parts at 25 frames of 1024x576 with guidance, counted on the meta device from its configuration:
#: one step, preparing (the VAE's encoder and CLIP) and decoding.
SVD_XT: Final = {"step": 159.9, "preparing": 2.6 + 0.33, "decoding": 173.6}
SVD_XT_SIZE: Final = (1024, 576, 25)

#: Targets on one H200, by case: maximum seconds, and maximum GB of memory.
SECONDS: Final = {"defaults": 8.0, "draft profile": 3.5}
GIGABYTES: Final = {"defaults": 14.0, "small memory": 8.0}

#: Side of the square matrices with which the device's maximum speed is measured, by its type; number of measurements.
MATRIX: Final = {"cuda": 8192, "cpu": 1024}
PRODUCTS: Final = 20


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.add_argument("--architecture", choices=tuple(architectures.ARCHITECTURES), default="svd-xt")
    parser.add_argument(
        "--random-weights", action="store_true", help="use random weights of that architecture instead of a model"
    )
    parser.add_argument("--model", help="without --random-weights: a hub id or a folder")
    parser.add_argument("--device", default="0" if torch.cuda.is_available() else "cpu", help="`cpu` or a CUDA number")
    parser.add_argument("--photo", type=Path, help="default: a synthetic one")
    parser.add_argument("--repeats", type=int, default=3, help="measured videos per case, after a warm-up (3)")
    parser.add_argument("--cases", nargs="*", help="only cases whose names contain one of these words")
    parser.add_argument("--seconds", type=float, help="start no case that would end later")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a parameter of the video")


@dataclass(frozen=True)
class Case:
    """A configuration to measure: optimizations, profile and memory plan."""

    name: str
    optimizations: frozenset[Optimization]
    profile: Profile = Profile.EXACT
    plan: MemoryPlan = FAST
    change: Callable[[Any], None] | None = None  # of the pipeline: one of `prepared`


def cases(kind: str) -> list[Case]:
    """Return the cases: the device's defaults, no optimizations, the other profiles, the other memory plans (on CUDA),
    the defaults with each optimization inverted, what is prepared, and the defaults again.

    Compiling takes minutes, and each inverted optimization would be compiled anew. So these are compared without it.
    """
    usual = AUTO[kind]
    uncompiled = usual - {Optimization.COMPILE}
    base = "uncompiled" if uncompiled != usual else "defaults"
    inverted = [
        _inverted(base, uncompiled, optimization)
        for optimization in Optimization
        if optimization not in COMPILING and (kind == "cpu" or optimization not in CPU_ONLY)
    ]
    if uncompiled != usual:
        inverted.insert(0, Case(base, uncompiled))
    # With the defaults compiled, `uncompiled` is them without it; graphs need compiled code.
    last = Optimization.CUDA_GRAPHS if uncompiled != usual else Optimization.COMPILE
    compiled = [_inverted("defaults", usual, last)]
    profiles = [Case(f"{profile} profile", usual, profile) for profile in Profile if profile is not Profile.EXACT]
    plans = [
        Case(f"{plan.name} memory", usual, plan=plan) for plan in MEMORY_PLANS if plan is not FAST and kind == "cuda"
    ]
    changed = [
        Case(name, usual if may_compile else uncompiled, change=change)
        for name, (change, may_compile) in PREPARED[kind].items()
    ]
    ends = [Case("defaults, again", usual)]
    # The most important first, since the time may not suffice for all of them.
    return [
        Case("defaults", usual),
        Case("plain", frozenset()),
        *profiles,
        *plans,
        *inverted,
        *changed,
        *compiled,
        *ends,
    ]


def _inverted(name: str, usual: frozenset[Optimization], optimization: Optimization) -> Case:
    return Case(f"{name}, {'without' if optimization in usual else 'with'} {optimization}", usual ^ {optimization})


def run(options: Namespace, result: dict[str, Any]) -> bool:
    """Measure; return whether the targets, if any, are met."""
    place = torch.device("cpu") if options.device == "cpu" else torch.device("cuda", int(options.device))
    result["machine"] = {**machine.describe(), "device": _device(place)}
    print(f"{machine.in_words(result['machine'])}; {result['machine']['device']}")
    try:
        return _Measurement(options, result, place).run()
    except InvalidOutputError as error:
        raise BenchmarkError(f"some values are not finite: {error}") from None


class _Measurement:
    def __init__(self, options: Namespace, result: dict[str, Any], place: torch.device) -> None:
        self._options = options
        self._result = result
        self._place = place
        self._precision = torch.float32 if place.type == "cpu" else torch.float16
        self._deadline = time.monotonic() + (options.seconds or float("inf"))
        self._longest = 0.0  # seconds of the longest case
        self._wrong: Exception | None = None  # the first case whose output is invalid
        if options.random_weights:
            self._model = architectures.ARCHITECTURES[options.architecture].model
        elif options.model:
            self._model = Model.of(Settings.from_mapping({"SVD_MODEL": options.model}))
        else:
            raise BenchmarkError("--random-weights or --model is required")

    def run(self) -> bool:
        with tempfile.TemporaryDirectory(prefix="svd-bench-") as name:
            folder = Path(name)
            with Image.open(self._options.photo or photo.make(folder / "photo.jpg", (1600, 1200))) as image:
                image.load()
                self._image = image.convert("RGB")
            self._result["ceilings"] = ceilings(self._place, self._precision)
            parameters = self._parameters(Profile.EXACT)
            self._result["parameters"] = parameters.to_dict()
            self._result["tflop"] = self._count(parameters, folder)
            words = self._options.cases or [""]
            planned = [case for case in cases(self._place.type) if any(word in case.name for word in words)]
            self._result |= {"planned": [case.name for case in planned], "cases": {}, "failed": {}}
            for case in planned:
                self._measure_in_time(case, folder)
        self._show()
        if self._wrong is not None:
            raise self._wrong
        return self._judge() and not self._result["failed"]

    def _measure_in_time(self, case: Case, folder: Path) -> None:
        """Measure a case unless it would end too late, and save the figures immediately."""
        began = time.monotonic()
        if began + self._longest > self._deadline:
            return
        try:
            values = self._measure(case, folder)
        except Exception as error:  # noqa: BLE001 - the other cases are measured nevertheless
            self._failed(case, error)
            return
        self._longest = max(self._longest, time.monotonic() - began)
        self._result["cases"][case.name] = values
        save(self._options.json, self._result)
        print(f"  {case.name}: {values['seconds']['median']:.3f} s", flush=True)

    def _failed(self, case: Case, error: Exception) -> None:
        """Record the failure of a case; `error` is freed here, as its traceback holds the case's pipeline."""
        reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        self._result["failed"][case.name] = reason
        save(self._options.json, self._result)
        print(f"  {case.name}: {reason}", flush=True)
        if isinstance(error, BenchmarkError | InvalidOutputError):
            self._wrong = self._wrong or error.with_traceback(None)

    def _parameters(self, profile: Profile) -> Parameters:
        options: dict[str, Any] = {
            name: int(value) for name, value in (word.split("=", 1) for word in self._options.set)
        }
        return VideoRequest(seed=7, profile=profile, **options).resolve(self._model, photo.SIZE)

    def _generator(
        self,
        optimizations: frozenset[Optimization],
        plan: MemoryPlan = FAST,
        change: Callable[[Any], None] | None = None,
    ) -> tuple[Generator, Any]:
        """Return a generator after its warm-up, and its pipeline's VAE, whose output is checked."""
        if self._options.random_weights:
            architecture = architectures.ARCHITECTURES[self._options.architecture]
            pipe = architectures.build(architecture, self._place, self._precision)
            if plan.model_offload:  # as in `load`
                pipe.to("cpu")
                optimizations -= COMPILING
            plan = plan if self._place.type == "cuda" else HOST
            generator = Generator(pipe, self._model, None, optimizations, plan, self._place)
        else:
            settings = Settings.from_mapping({"SVD_MODEL": self._options.model, "SVD_MEMORY": plan.name})
            generator = load(self._model, self._options.device, settings, optimizations)
            pipe = generator._pipe  # noqa: SLF001 - to check its output
        if change is not None:
            change(pipe)
        generator.warm_up()
        return generator, pipe.vae

    def _count(self, parameters: Parameters, folder: Path) -> dict[str, float]:
        """Return the TFLOP of each phase of one video: known for SVD-XT, otherwise counted by torch."""
        size = (parameters.width, parameters.height, parameters.num_frames)
        if self._options.architecture == "svd-xt" and size == SVD_XT_SIZE and parameters.max_guidance_scale > 1:
            steps = parameters.num_inference_steps
            return {
                "preparing": SVD_XT["preparing"],
                "sampling": SVD_XT["step"] * steps,
                "decoding": SVD_XT["decoding"],
            }
        generator, _ = self._generator(frozenset())
        counted: dict[str, float] = {}
        with FlopCounterMode(display=False) as counter:

            def on_progress(progress: Progress) -> None:
                counted.setdefault(progress.phase, counter.get_total_flops())

            render(generator, self._resized(parameters), parameters, folder / "counted.mp4", on_progress)
            marks = [*counted.values(), counter.get_total_flops()]
        values = {phase: (marks[i + 1] - marks[i]) / 1e12 for i, phase in enumerate(counted)}
        return {phase: values[phase] for phase in ("preparing", "sampling", "decoding")}

    def _resized(self, parameters: Parameters) -> Image.Image:
        return self._image.resize((parameters.width, parameters.height))

    def _measure(self, case: Case, folder: Path) -> dict[str, Any]:
        parameters = self._parameters(case.profile)
        image, video = self._resized(parameters), folder / "case.mp4"
        # The previous pipeline is garbage with reference cycles; without a collection its memory would be counted, too.
        gc.collect()
        if self._place.type == "cuda":
            torch.cuda.empty_cache()
        began = time.perf_counter()
        generator, vae = self._generator(case.optimizations, case.plan, case.change)
        built = time.perf_counter()
        with checked_output(vae, case.name):
            render(generator, image, parameters, video, _ignore)
        warm = time.perf_counter()
        if self._place.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._place)
        renderings = [render(generator, image, parameters, video, _ignore) for _ in range(self._options.repeats)]
        values = self._values(case, generator.optimizations, parameters, renderings)
        check(frames(video), case.name)
        return {**values, "build_seconds": round(built - began, 3), "first_seconds": round(warm - built, 3)}

    def _values(
        self, case: Case, optimizations: frozenset[Optimization], parameters: Parameters, renderings: list[Rendering]
    ) -> dict[str, Any]:
        totals = [sum(rendering.seconds.values()) for rendering in renderings]
        phases = {
            phase: summary([rendering.seconds[phase] for rendering in renderings]) for phase in renderings[0].seconds
        }
        seconds = summary(totals)
        tflop = dict(self._result["tflop"])
        tflop["sampling"] *= parameters.num_inference_steps / self._parameters(Profile.EXACT).num_inference_steps
        ceiling = self._result["ceilings"]["tflops"]
        return {
            "optimizations": sorted(optimizations),
            "plan": case.plan.name,
            "profile": case.profile.value,
            "steps": parameters.num_inference_steps,
            "seconds": seconds,
            "phases": phases,
            "frames_a_second": round(parameters.num_frames / seconds["median"], 3),
            "mfu": {
                "whole": round(sum(tflop.values()) / seconds["median"] / ceiling, 4),
                **{
                    phase: round(amount / max(phases[phase]["median"], 1e-9) / ceiling, 4)
                    for phase, amount in tflop.items()
                },
            },
            "limit_seconds": round(sum(tflop.values()) / ceiling, 4),
            "peak_gb": _peak_gb(self._place),
            "memory": renderings[-1].provenance["memory"],
        }

    def _show(self) -> None:
        rate = self._result["ceilings"]
        show(
            f"{self._model.name} on {self._result['machine']['device']}: maximum {rate['tflops']:.4g} TFLOP/s and "
            f"{rate['gb_a_second']:.4g} GB/s, measured; seconds are medians",
            ("", "seconds", "preparing", "sampling", "decoding", "encoding", "frames/s", "share of limit", "peak GB"),
            [
                (
                    name,
                    values["seconds"]["median"],
                    *(values["phases"][phase]["median"] for phase in ("preparing", "sampling", "decoding", "encoding")),
                    values["frames_a_second"],
                    values["mfu"]["whole"],
                    values["peak_gb"],
                )
                for name, values in self._result["cases"].items()
            ],
        )

    def _judge(self) -> bool:
        """Return whether the targets are met; they apply only to SVD-XT on a GPU (one H200)."""
        values = self._result["cases"]
        if self._place.type != "cuda" or self._options.architecture != "svd-xt":
            return True
        bars = [
            bar(f"{name}, seconds", values[name]["seconds"]["median"], most)
            for name, most in SECONDS.items()
            if name in values
        ]
        bars += [
            bar(f"{name}, peak GB", values[name]["peak_gb"], most) for name, most in GIGABYTES.items() if name in values
        ]
        self._result["bars"] = bars
        return show_bars(bars)


@contextmanager
def checked_output(vae: Any, name: str) -> Iterator[None]:
    """Check within the block that all values that `vae` decodes are finite and no frame is constant.

    Raises:
        BenchmarkError: a value is not finite, or a frame is constant.
    """
    decode: Callable[..., Any] = vae.decode
    seen: list[torch.Tensor] = []

    def checked_decode(*args: Any, **kwargs: Any) -> Any:
        decoded = decode(*args, **kwargs)
        spread = decoded.sample.float().std(dim=(-2, -1)).amax(dim=-1).min()  # of the frame with the least variation
        seen.append(torch.stack([torch.isfinite(decoded.sample).all().float(), spread]))
        return decoded

    vae.decode = checked_decode
    try:
        yield
    finally:
        del vae.decode  # uncovers the method of the class
    finite, spread = torch.stack(seen).cpu().unbind(1)
    if not finite.all():
        raise BenchmarkError(f"{name}: some values are not finite")
    if float(spread.min()) < 1e-3:
        raise BenchmarkError(f"{name}: a decoded frame is constant")


def ceilings(place: torch.device, precision: torch.dtype) -> dict[str, float]:
    """Measure the device's maximum speed: TFLOP/s of a matrix product, GB/s of a copy (read and write)."""
    side = MATRIX[place.type]
    one, other = (torch.randn(side, side, device=place, dtype=precision) for _ in range(2))
    product = torch.empty_like(one)
    source = torch.empty(256 << 20, dtype=torch.uint8, device=place)
    target = torch.empty_like(source)
    return {
        "tflops": round(2 * side**3 / _best(place, lambda: torch.matmul(one, other, out=product)) / 1e12, 4),
        "gb_a_second": round(2 * source.numel() / _best(place, lambda: target.copy_(source)) / 1e9, 2),
        "matrix": side,
        "precision": str(precision).removeprefix("torch."),  # type: ignore[dict-item]
    }


def _best(place: torch.device, act: Callable[[], object]) -> float:
    """Return the minimum seconds per call in several measurements, each of several calls on CUDA, where a single one
    cannot be timed.
    """
    calls = 10 if place.type == "cuda" else 1
    took = []
    for _ in range(PRODUCTS):
        _synchronize(place)
        began = time.perf_counter()
        for _ in range(calls):
            act()
        _synchronize(place)
        took.append((time.perf_counter() - began) / calls)
    return min(took)


def _synchronize(place: torch.device) -> None:
    if place.type == "cuda":
        torch.cuda.synchronize(place)


def _peak_gb(place: torch.device) -> float:
    """Return the peak memory in GB: on CUDA since the last reset, on the CPU that of this process since its start."""
    if place.type == "cuda":
        return round(torch.cuda.max_memory_allocated(place) / 1e9, 3)
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9, 3)


def _device(place: torch.device) -> str:
    return torch.cuda.get_device_name(place) if place.type == "cuda" else "the CPU"


def _ignore(_: Progress) -> None:
    """Ignore progress."""
