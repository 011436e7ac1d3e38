"""The bare calls, in a process of their own: the pipeline without a service.

`python -m tools.benchmark.bare MODEL PARAMETERS` loads the model, writes a line of JSON, and then reads one order a
line, as JSON (`call`, `photo`, `video`, `chunk`), makes the video from the photo's file to the video's, and answers
with `seconds`.

The calls:

- `documented`: `load_image`, the pipeline, `export_to_video`.
- `resized`: the same with the line that diffusers' example has in between, `image.resize((width, height))`.
- `best`: what a programmer would write who knows all of this: the image decoded no finer than needed, cropped and
  made small first, the chunk of frames to decode at once chosen by trying, frames rounded by torch, and PyAV with the
  service's own encoder settings, in a thread.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableVideoDiffusionPipeline
from diffusers.utils import export_to_video, load_image
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from svd_service.config import Settings
from svd_service.jobs.images.opening import open_image
from svd_service.jobs.model import Model
from svd_service.jobs.parameters import Parameters
from svd_service.parameters import Fit
from svd_service.video.encoder import Encoder
from svd_service.video.weights import find

#: The chunk of diffusers' own example.
DOCUMENTED_CHUNK = 8


def load(folder: str) -> Any:
    """The stock pipeline, in single precision on the CPU, else in half; from the files that the service takes."""
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    cuda = torch.cuda.is_available()
    weights = find(Model.of(Settings.from_mapping({"SVD_MODEL": folder})), half=cuda)
    pipe = StableVideoDiffusionPipeline.from_pretrained(
        weights.folder, dtype=torch.float16 if cuda else torch.float32, variant=weights.variant
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe.to("cuda" if cuda else "cpu")


def documented(pipe: Any, wanted: Parameters, photo: Path, video: Path, chunk: int) -> None:
    """The call of the documentation, given the photo as it is."""
    image = load_image(str(photo))
    frames = pipe(image, **_arguments(wanted), decode_chunk_size=chunk or DOCUMENTED_CHUNK).frames[0]
    export_to_video(frames, str(video), fps=wanted.fps)


def resized(pipe: Any, wanted: Parameters, photo: Path, video: Path, chunk: int) -> None:
    """The same with the example's `resize`, which ignores the image's aspect ratio."""
    image = load_image(str(photo)).resize((wanted.width, wanted.height))
    frames = pipe(image, **_arguments(wanted), decode_chunk_size=chunk or DOCUMENTED_CHUNK).frames[0]
    export_to_video(frames, str(video), fps=wanted.fps)


def best(pipe: Any, wanted: Parameters, photo: Path, video: Path, chunk: int) -> None:
    """The best that is known to do without a service."""
    with open_image(photo.read_bytes(), Settings()) as picture:
        image = picture.fitted(wanted.width, wanted.height, Fit.CROP)
    chunk = chunk or wanted.decode_chunk_size
    frames = pipe(image, **_arguments(wanted), decode_chunk_size=chunk, output_type="pt").frames[0]
    pixels = frames.mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()
    with Encoder(video, wanted.width, wanted.height, wanted.fps, {}) as encoder:
        for frame in np.ascontiguousarray(pixels):
            encoder.put(frame)


CALLS: dict[str, Callable[[Any, Parameters, Path, Path, int], None]] = {
    "documented": documented,
    "resized": resized,
    "best": best,
}


def _arguments(wanted: Parameters) -> dict[str, Any]:
    return {
        "width": wanted.width,
        "height": wanted.height,
        "num_frames": wanted.num_frames,
        "num_inference_steps": wanted.num_inference_steps,
        "min_guidance_scale": wanted.min_guidance_scale,
        "max_guidance_scale": wanted.max_guidance_scale,
        "fps": wanted.fps,
        "motion_bucket_id": wanted.motion_bucket_id,
        "noise_aug_strength": wanted.noise_aug_strength,
        "generator": torch.Generator("cpu").manual_seed(wanted.seed),
    }


def main() -> None:
    """Serve orders until there are no more."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a folder in diffusers' layout, or a hub id")
    parser.add_argument("parameters", help="a job's parameters as JSON")
    arguments = parser.parse_args()
    pipe, wanted = load(arguments.model), Parameters.from_dict(json.loads(arguments.parameters))
    # Libraries print; the answers have a way of their own.
    answers, sys.stdout = sys.stdout, sys.stderr
    print(json.dumps({"ready": True, "threads": torch.get_num_threads()}), file=answers, flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        began = time.perf_counter()
        CALLS[order["call"]](pipe, wanted, Path(order["photo"]), Path(order["video"]), order["chunk"])
        print(json.dumps({"seconds": time.perf_counter() - began}), file=answers, flush=True)


if __name__ == "__main__":
    main()
