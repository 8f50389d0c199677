"""A training step never waits for the device: nothing on it decides what the host does next.

Fake tensors have no numbers, as those of a GPU have none until it is waited for: whatever asks for
one (item, tolist, nonzero, a boolean index) is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.func import functional_call

from recap.batch import Bag, Batch
from recap.data.statistics import Columns, write_statistics
from recap.loss import MultiTaskLoss
from recap.model import (
    DCN,
    DLRM,
    MLP,
    AffineMap,
    BatchNorm,
    ClipLog1pAbs,
    DoubleNormLog,
    EmbeddingTable,
    EmbeddingTables,
    HeavyRanker,
    LayerNormedEmbeddings,
    Log1pAbs,
    MaskBlockConfig,
    MaskNet,
    PositionDebias,
    SmallEmbeddings,
    SmallTable,
    Task,
    ZScoreLog,
)
from recap.model.engagement_rates import EngagementRates
from recap.schema import Dense, Schema, Sparse

SCHEMA = Schema(
    labels={"click": "is_click", "like": "is_like"},
    dense={
        "continuous": Dense(column="c", length=3),
        "binary": Dense(column="b", length=2, dtype="bool"),
        "discrete": Dense(column="d", length=2, dtype="uint8"),
        "user": Dense(column="u", length=3),
    },
    sparse={
        "video": Sparse(column="v", vocabulary=9),
        "seen": Sparse(column="s", vocabulary=9),
        "day": Sparse(column="day", vocabulary=4),
    },
)
BATCH = Batch(
    dense={
        "continuous": torch.randn(4, 3),
        "binary": torch.rand(4, 2) > 0.5,
        "discrete": torch.arange(8, dtype=torch.uint8).view(4, 2),
        "user": torch.randn(4, 3),
    },
    sparse={
        "video": Bag(torch.tensor([1, 2, 9]), torch.tensor([0, 1, 1, 2, 3])),
        "seen": Bag(torch.tensor([3, 4, 5, 6, 7]), torch.tensor([0, 2, 2, 5, 5])),
        "day": Bag(torch.arange(4), torch.arange(5)),
    },
    tasks=("click", "like"),
    labels=torch.ones(4, 2),
    weights=torch.ones(4, 2),
)
VIDEO = {
    "video": EmbeddingTable(embedding_dim=2, features=["video", "seen"], id_dropout=0.1),
    "day": EmbeddingTable(embedding_dim=3, pooling="mean", dropout=0.1),
}
INPUTS: dict[str, Callable[..., nn.Module]] = {
    "log1p_abs": Log1pAbs,
    "clip_log1p_abs": ClipLog1pAbs,
    "double_norm_log": DoubleNormLog,
    "z_score_log": ZScoreLog,
    "user": partial(LayerNormedEmbeddings, feature_names=["user"]),
    "tables": partial(EmbeddingTables, tables=VIDEO),
    "small": partial(
        SmallEmbeddings,
        tables={"place": SmallTable(num_embeddings=5, embedding_dim=2, index=0)},
    ),
    "position": partial(PositionDebias, position_feature_index=1, num_dims=2),
    "rates": partial(EngagementRates, keys=["video", "seen"], fold="day"),
}
LAYERS = partial(MLP, layer_sizes=[4, 2], batch_norm=BatchNorm(), dropout=0.1)
BLOCK = MaskBlockConfig(output_size=3, aggregation_size=2, input_layer_norm=True)
BACKBONES = {
    "mlp": LAYERS,
    "mask_net": partial(MaskNet, mask_blocks=[BLOCK, BLOCK], mlp=LAYERS),
    "dcn": partial(DCN, poly_degree=2, projection_dim=2, parallel_mlp=LAYERS),
    "dlrm": partial(DLRM, bottom_mlp=LAYERS, top_mlp=LAYERS),
}


def update(model: nn.Module, *, batch: Batch = BATCH) -> None:
    """A forward pass, the loss and its gradients, on a device that gives no numbers back."""
    loss = MultiTaskLoss(batch.tasks, pos_weight={"click": 2.0}, task_weights={"like": 0.5})
    fake = FakeTensorMode()

    def faked(module: nn.Module) -> dict[str, torch.Tensor]:
        named = [*module.named_parameters(), *module.named_buffers()]
        return {name: fake.from_tensor(tensor) for name, tensor in named}

    weights, of_loss, batch = faked(model), faked(loss), batch._map(fake.from_tensor)
    with fake:
        logits = functional_call(model, weights, (batch,))
        total, _ = functional_call(loss, of_loss, (logits, batch.labels, batch.weights))
        total.backward()


def ranker(inputs: dict[str, Callable[..., nn.Module]], backbone: str) -> HeavyRanker:
    task = Task(tower=partial(MLP, layer_sizes=[1]), affine_map=AffineMap())
    return HeavyRanker(
        SCHEMA,
        multi_task_type="share_partial",
        inputs=inputs,
        backbone=BACKBONES[backbone],
        tasks=dict.fromkeys(SCHEMA.labels, task),
    )


@pytest.mark.parametrize("name", INPUTS)
def test_an_input_is_read_without_a_wait(name: str, tmp_path: Path):
    build = INPUTS[name]
    if name == "z_score_log":
        statistics = tmp_path / "statistics.parquet"
        write_statistics(
            {"continuous": Columns.of(np.random.default_rng(0).random((9, 3)))}, statistics
        )
        build = partial(build, statistics_path=str(statistics))
    update(ranker({name: build}, "mlp"))


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
