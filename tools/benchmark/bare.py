"""The bare calls, in their own process: the pipeline without the service.

`python -m tools.benchmark.bare MODEL PARAMETERS` loads the model and writes a line of JSON. Then it reads requests as
lines of JSON (`call`, `photo`, `video`, `chunk`), generates the video file from the photo's file, and answers each with
`seconds`.

The calls:

- `documented`: `load_image`, the pipeline, `export_to_video`.
- `resized`: the same with `image.resize((width, height))` in between, as in diffusers' example.
- `best`: the fastest program without a service: decode the image no finer than needed, crop and resize it first, use
  the decode chunk that was measured to be fastest, round frames with torch, and encode with PyAV in a thread with the
  service's encoder settings.
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

#: The decode chunk of diffusers' example.
DOCUMENTED_CHUNK = 8


def load(folder: str) -> Any:
    """Load the stock pipeline from the files that the service uses, in single precision on the CPU, else in half."""
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    cuda = torch.cuda.is_available()
    weights = find(Model.of(Settings.from_mapping({"SVD_MODEL": folder})), half=cuda)
    pipe = StableVideoDiffusionPipeline.from_pretrained(
        weights.folder, dtype=torch.float16 if cuda else torch.float32, variant=weights.variant
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe.to("cuda" if cuda else "cpu")


def documented(pipe: Any, parameters: Parameters, photo: Path, video: Path, chunk: int) -> None:
    """Generate as in diffusers' documentation, with the photo at its own size."""
    image = load_image(str(photo))
    frames = pipe(image, **_arguments(parameters), decode_chunk_size=chunk or DOCUMENTED_CHUNK).frames[0]
    export_to_video(frames, str(video), fps=parameters.fps)


def resized(pipe: Any, parameters: Parameters, photo: Path, video: Path, chunk: int) -> None:
    """Generate with the example's `resize`, which ignores the image's aspect ratio."""
    image = load_image(str(photo)).resize((parameters.width, parameters.height))
    frames = pipe(image, **_arguments(parameters), decode_chunk_size=chunk or DOCUMENTED_CHUNK).frames[0]
    export_to_video(frames, str(video), fps=parameters.fps)


def best(pipe: Any, parameters: Parameters, photo: Path, video: Path, chunk: int) -> None:
    """Generate in the fastest known way without a service."""
    with open_image(photo.read_bytes(), Settings()) as opened:
        image = opened.fitted(parameters.width, parameters.height, Fit.CROP)
    chunk = chunk or parameters.decode_chunk_size
    frames = pipe(image, **_arguments(parameters), decode_chunk_size=chunk, output_type="pt").frames[0]
    pixels = frames.mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()
    with Encoder(video, parameters.width, parameters.height, parameters.fps, {}) as encoder:
        for frame in np.ascontiguousarray(pixels):
            encoder.put(frame)


CALLS: dict[str, Callable[[Any, Parameters, Path, Path, int], None]] = {
    "documented": documented,
    "resized": resized,
    "best": best,
}


def _arguments(parameters: Parameters) -> dict[str, Any]:
    return {
        "width": parameters.width,
        "height": parameters.height,
        "num_frames": parameters.num_frames,
        "num_inference_steps": parameters.num_inference_steps,
        "min_guidance_scale": parameters.min_guidance_scale,
        "max_guidance_scale": parameters.max_guidance_scale,
        "fps": parameters.fps,
        "motion_bucket_id": parameters.motion_bucket_id,
        "noise_aug_strength": parameters.noise_aug_strength,
        "generator": torch.Generator("cpu").manual_seed(parameters.seed),
    }


def main() -> None:
    """Serve requests until the input ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a folder in diffusers' layout, or a hub id")
    parser.add_argument("parameters", help="a job's parameters as JSON")
    arguments = parser.parse_args()
    pipe, parameters = load(arguments.model), Parameters.from_dict(json.loads(arguments.parameters))
    # Libraries print to standard output, so they get standard error instead.
    answers, sys.stdout = sys.stdout, sys.stderr
    print(json.dumps({"ready": True, "threads": torch.get_num_threads()}), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        began = time.perf_counter()
        CALLS[request["call"]](pipe, parameters, Path(request["photo"]), Path(request["video"]), request["chunk"])
        print(json.dumps({"seconds": time.perf_counter() - began}), file=answers, flush=True)


if __name__ == "__main__":
    main()
