"""Embeddings as inputs: precomputed ones from the data, and tables learned for sparse ids."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from recap.batch import Bag, Batch
from recap.model.dense import DenseInputs
from recap.model.module_names import module_key
from recap.model.pretrained import start_from
from recap.model.table_lookup import from_split, from_whole
from recap.model.table_shards import table_norms
from recap.nearest import nearest
from recap.schema import Schema, Sparse


class LayerNormedEmbeddings(nn.Module):
    """The dense inputs ``feature_names``, concatenated, each after a layer norm of its own.

    ``num_slots`` is not read: every input of a ranker is built by the same call.
    """

    def __init__(
        self,
        schema: Schema,
        num_slots: Mapping[str, int] | None = None,
        *,
        feature_names: Sequence[str],
    ) -> None:
        super().__init__()
        if not feature_names:
            raise ValueError("feature_names=[] must name at least one dense input")
        # All names together, so that every faulty one is in the same message.
        self.out_features = DenseInputs(schema, feature_names).out_features
        self.embedding_dims = [schema.dense[name].width for name in feature_names]
        self.embeddings = nn.ModuleList(DenseInputs(schema, [name]) for name in feature_names)
        self.layer_norms = nn.ModuleDict(
            {module_key(name): nn.LayerNorm(schema.dense[name].width) for name in feature_names}
        )

    def forward(self, batch: Batch) -> Tensor:
        """The normalised embeddings, [B, out_features]."""
        pairs = zip(self.embeddings, self.layer_norms.values(), strict=True)
        return torch.cat([norm(embedding(batch)) for embedding, norm in pairs], dim=1)


@dataclass(frozen=True, kw_only=True)
class EmbeddingTable:
    """Settings of one table: who reads it, how wide it is, how the ids of a bag are pooled.

    ``features`` share the table; without it, it belongs to the sparse feature of the table's own
    name. ``id_dropout``, 0 to 1, is how often in training an id is read as out of vocabulary (slot
    0), which teaches that slot and keeps the model from learning single ids by heart. ``dropout``,
    0 to 1, is an ordinary dropout on the pooled embedding.

    ``pretrained`` is the path of a snapshot that the table starts from, see
    ``recap.model.pretrained.start_from``; a checkpoint overrides it. A table that is not
    ``trainable`` stays as it starts.
    """

    embedding_dim: int
    features: Sequence[str] | None = None
    pooling: Literal["sum", "mean"] = "sum"
    init_std: float = 0.01
    id_dropout: float = 0.0
    dropout: float = 0.0
    pretrained: str | None = None
    trainable: bool = True

    def __post_init__(self) -> None:
        faults = []
        if self.embedding_dim < 1:
            faults.append(f"embedding_dim={self.embedding_dim} must be 1 or more")
        if self.features is not None and not self.features:
            faults.append(
                "features=[] must name at least one; null is the feature of the table's name"
            )
        if self.pooling not in ("sum", "mean"):
            faults.append(f"pooling={self.pooling!r} must be sum or mean")
        if self.init_std < 0.0:
            faults.append(f"init_std={self.init_std} must be 0 or more")
        for field, value in (("id_dropout", self.id_dropout), ("dropout", self.dropout)):
            if not 0.0 <= value < 1.0:
                faults.append(f"{field}={value} must be at least 0 and below 1")
        if faults:
            raise ValueError("\n".join(faults))


class EmbeddingTables(nn.Module):
    """The pooled embeddings of sparse features, concatenated table by table, feature by feature.

    The tables are a torchrec EmbeddingBagCollection. An empty bag gives zeros. ``tables`` maps a
    table's name to its settings. ``num_slots`` maps a sparse feature to its number of slots; it may
    leave out those that the schema states itself, which are all but vocabularies in a file.
    ``tables_to_log`` names the tables whose ``norms`` a training run logs.

    Raises:
        ValueError: torchrec is not installed, or the settings do not fit the schema.
    """

    def __init__(
        self,
        schema: Schema,
        num_slots: Mapping[str, int] | None = None,
        *,
        tables: Mapping[str, EmbeddingTable],
        tables_to_log: Sequence[str] = (),
    ) -> None:
        super().__init__()
        if not tables:
            raise ValueError("tables={} must describe at least one embedding table")
        self.features = {name: tuple(table.features or (name,)) for name, table in tables.items()}
        faults = [
            f"embedding table {name!r}: {fault}"
            for name, table in tables.items()
            for fault in _faults(table, self.features[name], schema, num_slots or {})
        ]
        faults += [
            f"tables_to_log: no table is called {name!r}; {nearest(name, tables)}"
            for name in tables_to_log
            if name not in tables
        ]
        if faults:
            raise ValueError("; ".join(faults))
        self.settings = dict(tables)
        self.tables_to_log = tuple(tables_to_log)
        self.collection = _collection(self.features, tables, schema, num_slots or {})
        self._start(schema)
        self.dropouts = nn.ModuleList(nn.Dropout(table.dropout) for table in tables.values())
        self.embedding_dims = [
            table.embedding_dim for name, table in tables.items() for _ in self.features[name]
        ]
        self.widths = [table.embedding_dim * len(self.features[n]) for n, table in tables.items()]
        self.out_features = sum(self.widths)

    @property
    def reads(self) -> set[str]:
        """The sparse inputs that are read."""
        return set().union(*self.features.values())

    def table(self, name: str) -> nn.Module:
        """The table called ``name``; its weight is [slots, embedding_dim].

        Where tables are split over ranks, it is what this rank has of it: perhaps no rows at all.
        """
        return self.collection.get_submodule(f"embedding_bags.{module_key(name)}")

    def part(self, name: str) -> Tensor:
        """This rank's part of the weight of the table called ``name``; alone it is all of it."""
        part = self.table(name).weight
        assert isinstance(part, Tensor)
        return part

    def weight(self, name: str) -> Tensor:
        """The weight of the table called ``name``; split over ranks, a ShardedTensor of it all."""
        return self.collection.state_dict()[f"embedding_bags.{module_key(name)}.weight"]

    def norms(self) -> dict[str, Tensor]:
        """Of each table to log ``embedding_norm/<table>``, the L2 norm of its weight, [] float32.

        And ``embedding_row_norm/<table>``, the mean L2 norm of a slot's vector. All ranks that
        tables are split over must call this together.
        """
        found = {}
        for name in self.tables_to_log:
            norm, row_norm = table_norms(self.weight(name))
            found[f"embedding_norm/{name}"] = norm
            found[f"embedding_row_norm/{name}"] = row_norm
        return found

    def _start(self, schema: Schema) -> None:
        faults = []
        for name, table in self.settings.items():
            weight = self.part(name).requires_grad_(table.trainable)
            if table.pretrained is not None:
                try:
                    start_from(weight, table.pretrained, schema.sparse[self.features[name][0]])
                except ValueError as error:
                    place = f"embedding table {name!r}: pretrained={table.pretrained}"
                    faults.append(f"{place}: {error}")
        if faults:
            raise ValueError("; ".join(faults))

    def forward(self, batch: Batch) -> Tensor:
        """The pooled embeddings, [B, out_features]."""
        pooled = self._pooled(batch)
        if not any(table.dropout for table in self.settings.values()):
            return pooled
        parts = zip(self.dropouts, pooled.split(self.widths, dim=1), strict=True)
        return torch.cat([dropout(part) for dropout, part in parts], dim=1)

    def _pooled(self, batch: Batch) -> Tensor:
        read = [(name, feature) for name, features in self.features.items() for feature in features]
        bags = {
            _key(name, feature): self._kept(name, batch.sparse[feature]) for name, feature in read
        }
        poolings = [self.settings[name].pooling for name, _ in read]
        # all at once: a table by its path costs a third of the lookups
        held = dict(self.collection.get_submodule("embedding_bags").named_children())
        tables = [held[module_key(name)] for name, _ in read]
        if whole := [table.weight for table in tables if isinstance(table, nn.EmbeddingBag)]:
            return from_whole(whole, bags.values(), poolings)
        return from_split(self.collection, bags, poolings)

    def _kept(self, name: str, bag: Bag) -> Bag:
        """The ids of a table, in training some of them as if out of vocabulary."""
        id_dropout = self.settings[name].id_dropout
        if not self.training or id_dropout == 0.0:
            return bag
        dropped = torch.rand(bag.slots.shape, device=bag.slots.device) < id_dropout
        return replace(bag, slots=bag.slots.masked_fill(dropped, 0))


def _collection(
    features: Mapping[str, Sequence[str]],
    tables: Mapping[str, EmbeddingTable],
    schema: Schema,
    num_slots: Mapping[str, int],
) -> nn.Module:
    try:  # here and not above: it takes seconds, and a dense model runs without it
        with _quiet_import():
            from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
            from torchrec.modules.embedding_modules import EmbeddingBagCollection
    except ImportError as error:
        raise ValueError(
            f"embedding tables need torchrec, which cannot be imported ({error}); install it as "
            "README.md says, or leave the tables out of model.inputs"
        ) from error
    # torchrec asks torch in a way that torch warns of, once a run, in words for torchrec's authors
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
    configs = []
    for name, table in tables.items():
        slots = _slots(features[name][0], schema.sparse[features[name][0]], num_slots)
        assert slots is not None
        configs.append(
            EmbeddingBagConfig(
                name=module_key(name),
                num_embeddings=slots,
                embedding_dim=table.embedding_dim,
                feature_names=[_key(name, feature) for feature in features[name]],
                pooling=PoolingType.SUM,
                init_fn=partial(nn.init.normal_, std=table.init_std),
            )
        )
    return EmbeddingBagCollection(tables=configs)


@contextmanager
def _quiet_import() -> Iterator[None]:
    """fbgemm deprecates its own modules and logs every library file while it is imported."""
    before = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        logging.disable(before)


def _key(table: str, feature: str) -> str:
    """A feature as a table reads it: ids are dropped out per table, so each reads its own."""
    return f"{table}/{feature}"


def _faults(
    table: EmbeddingTable, features: Sequence[str], schema: Schema, num_slots: Mapping[str, int]
) -> list[str]:
    if unknown := [feature for feature in features if feature not in schema.sparse]:
        return [_missing(feature, schema) for feature in unknown]
    faults = [
        f"the vocabulary of feature {feature!r} is a file, and num_slots does not say its size"
        for feature in features
        if _slots(feature, schema.sparse[feature], num_slots) is None
    ]
    numberings = {
        (sparse.num_buckets, sparse.vocabulary)
        for sparse in (schema.sparse[feature] for feature in features)
    }
    if len(numberings) > 1:
        faults.append(
            f"features {', '.join(features)} number their ids differently and cannot share it; "
            "give them the same num_buckets or vocabulary in the schema, or a table each"
        )
    hashed = [feature for feature in features if schema.sparse[feature].num_buckets is not None]
    if table.id_dropout > 0.0 and hashed:
        faults.append(
            f"id_dropout={table.id_dropout} needs an out-of-vocabulary slot, which the hashed "
            f"{', '.join(hashed)} lacks; give it a vocabulary in the schema, or use dropout"
        )
    return faults


def _slots(feature: str, sparse: Sparse, num_slots: Mapping[str, int]) -> int | None:
    """Slots of a feature; None if they are neither given nor follow from the schema."""
    return num_slots.get(feature, sparse.num_slots)


def _missing(feature: str, schema: Schema) -> str:
    if feature in schema.dense:
        return f"feature {feature!r} is dense, a sparse one is needed"
    return f"sparse feature {feature!r} is not in the schema; {nearest(feature, schema.sparse)}"
