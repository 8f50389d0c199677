"""How a training process takes main memory from the system: in huge pages, and for good.

An update takes and frees the same blocks as the one before. The C library gives a freed block of
more than 32 MB, and often a smaller one, back to the system, and gets the next one page by page,
each filled with zeros: at the published model's size a tenth of an update. What helps is set here:

- before the first tensor, ``in_huge_pages``: blocks lie on borders of 2 MB, the system may back
  them by pages of that size, and until the first update is done what is freed goes back;
- behind the first update, ``keep_freed``: from now on nothing goes back. Earlier, what building
  the model and the optimizer left behind would lie scattered between the blocks of the updates and
  make the process a tenth larger.

Where the C library is not glibc nothing is set. Both last until the process ends.
"""

from __future__ import annotations

import ctypes
import os

# parameters of glibc's mallopt, by malloc.h
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
LARGE = 1 << 20  # bytes; of its own accord glibc takes ever larger blocks for small
NEVER = 2**31 - 1


def in_huge_pages() -> None:
    """To be called before torch makes its first tensor, which is when it looks."""
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    _set(M_MMAP_THRESHOLD, LARGE)


def keep_freed() -> None:
    """Gives back once more what is free, and from now on nothing."""
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):
        library.malloc_trim(0)
    _set(M_MMAP_MAX, 0)
    _set(M_TRIM_THRESHOLD, NEVER)


def _set(parameter: int, value: int) -> None:
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(parameter, value)
