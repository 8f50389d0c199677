"""Embeddings of discrete columns, in tables small enough to be learned as dense weights are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recap.batch import Batch
from recap.model.dense import column, column_faults
from recap.model.module_names import module_key
from recap.schema import Schema


@dataclass(frozen=True, kw_only=True)
class SmallTable:
    """Settings of one table: ``num_embeddings`` vectors of ``embedding_dim`` for one column.

    ``index`` counts the columns of the discrete input from 0, after preprocessing; several tables
    may read the same column. Vectors start normally distributed around 0 by ``init_std``.
    """

    num_embeddings: int
    embedding_dim: int
    index: int
    init_std: float = 0.01

    def __post_init__(self) -> None:
        faults = [
            f"{name}={getattr(self, name)} must be {least} or more"
            for name, least in (("num_embeddings", 1), ("embedding_dim", 1), ("init_std", 0))
            if not getattr(self, name) >= least
        ]
        if faults:
            raise ValueError("\n".join(faults))


class SmallEmbeddings(nn.Module):
    """The vectors of discrete columns' ids, concatenated table by table.

    A column holds ids 0 … ``num_embeddings`` - 1. Anything else, a NaN included, is read as id 0,
    which a null of an integer input is, too: id 0 stands for "unknown". Nothing is refused while
    training, since that would wait for the device; a ``Sparse`` input with a vocabulary or buckets
    and an ``EmbeddingTables`` are for ids that are not numbered so. ``num_slots`` is not read:
    every input of a ranker is built by the same call.

    Args:
        tables: settings by the tables' names.
        feature_name: the dense input that holds the discrete columns.
    """

    def __init__(
        self,
        schema: Schema,
        num_slots: Mapping[str, int] | None = None,
        *,
        tables: Mapping[str, SmallTable],
        feature_name: str = "discrete",
    ) -> None:
        super().__init__()
        if not tables:
            raise ValueError("tables={} must describe at least one table")
        indices = {f"tables.{name}.index": table.index for name, table in tables.items()}
        if faults := column_faults(feature_name, indices, schema):
            raise ValueError("\n".join(faults))
        self.feature_name = feature_name
        self.reads = (feature_name,)
        self.settings = dict(tables)
        self.tables = nn.ModuleDict()
        for name, table in tables.items():
            weights = nn.Embedding(table.num_embeddings, table.embedding_dim)
            nn.init.normal_(weights.weight, std=table.init_std)
            self.tables[module_key(name)] = weights
        self.embedding_dims = [table.embedding_dim for table in tables.values()]
        self.out_features = sum(self.embedding_dims)

    def forward(self, batch: Batch) -> Tensor:
        """The vectors, [B, out_features]."""
        vectors = []
        for name, table in self.settings.items():
            ids = column(batch, self.feature_name, table.index)
            known = (ids >= 0) & (ids < table.num_embeddings)  # false for NaN
            vectors.append(self.tables[module_key(name)](torch.where(known, ids, 0).long()))
        return torch.cat(vectors, dim=1)
