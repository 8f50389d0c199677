"""Gradients over ranks are added up in the same order at every step."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch._C._distributed_c10d import HashStore

from recap.run.parallel import SameBuckets


@pytest.fixture
def group() -> Iterator[None]:
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def buckets(module: SameBuckets) -> list[list[int]]:
    """The parameters of each bucket by their numbers, in the order in which they lie there."""
    numbers = {id(parameter): n for n, parameter in enumerate(module.module.parameters())}
    held = module.reducer._get_zeros_like_grad_buckets()
    return [[numbers[id(parameter)] for parameter in bucket.parameters()] for bucket in held]


class Backwards(nn.ModuleList):
    """Goes through its layers from the last to the first: gradients come from the first on."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in reversed(self):
            x = layer(x)
        return x


def test_buckets_are_the_same_at_the_first_step_and_behind_it(group: None):
    # so that a run that was started again adds up as one that was not, also of three ranks or more
    layers = Backwards([nn.Linear(8, 8, bias=False) for _ in range(4)])
    module = SameBuckets(layers, bucket_cap_mb=512 / 2**20, gradient_as_bucket_view=True)
    first = buckets(module)
    assert first == [[3, 2], [1, 0]]
    for _ in range(2):
        module(torch.ones(2, 8)).sum().backward()
        module.zero_grad(set_to_none=True)
    assert buckets(module) == first
