"""What a process that trains does with memory that it frees."""

import os
import subprocess
import sys

import pytest

PAGES = """
import resource
from recap import allocator
allocator.in_huge_pages()
import torch

def pages_of_five_updates():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        blocks = [torch.ones(2_000_000) for _ in range(8)]  # 8 MB each
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

freed = pages_of_five_updates()
allocator.keep_freed()
pages_of_five_updates()
print(freed, pages_of_five_updates())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="pages are counted as Linux does")
def test_updates_take_no_new_pages_once_freed_memory_is_kept():
    # pages of 4 kB, whatever the system offers: 40 blocks of 8 MB are some 78,000 of them
    environment = {**os.environ, "THP_MEM_ALLOC_ENABLE": "0", "OMP_NUM_THREADS": "1"}
    told = subprocess.run(
        [sys.executable, "-c", PAGES], env=environment, capture_output=True, text=True, check=True
    )
    freed, kept = map(int, told.stdout.split())
    assert freed > 75_000
    assert kept < 8_000  # now and then a small block lies where a large one did
