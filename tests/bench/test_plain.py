"""The plain model that recap is measured beside computes what recap's does."""

from __future__ import annotations

import copy
from typing import TypeVar

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bench.kuairand import ids
from bench.machine import flops_per_example
from bench.plain import EMBEDDINGS, adam, local_prod, loss, plain_twin, plain_twin_of_ids, step
from recap.batch import Bag, Batch
from recap.compose import compose
from recap.compose.nodes import section
from recap.loss import MultiTaskLoss
from recap.model import HeavyRanker

Model = TypeVar("Model", bound=nn.Module)
BLOCK = "{output_size: 24, aggregation_size: 20, reduction_factor: null, input_layer_norm: false}"
NARROW = (
    f"model.backbone.mask_blocks=[{BLOCK},{BLOCK},{BLOCK}]",
    "model.backbone.mlp.layer_sizes=[32]",
    "task.tower.layer_sizes=[16,8,1]",
    "train_data.preprocess.truncate_and_slice.continuous_feature_truncation=40",
)


@pytest.fixture(scope="module")
def ranker() -> HeavyRanker:
    """local_prod made narrow, without dropouts that would draw."""
    torch.manual_seed(0)
    cfg = compose("experiment=local_prod", *NARROW)
    made = section(cfg, "model")(section(cfg, "train_data").schema)
    return without_dropout(made)


def without_dropout(model: Model) -> Model:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


@pytest.fixture(scope="module")
def batch(ranker: HeavyRanker) -> Batch:
    """33 rows, among their numbers some that are not finite."""
    random = torch.Generator().manual_seed(1)
    continuous = torch.randn(33, 40, generator=random) * 100
    continuous[3, 5], continuous[4, 6] = torch.inf, torch.nan
    dense = {name: torch.randn(33, 200, generator=random) for name in EMBEDDINGS}
    dense["continuous"] = continuous
    dense["binary"] = torch.randint(0, 2, (33, 59), generator=random)
    labels = torch.randint(0, 2, (33, len(ranker.tasks)), generator=random).float()
    return Batch(dense=dense, sparse={}, tasks=ranker.tasks, labels=labels)


def gradients(model: nn.Module, total: Tensor) -> dict[str, Tensor]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(total, parameters)
    return {name: grad.double() for name, grad in zip(names, found, strict=True)}


def relative(found: Tensor, exact: Tensor) -> float:
    return float((found.detach().double() - exact.detach()).norm() / exact.detach().norm())


def refuse_difference(ranker: HeavyRanker, twin: nn.Module, batch: Batch) -> None:
    """Weights, logits and gradients of the two are the same."""
    assert twin.state_dict().keys() == ranker.state_dict().keys()
    wide = copy.deepcopy(twin).double()
    logits = wide(batch)
    exact = gradients(wide, loss(logits, batch.labels.double()))
    assert relative(ranker(batch), logits) < 2e-6
    assert relative(twin(batch), logits) < 2e-6
    total, _ = MultiTaskLoss(ranker.tasks)(ranker(batch), batch.labels)
    for found in (
        gradients(ranker, total),
        gradients(twin, loss(twin(batch), batch.labels)),
    ):
        assert found.keys() == exact.keys()
        flat = [torch.cat([each[name].flatten() for name in exact]) for each in (found, exact)]
        assert relative(*flat) < 2e-6
        for name, grad in exact.items():
            # a bias before a batch norm has none: what is left there is rounding
            assert grad.norm() < 1e-12 or relative(found[name], grad) < 1e-4, name


def test_the_plain_model_has_logits_and_gradients_of_recaps(ranker: HeavyRanker, batch: Batch):
    refuse_difference(ranker, without_dropout(plain_twin(ranker)), batch)


def test_the_plain_model_of_ids_has_logits_and_gradients_of_recaps():
    torch.manual_seed(0)
    cfg = compose("experiment=kuairand", *ids())
    schema = section(cfg, "train_data").schema
    slots = dict.fromkeys(schema.sparse, 9)
    ranker = section(cfg, "model")(schema, slots)
    width = schema.dense["continuous"].width
    lengths = torch.randint(0, 3, (17,))
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    bags = {name: Bag(torch.randint(0, 9, (int(offsets[-1]),)), offsets) for name in schema.sparse}
    batch = Batch(
        dense={"continuous": torch.randn(17, width) * 10},
        sparse=bags,
        tasks=ranker.tasks,
        labels=torch.randint(0, 2, (17, len(ranker.tasks))).float(),
    )
    refuse_difference(ranker, plain_twin_of_ids(ranker), batch)


def test_the_plain_model_has_the_published_size():
    with torch.device("meta"):
        model = local_prod([f"task_{number}" for number in range(10)])
    assert sum(p.numel() for p in model.parameters()) == 48_115_108


def test_an_update_changes_every_weight_that_has_a_gradient(ranker: HeavyRanker, batch: Batch):
    twin = plain_twin(ranker)
    before = copy.deepcopy(twin.state_dict())
    step(twin, adam(twin), batch)
    moved = {name for name, p in twin.named_parameters() if not p.equal(before[name])}
    assert {name for name, p in twin.named_parameters() if p.ndim == 2} <= moved


def test_operations_are_counted_as_torch_counts_them(ranker: HeavyRanker, batch: Batch):
    twin = plain_twin(ranker)
    with FlopCounterMode(display=False) as counted:
        loss(twin(batch), batch.labels).backward()
    assert counted.get_total_flops() == len(batch) * flops_per_example(twin)
    assert flops_per_example(twin) == flops_per_example(ranker)
