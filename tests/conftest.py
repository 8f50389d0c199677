"""Fixtures that several tests share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import Tiny, write_data


@pytest.fixture
def tiny(tmp_path: Path) -> Tiny:
    """The tiny experiment on 96 rows, on one thread."""
    torch.set_num_threads(1)
    write_data(tmp_path)
    return Tiny(tmp_path)
