import ctypes
import subprocess
import sys

import pytest

#: Asks for 40 MB and gives it back, again and again; prints how many pages the kernel had to bring in meanwhile.
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


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="this C library cannot be told")
def test_what_is_freed_is_kept_for_what_comes_next():
    assert faults("keep") < faults() / 5
