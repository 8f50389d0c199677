"""How embedding tables are split over ranks: what torchrec's planner may choose from."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")

TYPES = (
    "data_parallel",
    "table_wise",
    "row_wise",
    "column_wise",
    "table_row_wise",
    "table_column_wise",
)
KERNELS = ("dense", "fused", "fused_uvm", "fused_uvm_caching")


@dataclass(frozen=True, kw_only=True)
class TableSharding:
    """What the planner may do with one table; None is what ``Sharding`` says for all.

    ``pooling_factor`` is the mean number of ids that an example has for a feature of the table, by
    which the planner estimates what a placement costs.

    Raises:
        ValueError: no such type or kernel, numbers out of range; all of them.
    """

    sharding_types: Sequence[str] | None = None
    compute_kernels: Sequence[str] | None = None
    min_partition: int | None = None
    pooling_factor: float = 1.0

    def __post_init__(self) -> None:
        faults = list(_choice_faults(self))
        if not 0.0 < self.pooling_factor < math.inf:
            faults.append(f"pooling_factor={self.pooling_factor} must be above 0 and finite")
        _refuse(faults)


@dataclass(frozen=True, kw_only=True)
class Sharding:
    """The section ``training.sharding``: what the planner may choose from, and with what room.

    ``sharding_types`` are ways to split a table, ``compute_kernels`` ways to look ids up and update
    their vectors: "dense" leaves gradients to the optimizer, all others update in the backward pass
    and belong to a table algorithm of that kind. None is whatever the device can do.
    ``min_partition`` is the least number of columns of a part in column-wise types, a multiple of
    4; None is torchrec's 128. ``tables`` has what differs for a table.

    ``hbm_gb`` and ``ddr_gb`` are the memory that a rank has for tables, on its GPU and beside it,
    in GiB; None is what the machine has, less a reserve. ``ranks_per_node``: None is all in one.
    ``intra_node_gb_per_s`` and ``inter_node_gb_per_s`` are what a rank sends to others of its node
    and of other nodes, in GiB a second.

    Raises:
        ValueError: no such type or kernel, numbers out of range; all of them.
    """

    sharding_types: Sequence[str] | None = None
    compute_kernels: Sequence[str] | None = None
    min_partition: int | None = None
    tables: Mapping[str, TableSharding] = field(default_factory=dict)
    hbm_gb: float | None = None
    ddr_gb: float | None = None
    ranks_per_node: int | None = None
    intra_node_gb_per_s: float = 600.0
    inter_node_gb_per_s: float = 12.5

    def __post_init__(self) -> None:
        faults = list(_choice_faults(self))
        for name in ("hbm_gb", "ddr_gb", "intra_node_gb_per_s", "inter_node_gb_per_s"):
            value = getattr(self, name)
            if value is not None and not 0.0 < value < math.inf:
                faults.append(f"{name}={value} must be above 0 and finite")
        if self.ranks_per_node is not None and self.ranks_per_node < 1:
            faults.append(f"ranks_per_node={self.ranks_per_node} must be 1 or more")
        _refuse(faults)

    def of(self, table: str) -> TableSharding:
        """What holds for ``table``."""
        own = self.tables.get(table, TableSharding())
        return TableSharding(
            sharding_types=_first(own.sharding_types, self.sharding_types),
            compute_kernels=_first(own.compute_kernels, self.compute_kernels),
            min_partition=_first(own.min_partition, self.min_partition),
            pooling_factor=own.pooling_factor,
        )


def _first(own: T | None, general: T | None) -> T | None:
    return general if own is None else own


def _choice_faults(settings: Sharding | TableSharding) -> Iterator[str]:
    for name, allowed in (("sharding_types", TYPES), ("compute_kernels", KERNELS)):
        chosen = getattr(settings, name)
        if chosen is None:
            continue
        if not chosen:
            yield f"{name}=[] leaves no choice; null leaves all"
        for each in chosen:
            if each not in allowed:
                yield f"{name}: {each!r} is not one of {', '.join(allowed)}"
    columns = settings.min_partition
    if columns is not None and (columns < 4 or columns % 4):
        yield f"min_partition={columns} must be a multiple of 4"


def _refuse(faults: Sequence[str]) -> None:
    if faults:
        raise ValueError("\n".join(faults))
