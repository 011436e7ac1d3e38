"""From an image to frames, and from frames to an MP4: the only package that uses torch, diffusers or PyAV.

`loader.load` returns a generator, `render` makes a video with it. Importing the package itself loads only NumPy and
PyAV. Only `svd_service.video.loader` imports torch, which takes seconds: a process that forks the generating ones
leaves that import to them.
"""

import logging

from svd_service.video.rendering import Rendering, render

__all__ = ["Rendering", "render"]


#: Irrelevant warnings to filter out: the logger that emits each, and a text by which to recognize it.
_IDLE_TALK = {
    # torchvision would resize the image; the pipeline does that by itself.
    "transformers.utils.import_utils": "requires torchvision",
    # Logged twice per video with an empty list (`[]`), as the pipeline converts the VAE to single precision and back.
    "diffusers.models.modeling_utils": "should be kept in float32: []",
}


def _is_news(record: logging.LogRecord) -> bool:
    return _IDLE_TALK[record.name] not in record.getMessage()


for _name in _IDLE_TALK:
    logging.getLogger(_name).addFilter(_is_news)
