"""`torch.compile` for the shapes that a worker is made for, and for no others: no job waits for a compiler.

Compiling takes from seconds to minutes, so it is done once, before the worker is ready, while `learning`; what a job of
another size needs runs as ever. What the compiler made lies in inductor's cache (`TORCHINDUCTOR_CACHE_DIR`), where the
next start finds it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


class Compiled:
    """Takes the place of a module's `forward`, and compiles it for what it is called with while it is learning."""

    def __init__(self, module: nn.Module, **options: Any) -> None:
        """`options` are `torch.compile`'s."""
        self._eager = module.forward
        self._compiled = torch.compile(module.forward, dynamic=False, **options)
        # Forward chunking (see `memory`) makes another program of the same shapes.
        self._chunked = [block for block in module.modules() if hasattr(block, "_chunk_size")][:1]
        self._known: set[Any] = set()
        self._learning = False
        module.forward = self

    @contextmanager
    def learning(self) -> Iterator[None]:
        """Within the block, what it is called with is compiled for; if the block raises, all is forgotten."""
        self._learning = True
        try:
            yield
        except BaseException:
            self._known.clear()
            raise
        finally:
            self._learning = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the module's own `forward` returns."""
        like = self._like(args, kwargs)
        if self._learning:
            self._known.add(like)
        return (self._compiled if like in self._known else self._eager)(*args, **kwargs)

    def _like(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        values = [*args, *(kwargs[name] for name in sorted(kwargs))]
        told = [(tuple(each.shape), each.dtype) if isinstance(each, torch.Tensor) else each for each in values]
        return (len(args), *sorted(kwargs), *told, *(block._chunk_size for block in self._chunked))  # noqa: SLF001
