"""Which rank holds which part of which embedding table: torchrec's plan, checked and told."""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from recap.model.embeddings import EmbeddingTables
from recap.model.module_names import module_key
from recap.nearest import nearest
from recap.sharding import TYPES, Sharding

GIB = 1024**3

_MARK = "_optimizer_classes"  # of a weight: what updates it in the backward pass, for torchrec


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of a table: from which row and column on, how many of both, on which rank."""

    rank: int
    first_row: int
    first_column: int
    rows: int
    columns: int


@dataclass(frozen=True, kw_only=True)
class TablePlan:
    """What is done with one table."""

    table: str
    weight: str  # its name in the state dict
    sharding_type: str
    compute_kernel: str
    parts: tuple[Part, ...]

    @property
    def numel(self) -> int:
        """Numbers in the whole table."""
        return sum(part.rows * part.columns for part in self.parts)

    def __str__(self) -> str:
        """The plan in a line."""
        if self.sharding_type == "data_parallel":
            where = f"whole on every rank ({self.parts[0].rows} × {self.parts[0].columns})"
        else:
            where = ", ".join(f"rank {p.rank}: {p.rows} × {p.columns}" for p in self.parts)
        return f"table {self.table}: {self.sharding_type}, {self.compute_kernel}; {where}"


@dataclass(frozen=True, kw_only=True)
class Room:
    """Where tables are placed: the ranks, and what each is given and has to do."""

    device: torch.device
    world_size: int
    batch_size: int  # examples of a rank


def planned(
    ranker: nn.Module, settings: Sharding, room: Room, algorithm: type | None
) -> tuple[Any, list[TablePlan]]:
    """torchrec's plan for the embedding tables of ``ranker``, and what it does, table by table.

    ``algorithm`` is torch's or torchrec's class of the optimizer that updates trainable tables in
    the backward pass, None where all tables leave gradients. Every call with the same arguments
    may plan otherwise: one rank plans for all. Weights and gradients are not touched.

    Raises:
        ValueError: settings that are not for these tables or this device, no room; a table that the
            plan leaves out. Every line begins with the key in the section ``sharding``.
    """
    layers = _layers(ranker)
    tables = {name: layer for _, layer in layers for name in layer.settings}
    faults = [
        f"tables.{name}: there is no such table; {nearest(name, tables)}"
        for name in settings.tables
        if name not in tables
    ]
    constraints = {}
    for name, layer in tables.items():
        by = algorithm if _in_backward(layer, name, algorithm) else None
        own, found = _choices(name, layer, settings, room, by)
        faults += found
        constraints[name] = own
    if faults:
        raise ValueError("\n".join(dict.fromkeys(faults)))
    with quiet():
        plan = _plan(ranker, tables, settings, room, algorithm, constraints)
    told, left_out = [], []
    for path, layer in layers:
        rows = plan.plan.get(path, {})
        for name in layer.settings:
            if (row := rows.get(module_key(name))) is None:
                left_out.append(f"tables.{name}: torchrec's plan leaves this table out")
                continue
            if row.compute_kernel == "fused" and not _in_backward(layer, name, algorithm):
                row.compute_kernel = "dense"  # see _Plain
            told.append(_told(name, path, layer, row))
    if left_out:
        raise ValueError("\n".join(left_out))
    return plan, told


def as_text(plan: Sequence[TablePlan]) -> str:
    """The plan for a person, a line for each table."""
    return "\n".join(map(str, plan))


def as_json(plan: Sequence[TablePlan]) -> str:
    """The plan for a program: table → weight, sharding_type, compute_kernel, parts."""
    return json.dumps({row.table: asdict(row) for row in plan}, indent=1)


@contextmanager
def quiet() -> Iterator[None]:
    """torchrec and fbgemm warn users of what only they can change, at every step of the way."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _layers(ranker: nn.Module) -> list[tuple[str, EmbeddingTables]]:
    """The layers of tables with the paths of their torchrec collections."""
    named = ranker.named_modules()
    return [(f"{n}.collection", part) for n, part in named if isinstance(part, EmbeddingTables)]


def _in_backward(layer: EmbeddingTables, name: str, algorithm: type | None) -> bool:
    return algorithm is not None and layer.settings[name].trainable


def _choices(
    name: str, layer: EmbeddingTables, settings: Sharding, room: Room, algorithm: type | None
) -> tuple[dict[str, Any], list[str]]:
    """What the planner may choose from for a table, and what is wrong with that."""
    own, dim = settings.of(name), layer.settings[name].embedding_dim
    on_gpu = room.device.type == "cuda"
    types = set(TYPES) if on_gpu else set(TYPES) - {"table_row_wise"}
    kernels, why = {"dense"}, "leaves gradients to the optimizer"
    if algorithm is not None:
        kernels, why = {"fused"}, "is updated in the backward pass"
        kernels |= {"fused_uvm", "fused_uvm_caching"} if on_gpu else set()
        types -= {"data_parallel"}
        if algorithm.__name__ == "RowWiseAdagrad":  # of a row's columns it keeps one number
            types -= {"column_wise", "table_column_wise"}
    faults = []
    for key, allowed in (("sharding_types", types), ("compute_kernels", kernels)):
        if (chosen := getattr(own, key)) is None:
            continue
        if not allowed & set(chosen):
            at = f"tables.{name}.{key}" if name in settings.tables else key
            faults.append(
                f"{at}={list(chosen)}: table {name} {why} on a {room.device.type} device, where "
                f"there is {', '.join(sorted(allowed))}"
            )
        allowed &= set(chosen)
    if own.sharding_types is None and not on_gpu:
        types -= {"row_wise"}  # torchrec, too, leaves it to GPUs unless it is asked for
    if dim % 4 and (algorithm is not None or on_gpu):
        faults.append(
            f"tables.{name}: embedding_dim={dim} must be a multiple of 4 for a table that {why} "
            f"on a {room.device.type} device"
        )
    if "dense" in kernels:
        kernels.add("fused")  # see _Plain
    return {
        "sharding_types": sorted(types),
        "compute_kernels": sorted(kernels),
        "min_partition": own.min_partition,
        "pooling_factors": [own.pooling_factor] * len(layer.features[name]),
    }, faults


def _plan(
    ranker: nn.Module,
    tables: Mapping[str, EmbeddingTables],
    settings: Sharding,
    room: Room,
    algorithm: type | None,
    constraints: Mapping[str, Mapping[str, Any]],
) -> Any:
    from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints
    from torchrec.distributed.planner.enumerators import EmbeddingEnumerator
    from torchrec.distributed.planner.shard_estimators import (
        EmbeddingPerfEstimator,
        EmbeddingStorageEstimator,
    )
    from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
    from torchrec.distributed.planner.types import (
        PlannerError,
        ShardEstimator,
        Storage,
        Topology,
    )

    class _Plain(EmbeddingStorageEstimator):
        """Counts gradients and two moments, as Adam's, of tables that plain autograd trains.

        The planner knows that kind for whole tables only; split ones are planned as "fused".
        """

        def estimate(self, sharding_options: list[Any], *args: Any, **kwargs: Any) -> None:
            super().estimate(sharding_options, *args, **kwargs)
            for option in sharding_options:
                if getattr(option.tensor, _MARK, None):
                    continue
                for shard in option.shards:
                    size = 3 * shard.size[0] * shard.size[1] * option.tensor.element_size()
                    on_gpu = room.device.type == "cuda"
                    shard.storage += Storage(hbm=size if on_gpu else 0, ddr=0 if on_gpu else size)

    hbm_gb, ddr_gb = _memory(ranker, settings, room)
    topology = Topology(
        world_size=room.world_size,
        local_world_size=min(settings.ranks_per_node or room.world_size, room.world_size),
        compute_device=room.device.type,
        hbm_cap=int(hbm_gb * GIB),
        ddr_cap=int(ddr_gb * GIB),
        intra_host_bw=settings.intra_node_gb_per_s * GIB / 1000,  # the planner counts ms
        inter_host_bw=settings.inter_node_gb_per_s * GIB / 1000,
        created_by_factory=True,  # or it warns of what the factory would check
    )
    given = {module_key(name): ParameterConstraints(**own) for name, own in constraints.items()}
    estimators: list[ShardEstimator] = [
        EmbeddingPerfEstimator(topology, given),
        _Plain(topology, given),
    ]
    planner = EmbeddingShardingPlanner(
        topology=topology,
        batch_size=room.batch_size,
        constraints=given,
        enumerator=EmbeddingEnumerator(topology, room.batch_size, given, estimators),
        storage_reservation=FixedPercentageStorageReservation(0.0),
        stats=[],
        debug=False,
    )
    marked = [
        layer.part(name) for name, layer in tables.items() if _in_backward(layer, name, algorithm)
    ]
    for weight in marked:
        setattr(weight, _MARK, [algorithm])  # whose moments take room
    try:
        return planner.plan(ranker, [sharder()])
    except (PlannerError, RuntimeError) as error:
        kind = "hbm_gb" if room.device.type == "cuda" else "ddr_gb"
        raise ValueError(
            f"{kind}={getattr(settings, kind)}: torchrec finds no plan for {len(tables)} tables on "
            f"{room.world_size} ranks with {hbm_gb:.3g} GiB of GPU memory and {ddr_gb:.3g} GiB "
            f"beside it each; give more ranks, more memory, or more sharding_types"
        ) from error
    finally:
        for weight in marked:
            delattr(weight, _MARK)


def sharder() -> Any:
    """torchrec's way to split a collection; constraints decide what is done of all that it can."""
    from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder

    class Sharder(EmbeddingBagCollectionSharder):
        """All types for all devices."""

        def sharding_types(self, compute_device_type: str) -> list[str]:
            return list(TYPES)

    return Sharder()


def _memory(ranker: nn.Module, settings: Sharding, room: Room) -> tuple[float, float]:
    """GiB for tables on a rank's GPU, and beside it."""
    hbm, ddr = settings.hbm_gb, settings.ddr_gb
    reserve = 0.85  # of what there is; the rest is left to activations, buffers, other processes
    if hbm is None and room.device.type == "cuda":
        tables = {id(p) for _, layer in _layers(ranker) for p in layer.collection.parameters()}
        dense = [p for p in ranker.parameters() if id(p) not in tables]
        # weights, gradients, two moments, and DDP's buckets twice
        taken = 6 * sum(p.numel() * p.element_size() for p in dense)
        there = torch.cuda.get_device_properties(room.device).total_memory
        hbm = max(0.0, reserve * there - taken) / GIB
    if ddr is None:
        there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        ddr = reserve * there / GIB / (settings.ranks_per_node or room.world_size)
    return hbm or 0.0, ddr


def _told(name: str, path: str, layer: EmbeddingTables, row: Any) -> TablePlan:
    weight = f"{path}.embedding_bags.{module_key(name)}.weight"
    rows, columns = layer.part(name).shape
    whole = Part(rank=0, first_row=0, first_column=0, rows=rows, columns=columns)
    parts: tuple[Part, ...] = (whole,)
    if row.sharding_spec is not None:
        parts = tuple(
            Part(
                rank=shard.placement.rank(),
                first_row=shard.shard_offsets[0],
                first_column=shard.shard_offsets[1],
                rows=shard.shard_sizes[0],
                columns=shard.shard_sizes[1],
            )
            for shard in row.sharding_spec.shards
        )
    return TablePlan(
        table=name,
        weight=weight,
        sharding_type=row.sharding_type,
        compute_kernel=row.compute_kernel,
        parts=parts,
    )
