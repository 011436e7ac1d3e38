"""A picture becomes frames, frames become an MP4: the only room with torch, diffusers or PyAV.

`pipeline.load` gives a generator, `render` makes a video with it. The package itself brings no more than NumPy and
PyAV. Only `svd_service.video.loader` brings torch, which takes seconds: a process that forks the ones that generate
leaves that import to them.
"""

import logging

from svd_service.video.rendering import Rendering, render

__all__ = ["Rendering", "render"]


#: Where the libraries say what is no news to anybody, and the words by which to know it.
_IDLE_TALK = {
    # torchvision would resize the picture; the pipeline does that by itself.
    "transformers.utils.import_utils": "requires torchvision",
    # Said twice a video, of no module at all (`[]`), while the pipeline takes the VAE to single precision and back.
    "diffusers.models.modeling_utils": "should be kept in float32: []",
}


def _is_news(record: logging.LogRecord) -> bool:
    return _IDLE_TALK[record.name] not in record.getMessage()


for _name in _IDLE_TALK:
    logging.getLogger(_name).addFilter(_is_news)
