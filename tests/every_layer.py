"""A small ranker of every kind of input and every kind of network, and batches for it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from recap.batch import Bag, Batch
from recap.data.statistics import Columns, write_statistics
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


def batch(rows: int, seed: int = 0) -> Batch:
    """So many examples; ``video`` and ``seen`` have 0 to 2 ids each, ``day`` has one."""
    random = torch.Generator().manual_seed(seed)

    def bag(vocabulary: int, lengths: torch.Tensor) -> Bag:
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
        slots = torch.randint(0, vocabulary, (int(offsets[-1]),), generator=random)
        return Bag(slots, offsets)

    def few() -> torch.Tensor:
        return torch.randint(0, 3, (rows,), generator=random)

    return Batch(
        dense={
            "continuous": torch.randn(rows, 3, generator=random),
            "binary": torch.rand(rows, 2, generator=random) > 0.5,
            "discrete": torch.randint(0, 3, (rows, 2), generator=random).to(torch.uint8),
            "user": torch.randn(rows, 3, generator=random),
        },
        sparse={
            "video": bag(9, few()),
            "seen": bag(9, few()),
            "day": bag(4, torch.ones(rows, dtype=torch.int64)),
        },
        tasks=("click", "like"),
        labels=torch.randint(0, 2, (rows, 2), generator=random).float(),
        weights=torch.ones(rows, 2),
    )


def with_statistics(name: str, folder: Path) -> Callable[..., nn.Module]:
    """``INPUTS[name]``, which may read statistics of ``continuous`` from a file."""
    if name != "z_score_log":
        return INPUTS[name]
    statistics = folder / "statistics.parquet"
    found = Columns.of(np.random.default_rng(0).random((9, 3)))
    write_statistics({"continuous": found}, statistics)
    return partial(ZScoreLog, statistics_path=str(statistics))


def ranker(inputs: dict[str, Callable[..., nn.Module]], backbone: str | None) -> HeavyRanker:
    """Two tasks over these inputs; without a backbone their towers read the inputs alone."""
    task = Task(tower=partial(MLP, layer_sizes=[1]), affine_map=AffineMap())
    return HeavyRanker(
        SCHEMA,
        multi_task_type="share_none" if backbone is None else "share_partial",
        inputs=inputs,
        backbone=None if backbone is None else BACKBONES[backbone],
        tasks=dict.fromkeys(SCHEMA.labels, task),
    )
