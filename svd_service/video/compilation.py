"""`torch.compile` for a model's default shapes only, so that no job waits for a compiler.

Compiling takes seconds to minutes, so it is done once, before the worker is ready, while `learning`; jobs of other
sizes run uncompiled. The compiled code is kept in inductor's cache (`TORCHINDUCTOR_CACHE_DIR`), where the next start
finds it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map_only


class Compiled:
    """Replaces a module's `forward`, and compiles it for the arguments it is called with while it is learning."""

    def __init__(self, module: nn.Module, *, graphs: bool = False, **options: Any) -> None:
        """`graphs` records CUDA graphs; `options` are `torch.compile`'s.

        Graphs belong to the thread that recorded them (https://github.com/pytorch/pytorch/issues/123177), so `learning`
        and all other calls must be in one thread.
        """
        self._eager = module.forward
        self._graphs = graphs
        if graphs:
            options["mode"] = "reduce-overhead"
        self._compiled = torch.compile(module.forward, dynamic=False, **options)
        # With forward chunking (see `oom_fallback`), the same shapes need another program.
        self._chunked = [block for block in module.modules() if hasattr(block, "_chunk_size")][:1]
        self._known: set[Any] = set()
        self._learning = False
        module.forward = self

    @contextmanager
    def learning(self) -> Iterator[None]:
        """Within the block, compile for the arguments of each call; if the block raises, discard all compiled code."""
        self._learning = True
        try:
            yield
        except BaseException:
            self._known.clear()
            raise
        finally:
            self._learning = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the module's own `forward` returns."""
        like = self._like(args, kwargs)
        if self._learning:
            self._known.add(like)
        if like not in self._known:
            return self._eager(*args, **kwargs)
        if not self._graphs:
            return self._compiled(*args, **kwargs)
        # The next run overwrites the memory of a graph's output, which may still be in use then: guidance that is split
        # runs the UNet twice before it uses either output.
        torch.compiler.cudagraph_mark_step_begin()
        return tree_map_only(torch.Tensor, torch.clone, self._compiled(*args, **kwargs))

    def _like(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        values = [*args, *(kwargs[name] for name in sorted(kwargs))]
        described = [(tuple(each.shape), each.dtype) if isinstance(each, torch.Tensor) else each for each in values]
        return (len(args), *sorted(kwargs), *described, *(block._chunk_size for block in self._chunked))  # noqa: SLF001
