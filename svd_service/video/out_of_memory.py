"""One error for too little device memory, whoever reports it."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch

#: How CUDA, Triton, cuBLAS and cuDNN say it.
_MESSAGES: Final = re.compile(r"(CUDA error|CUDA driver error|Triton Error \[CUDA\]): out of memory|_ALLOC_FAILED")


@contextmanager
def one_out_of_memory_error() -> Iterator[None]:
    """Raise every error of too little device memory as `torch.OutOfMemoryError`.

    PyTorch's allocator raises that itself. What allocates beside it raises errors that look like those of a lost
    device; but too little memory leaves the device usable (CUDA's guide).
    """
    try:
        yield
    except RuntimeError as error:
        if _MESSAGES.search(str(error)) is None:
            raise
        raise torch.OutOfMemoryError(str(error)) from error
