"""Embedding tables of a run, split over its ranks: what hinders it, the plan, its record."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore

from recap.distributed import Ranks
from recap.model.embeddings import EmbeddingTables
from recap.model.heavy_ranker import HeavyRanker
from recap.model.sharded_tables import optimizer_class, split_tables
from recap.model.sharding_plan import Room, TablePlan, as_json, as_text, planned
from recap.model.table_shards import clip_gradients
from recap.optimizer.fused import InBackward
from recap.tracking import Run
from recap.training import Training

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """How the tables of a run are split: torchrec's plan, and what it does table by table."""

    plan: Any
    tables: Sequence[TablePlan]
    algorithm: InBackward | None  # that updates tables in the backward pass


def in_backward(build_optimizer: object) -> InBackward | None:
    """The algorithm of the section ``optimizer`` that updates tables in the backward pass."""
    algorithm = getattr(build_optimizer, "table_algorithm", None)
    return algorithm if isinstance(algorithm, InBackward) else None


def to_be_split(ranker: HeavyRanker, build_optimizer: object, num_ranks: int) -> bool:
    """Whether tables are torchrec's to split: over several ranks, or to update them in backward."""
    tables = any(isinstance(part, EmbeddingTables) for part in ranker.modules())
    return tables and (num_ranks > 1 or in_backward(build_optimizer) is not None)


def split_faults(training: Training, build_optimizer: object) -> Iterator[str]:
    """What an algorithm that updates tables in the backward pass does not go with."""
    algorithm = in_backward(build_optimizer)
    if algorithm is None:
        return
    kind, key = type(algorithm).__name__, "optimizer.table_algorithm"
    if training.micro_batches > 1:
        yield (
            f"training.gradient_accumulation={training.gradient_accumulation}: {key} {kind} "
            "updates tables in every backward pass, and so for each micro-batch; set it to null, "
            "or choose a table_algorithm that is not fused"
        )
    if training.gradient_clip_norm is not None:
        yield (
            f"training.gradient_clip_norm={training.gradient_clip_norm}: {key} {kind} has used the "
            "tables' gradients before their norm is known; set it to null, or choose a "
            "table_algorithm that is not fused"
        )
    if (device := training.torch_device.type) not in algorithm.devices:
        yield (
            f"{key}._target_: {kind} works on {', '.join(algorithm.devices)} only, and "
            f"training.device is {device}; choose fused_rowwise_adagrad, fused_adagrad, fused_sgd, "
            "or one that is not fused"
        )


def planned_split(
    ranker: HeavyRanker,
    training: Training,
    build_optimizer: object,
    *,
    num_ranks: int,
    batch_size: int,
    uneven: bool,
) -> Split:
    """The plan for the tables of ``ranker``; ``batch_size`` is that of all ranks.

    ``uneven`` says that ranks may come to have different numbers of a batch's rows.

    Raises:
        ValueError: settings that are not for these tables or this device, no room; a table that
            the plan leaves out. Every line begins with its key.
    """
    algorithm = in_backward(build_optimizer)
    room = Room(
        device=training.torch_device,
        world_size=num_ranks,
        batch_size=max(1, batch_size // num_ranks // training.micro_batches),
    )
    kind = None if algorithm is None else optimizer_class(algorithm.kind)
    try:
        plan, tables = planned(ranker, training.sharding, room, kind)
        if uneven and num_ranks > 1 and room.device.type == "cpu":
            _refuse_rows(tables)
    except ValueError as error:
        lines = [f"training.sharding.{line}" for line in str(error).splitlines()]
        raise ValueError("\n".join(lines)) from error
    return Split(plan, tables, algorithm)


def _refuse_rows(tables: Sequence[TablePlan]) -> None:
    """gloo gathers the gradients of tables in rows from as many examples of every rank."""
    if rows := [row.table for row in tables if row.sharding_type == "row_wise"]:
        raise ValueError(
            f"sharding_types: table {', '.join(rows)} would be split row_wise, which between "
            "processors needs as many examples on every rank, and train_data.ignore_data_errors "
            "may leave out some; choose other types, or set it to false"
        )


def split(ranker: HeavyRanker, how: Split, training: Training, ranks: Ranks) -> None:
    """Leaves every rank its parts of the tables of ``ranker``, and moves all to its device."""
    device = training.torch_device
    if device.type == "cuda":
        device = torch.device("cuda", torch.cuda.current_device())
    if not dist.is_initialized():  # alone; torchrec speaks to other ranks even where there are none
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            store=HashStore(),
            rank=0,
            world_size=1,
        )
    assert dist.group.WORLD is not None
    split_tables(
        ranker,
        how.plan,
        group=dist.group.WORLD,
        device=device,
        ranks_per_node=training.sharding.ranks_per_node or ranks.world_size,
        algorithm=None if how.algorithm is None else how.algorithm.kind,
        settings={} if how.algorithm is None else how.algorithm.settings,
    )
    ranker.to(device)


def record(tables: Sequence[TablePlan], save_dir: Path, run: Run) -> None:
    """Keeps the plan in the run's folder and as its artifacts, and logs a line for each table."""
    for row in tables:
        log.info("%s", row)
    if tables:
        for name, text in (("txt", as_text(tables)), ("json", as_json(tables))):
            path = save_dir / f"sharding_plan.{name}"
            path.write_text(f"{text}\n")
            run.artifact(path)


def clip(
    ranker: HeavyRanker,
    optimizer: torch.optim.Optimizer,
    tables: Sequence[TablePlan],
    limit: float,
) -> torch.Tensor:
    """Scales the gradients of all ranks to a norm of at most ``limit``; returns it before that."""
    parts = {row.weight for row in tables if row.sharding_type != "data_parallel"}
    trained = {p for group in optimizer.param_groups for p in group["params"]}
    named = [(name, p) for name, p in ranker.named_parameters() if p in trained]
    return clip_gradients(
        [p for name, p in named if name not in parts],
        [p for name, p in named if name in parts],
        limit,
    )
