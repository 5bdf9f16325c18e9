"""Freed activations stay with the process."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, torch
from recsys.train.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
step = lambda: sum(torch.ones(2_000_000 + i)[0] for i in range(8))
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_steps_stop_faulting_pages_in() -> None:
    """Forty tensors of 8 MB are 78,000 pages of 4 KiB when each is mapped anew."""

    def faults(how: str) -> int:
        done = subprocess.run(
            [sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True,
            env={"MALLOC_MMAP_THRESHOLD_": "1000000", "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        return int(done.stdout)

    assert faults("leave") > 40_000 > 10_000 > faults("keep")
