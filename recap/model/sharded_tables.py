"""Embedding tables split over ranks by torchrec's DistributedModelParallel."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from recap.model.embeddings import EmbeddingTables
from recap.model.sharding_plan import quiet, sharder

# what torch says of the insides of torchrec and fbgemm in the midst of a training
_OF_TORCHREC = (
    "fbgemm::dense_embedding_codegen_lookup_function: an autograd kernel was not registered",
    "Please use DTensor instead and we are deprecating ShardedTensor",
    "`torch.distributed.(reduce_scatter_tensor|all_gather_into_tensor)` is deprecated",
)

Algorithm = Literal["sgd", "adagrad", "rowwise_adagrad", "adam"]


def optimizer_class(algorithm: Algorithm) -> type:
    """The class by which torchrec knows an algorithm that works in the backward pass."""
    with quiet():
        from torchrec import optim

    names = {"sgd": "SGD", "adagrad": "Adagrad", "rowwise_adagrad": "RowWiseAdagrad"}
    return getattr(optim, {**names, "adam": "Adam"}[algorithm])


def split_tables(
    ranker: nn.Module,
    plan: Any,
    *,
    group: dist.ProcessGroup,
    device: torch.device,
    ranks_per_node: int,
    algorithm: Algorithm | None = None,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """Leaves this rank its parts of the embedding tables of ``ranker``, on ``device``.

    The state dict keeps its names; what is split is a ShardedTensor there. Weights keep their
    values, which must be the same on all ranks. Every rank of ``group`` calls this.

    Args:
        ranker: with its tables still on the CPU, so that no GPU must hold a whole one.
        plan: of ``recap.model.sharding_plan.planned``.
        group: the ranks.
        device: of this rank.
        ranks_per_node: how many of them share a machine.
        algorithm: updates trainable tables in the backward pass; None leaves them gradients.
        settings: of the algorithm, by their names in fbgemm.
    """
    with quiet():
        from torchrec.distributed.model_parallel import DistributedModelParallel
        from torchrec.distributed.types import ShardingEnv

    logging.getLogger("torchrec").setLevel(logging.WARNING)
    for said in _OF_TORCHREC:
        warnings.filterwarnings("ignore", said)
    # for table_row_wise, and torchrec asks nobody else
    os.environ.setdefault("LOCAL_WORLD_SIZE", str(ranks_per_node))
    layers = _layers(ranker)
    starts: list[dict[str, Tensor]] = []
    for layer in layers:
        starts.append(layer.collection.state_dict())
        for name, table in layer.settings.items():
            _mark(layer.part(name), name, table.trainable, algorithm, settings or {})
    with quiet():
        DistributedModelParallel(
            ranker,
            env=ShardingEnv.from_process_group(group),
            device=device,
            plan=plan,
            sharders=[sharder()],
            init_data_parallel=False,  # the rest of the ranker is recap.run.parallel's
            init_parameters=False,
        )
    for layer, start in zip(layers, starts, strict=True):
        layer.collection.load_state_dict(start)  # of a module on the CPU torchrec keeps no values
        for name, table in layer.settings.items():
            if not table.trainable:
                _free_gradients(layer, name)


def _layers(ranker: nn.Module) -> list[EmbeddingTables]:
    return [layer for layer in ranker.modules() if isinstance(layer, EmbeddingTables)]


def _mark(
    weight: Any,
    name: str,
    trainable: bool,
    algorithm: Algorithm | None,
    settings: Mapping[str, Any],
) -> None:
    """Tells torchrec which tables to look up together, and what updates them in backward.

    These attributes are what torch's _apply_optimizer_in_backward leaves on a parameter, which
    besides would build an optimizer over the whole weight.
    """
    if not trainable:
        weight._optimizer_kwargs = [{"_batch_key": "frozen"}]
    elif algorithm is not None:
        weight._optimizer_classes = [optimizer_class(algorithm)]
        # a group of tables has one learning rate, and each may have a curve of its own
        weight._optimizer_kwargs = [{**settings, "lr": 0.0, "_batch_key": name}]


def _free_gradients(layer: EmbeddingTables, name: str) -> None:
    """torchrec computes gradients for a frozen table, too, and nobody takes them away.

    Turned off on the ranks that hold parts of it, they would leave the others waiting in the
    backward pass.
    """
    weights = getattr(layer.part(name), "_original_tensor", None)
    if weights is not None and weights.is_leaf:
        weights.register_post_accumulate_grad_hook(_free)


def _free(weights: Tensor) -> None:
    weights.grad = None
