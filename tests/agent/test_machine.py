"""What a process takes of its machine."""

from __future__ import annotations

import subprocess
import sys

import pytest

# Blocks of the heap, freed under one that stays: nothing but the end of a heap shrinks by itself.
HOARD = """
import numpy as np
from agent.machine import give_back_memory

def held():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) // 1024 for line in status if line.startswith("VmRSS"))

np.ones(20 * 2**17)  # 20 MB that are freed: from here on less than that comes from the heap
blocks = [np.ones(2**17) for _ in range(200)]
last = np.ones(2**17)
del blocks
print(held())
give_back_memory()
print(held(), last[0])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems take back what is freed")
def test_what_was_freed_is_given_back() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", HOARD], capture_output=True, text=True, check=True, timeout=120
    )
    before, after = (int(line.split()[0]) for line in ran.stdout.splitlines())
    assert before - after > 150
