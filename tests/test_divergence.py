"""Weights that are no numbers any more are found before they are saved."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from recap.checkpoint import Checkpoints
from recap.distributed import ALONE
from recap.run.divergence import Diverged, refuse_divergence


def refuse(tmp_path: Path, *values: list[float]) -> None:
    groups = [
        {"name": name, "params": [torch.tensor(row), torch.zeros(3)]}
        for name, row in zip(("backbone", "like"), values, strict=True)
    ]
    refuse_divergence(torch.optim.SGD(groups, lr=0.5), 7, Checkpoints(tmp_path), ALONE)


@pytest.mark.parametrize("bad", [[torch.nan], [torch.inf, 1.0], [torch.inf, -torch.inf]])
def test_a_group_with_a_weight_that_is_no_number_is_named(tmp_path: Path, bad: list[float]):
    message = r"weights of like became nan or infinite by step 7; lr/like was 5\.0e-01; last good"
    with pytest.raises(Diverged, match=message):
        refuse(tmp_path, [1.0], bad)


def test_weights_whose_sum_is_too_large_for_their_type_are_numbers_all_the_same(tmp_path: Path):
    refuse(tmp_path, [3e38, 3e38], [-3e38, -3e38])
