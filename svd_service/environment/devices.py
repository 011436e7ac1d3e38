"""The CUDA devices of this host, found without loading CUDA."""

import functools
import glob
import itertools
import os


@functools.cache
def cuda_devices() -> tuple[str, ...]:
    """Names of the NVIDIA devices that this process may use, as CUDA counts them: from 0.

    A container with some of a host's devices sees files with the host's numbers. `CUDA_VISIBLE_DEVICES`, which the
    processes of a worker narrow further, selects among the devices: by number, or by a name of CUDA's own.
    """
    found = tuple(str(number) for number, _ in enumerate(glob.glob("/dev/nvidia[0-9]*")))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not found or visible is None:
        return found
    # CUDA ignores the first unknown name and all after it.
    named = (name.strip() for name in visible.split(","))
    return tuple(itertools.takewhile(lambda name: name in found or name.startswith(("GPU-", "MIG-")), named))
