import ctypes
import subprocess
import sys

import pytest

#: Allocates and frees 40 MB repeatedly; prints the number of page faults.
PROGRAM = """
import resource, sys
from svd_service.worker import malloc
if "keep" in sys.argv and not malloc.keep():
    sys.exit(3)
for _ in range(2):
    bytearray(40 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    bytearray(40 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(*words: str) -> int:
    done = subprocess.run([sys.executable, "-c", PROGRAM, *words], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="this C library has no mallopt")
def test_freed_memory_is_kept_for_the_next_allocation():
    assert faults("keep") < faults() / 5
