"""Which errors of the generation are those of the device.

Torch's errors are identified by name, since only `video` may import torch.
"""


def is_device_lost(error: Exception) -> bool:
    """Return whether CUDA failed permanently: its errors leave the process' context unusable (CUDA's guide)."""
    if is_out_of_memory(error):
        return False
    return type(error).__name__ == "AcceleratorError" or (
        isinstance(error, RuntimeError) and "CUDA error" in str(error)
    )


def is_out_of_memory(error: Exception) -> bool:
    """Return whether the device's memory was not sufficient."""
    return type(error).__name__ == "OutOfMemoryError"
