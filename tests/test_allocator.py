"""What a process that trains does with memory that it frees."""

import os
import subprocess
import sys

import pytest

FAULTS = """
import resource
from recap import allocator
allocator.in_huge_pages()
import torch

def pages_of_a_block():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(10_000_000)  # 40 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

found = [pages_of_a_block(), pages_of_a_block()]
allocator.keep_freed()
found += [pages_of_a_block(), pages_of_a_block()]
print(*found)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="pages are counted as Linux does")
def test_a_freed_block_is_taken_again_without_new_pages_once_memory_is_kept():
    # pages of 4 kB, whatever the system gives: 40 MB are some 10,000 of them
    environment = {**os.environ, "THP_MEM_ALLOC_ENABLE": "0", "OMP_NUM_THREADS": "1"}
    told = subprocess.run(
        [sys.executable, "-c", FAULTS], env=environment, capture_output=True, text=True, check=True
    )
    first, second, third, fourth = map(int, told.stdout.split())
    assert min(first, second) > 9_000
    assert third > 9_000
    assert fourth < 100
