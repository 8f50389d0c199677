"""A whole update never waits for the device, see ``test_host_waits``: not for clipped gradients,
not for the optimizer and its rates, not for what is to be logged later.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from every_layer import INPUTS, batch, ranker
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from recap.distributed import ALONE
from recap.experiment import Experiment
from recap.loss import MultiTaskLoss
from recap.optimizer import RecapAdamConfig, RecapOptimizerConfig
from recap.run.divergence import LossWindow
from recap.run.update import update
from recap.schedule import LinearRampToConstant
from recap.training import Training

Absent: Any = None
RATE = LinearRampToConstant(learning_rate=0.1, num_ramp_steps=9)


def without_numbers(module: nn.Module, fake: FakeTensorMode) -> None:
    """Gives the module tensors that have shapes and no numbers."""
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            bare = nn.Parameter(fake.from_tensor(parameter.detach()), parameter.requires_grad)
            setattr(part, name, bare)
        for name, buffer in part.named_buffers(recurse=False):
            setattr(part, name, fake.from_tensor(buffer))


def updates(optimizer: RecapOptimizerConfig, fake: FakeTensorMode) -> LossWindow:
    """Two updates of two micro-batches each; the losses that they leave to be logged."""
    names = ("double_norm_log", "user", "position")
    model = ranker({name: INPUTS[name] for name in names}, "mask_net")
    loss = MultiTaskLoss(model.tasks, pos_weight={"click": 2.0}, task_weights={"like": 0.5})
    window = LossWindow(model.tasks, 0, ALONE)
    for module in (model, loss):
        without_numbers(module, fake)
    given = [(batch(4, seed=n)._map(fake.from_tensor), n, 1.0) for n in range(2)]
    with fake:
        experiment = Experiment(
            training=Training(
                num_train_steps=2,
                save_dir="",
                device="cpu",
                gradient_accumulation=2,
                gradient_clip_norm=1.0,
            ),
            ranker=model,
            parallel=model,
            loss=loss,
            optimizer=optimizer(**model.parameters_by_kind()),
            train_data=Absent,
            validation_data={},
            tracker=Absent,
            ranks=ALONE,
        )
        for step in range(2):
            _, norm = update(experiment, given, step, window)
            assert list(norm) == ["gradient_norm"]
    return window


@pytest.mark.parametrize(
    "algorithm",
    [
        RecapAdamConfig(),
        functools.partial(torch.optim.AdamW, capturable=True, fused=True),
        functools.partial(torch.optim.RMSprop, foreach=True),
    ],
    ids=["adam", "capturable", "foreach"],
)
def test_an_update_leaves_the_host_free(algorithm: Any):
    config = RecapOptimizerConfig(single_task_learning_rate=RATE, algorithm=algorithm)
    window = updates(config, fake := FakeTensorMode())
    with fake, pytest.raises(DataDependentOutputException):  # a report is where it waits
        window.close(2, {}, Absent)


def test_a_wait_in_the_optimizer_would_be_noticed():
    class Waits(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            return self.param_groups[0]["params"][0].sum().item()

    config = RecapOptimizerConfig(single_task_learning_rate=RATE, algorithm=Waits)
    with pytest.raises(DataDependentOutputException):
        updates(config, FakeTensorMode())
