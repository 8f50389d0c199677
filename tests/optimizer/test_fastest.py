"""An algorithm of torch is built in its fastest form, and a config may ask for another one."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch.nn import Parameter

from recap.optimizer import RecapAdamConfig
from recap.optimizer.fastest import fastest

FUSED = {
    "Adam": torch.optim.Adam,
    "AdamW": torch.optim.AdamW,
    "SGD": functools.partial(torch.optim.SGD, momentum=0.9),
    "Adagrad": torch.optim.Adagrad,
}


def weights(device: str = "cpu") -> list[Parameter]:
    """Two parameters of float64 with gradients."""
    made = [Parameter(torch.ones(shape, dtype=torch.float64, device=device)) for shape in (3, 5)]
    for parameter in made:
        parameter.grad = torch.full_like(parameter, 0.5)
    return made


def built(build: Any, parameters: list[Parameter], **settings: Any) -> torch.optim.Optimizer:
    """As a config gives it: a partial of the class."""
    partial = functools.partial(build, lr=0.1, **settings)
    return fastest(partial, [{"params": parameters}])


@pytest.mark.parametrize("name", FUSED)
@pytest.mark.parametrize("open_to_choice", [{}, {"fused": None}, {"foreach": None}])
def test_what_torch_can_fuse_is_fused(name: str, open_to_choice: dict[str, None]):
    optimizer = built(FUSED[name], weights(), **open_to_choice)
    assert [group["fused"] for group in optimizer.param_groups] == [True]


@pytest.mark.parametrize("name", FUSED)
def test_a_fused_update_is_the_plain_one(name: str):
    for parameters, settings in ((fused := weights(), {}), (plain := weights(), {"fused": False})):
        optimizer = built(FUSED[name], parameters, **settings)
        for _ in range(3):
            optimizer.step()
    for mine, other in zip(fused, plain, strict=True):
        assert torch.allclose(mine, other, rtol=1e-12, atol=0.0)
        assert not mine.eq(1.0).any()


@pytest.mark.parametrize("name", ["RMSprop", "NAdam", "RAdam", "Adamax", "Adadelta"])
def test_what_torch_cannot_fuse_is_left_to_torch(name: str):
    optimizer = built(getattr(torch.optim, name), weights())
    assert [group["foreach"] for group in optimizer.param_groups] == [None]
    optimizer.step()


@pytest.mark.parametrize(
    ("settings", "fused"),
    [({"fused": False}, False), ({"foreach": True}, None), ({"differentiable": True}, None)],
)
def test_a_form_that_is_asked_for_is_kept(settings: dict[str, bool], fused: bool | None):
    optimizer = built(torch.optim.AdamW, weights(), **settings)
    (group,) = optimizer.param_groups
    assert group["fused"] == fused
    assert settings.items() <= group.items()


def test_a_device_without_fused_forms_gets_another_one():
    optimizer = built(torch.optim.AdamW, weights("meta"))
    assert [group["fused"] for group in optimizer.param_groups] == [None]


def test_a_config_of_adam_says_itself_that_it_is_fused():
    optimizer = fastest(RecapAdamConfig(), [{"params": weights(), "lr": 0.1}])
    assert isinstance(optimizer, torch.optim.Adam)
    assert [group["fused"] for group in optimizer.param_groups] == [True]
