"""Freed memory stays with the process inside the block, and goes back to the system at its end."""

import platform
import subprocess
import sys

import pytest

CODE = """
import resource, numpy as np
from steercache.models.memory import freed_memory_kept

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        made = [np.ones(2**19) for _ in range(16)]  # 4 MiB each: a batch's block outputs
        del made
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    with open("/proc/self/statm") as said:
        return int(said.read().split()[1])

faults()
outside, small = faults(), resident()
with freed_memory_kept():
    faults()
    try:
        with freed_memory_kept():
            raise KeyError
    except KeyError:
        pass
    inside, held = faults(), resident()
print(outside, inside, small, held, resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator is told anything")
def test_pages_are_made_once_and_given_back_at_the_end() -> None:
    said = subprocess.run([sys.executable, "-c", CODE], check=True, capture_output=True, text=True).stdout
    outside, inside, small, held, after = map(int, said.split())
    assert outside > 16 * 1024  # of four batches of 16 times 1,024 pages; glibc may keep a part
    assert inside < outside / 20
    assert held - small > 8 * 1024
    assert after - small < 4 * 1024
