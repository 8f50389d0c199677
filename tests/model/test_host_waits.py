"""A training step never waits for the device: nothing on it decides what the host does next.

Fake tensors have no numbers, as those of a GPU have none until it is waited for: whatever asks for
one (item, tolist, nonzero, a boolean index) is refused.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from every_layer import BACKBONES, INPUTS, batch, ranker, with_statistics
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.func import functional_call

from recap.batch import Batch
from recap.loss import MultiTaskLoss
from recap.model import Log1pAbs


def update(model: nn.Module) -> None:
    """A forward pass, the loss and its gradients, on a device that gives no numbers back."""
    real = batch(4)
    loss = MultiTaskLoss(real.tasks, pos_weight={"click": 2.0}, task_weights={"like": 0.5})
    fake = FakeTensorMode()

    def faked(module: nn.Module) -> dict[str, torch.Tensor]:
        named = [*module.named_parameters(), *module.named_buffers()]
        return {name: fake.from_tensor(tensor) for name, tensor in named}

    weights, of_loss, given = faked(model), faked(loss), real._map(fake.from_tensor)
    with fake:
        logits = functional_call(model, weights, (given,))
        total, _ = functional_call(loss, of_loss, (logits, given.labels, given.weights))
        total.backward()


@pytest.mark.parametrize("name", INPUTS)
def test_an_input_is_read_without_a_wait(name: str, tmp_path: Path):
    update(ranker({name: with_statistics(name, tmp_path)}, "mlp"))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_network_is_trained_without_a_wait(backbone: str):
    names = ("double_norm_log", "user", "tables", "position")
    update(ranker({name: INPUTS[name] for name in names}, backbone))


def test_a_wait_would_be_noticed():
    class Waits(Log1pAbs):
        def forward(self, batch: Batch) -> torch.Tensor:
            return super().forward(batch) * batch.labels.sum().item()

    with pytest.raises(DataDependentOutputException):
        update(ranker({"log": Waits}, "mlp"))
