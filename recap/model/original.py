"""Models of the original recap: its configuration and weights, by its own names, as a ranker."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from recap.model.embeddings import LayerNormedEmbeddings
from recap.model.featurization import DoubleNormLog
from recap.model.heavy_ranker import AffineMap, HeavyRanker, Task
from recap.model.mask_net import MaskBlockConfig, MaskNet
from recap.model.mlp import MLP
from recap.model.norm import BatchNorm, LayerNorm
from recap.model.original_weights import (
    CLAMP,
    EMBEDDINGS,
    bare,
    original_weights,
    sampling_ratios,
    sanitized,
    task_name,
)
from recap.schema import Dense, Schema

_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?")


def from_original(state: Mapping[str, Any], config: Mapping[str, Any]) -> HeavyRanker:
    """The ranker that computes what the original's model of this ``config`` and ``state`` does.

    ``state`` is the original's state dict (of ModelAndLoss or of the model alone; tensors or numpy
    arrays), ``config`` its configuration as plain dicts with the section ``model``; a key that is
    absent or null has the original's default. Widths come from the weights. Weights in
    float64 make a float64 model. Tasks keep the configuration's order and lose the prefix
    ``recap.engagement.``; other dots become ``__``.

    >>> ranker = from_original(state, config).eval()
    >>> batch = Batch(
    ...     dense={"continuous": c, "binary": b, "user_embedding": u, ...},  # [B, width] each
    ...     sparse={},
    ...     tasks=ranker.tasks,
    ...     labels=labels,  # [B, T] float32, columns in the order of ranker.tasks
    ...     weights=weights,  # [B, T] or None
    ... )
    >>> said = ranker.outputs(batch)  # logits, probabilities, calibrated_probabilities, each [B, T]
    >>> loss = MultiTaskLoss(ranker.tasks, pos_weight=ranker.pos_weights)  # from recap.loss
    >>> total, per_task = loss(said.logits, batch.labels, batch.weights)  # [], [T]

    Calibrated probabilities are p·r / (1 − p + p·r) with r = negatives / positives kept, as the
    weights hold it or, where they do not, by the rates of ``train_data.tasks`` (1 where absent).
    What else stands under the original's names, gradients or a later state, comes under the
    ranker's by ``recap.model.original_weights.renamed(arrays, ranker)``. Learning rates go by task
    and "backbone", see recap.optimizer: the parameter groups of
    ``RecapOptimizerConfig(…)(**ranker.parameters_by_kind())`` are the original's.

    Embeddings that the weights have no layer norm for need not be in the batch. Where the original
    has no batch norm its weights do not tell continuous from binary columns; the batch does.

    Raises:
        ValueError: the configuration describes what the original has no code for (DCN, DLRM, small
            and large embeddings, position debias, featurization other than double_norm_log) or
            lacks what it needs, or the weights are not of it; lists everything.
    """
    model = _read(config.get("model"))
    if not isinstance(model, Mapping) or not model.get("tasks"):
        raise ValueError("model.tasks: the configuration describes no task")
    if not isinstance(model["tasks"], Mapping):
        raise ValueError(f"model.tasks={model['tasks']}: must map names to towers")
    held = {bare(name): value for name, value in state.items()}
    faults = [
        f"model.{key}: the original has no code for it, so no weights of it exist"
        for key in ("large_embeddings", "small_embeddings", "position_debias_config")
        if model.get(key) is not None
    ]
    shared = model.get("multi_task_type") or "share_none"
    backbone = None
    if shared != "share_none":
        backbone = _network(model.get("backbone"), "model.backbone", faults)
    tasks: dict[str, Task] = {}
    for original, row in model["tasks"].items():
        name, row = task_name(original), row or {}
        if name in tasks:
            faults.append(f"model.tasks.{original}: another task is called {name} too")
        with _told(faults, f"model.tasks.{original}"):
            affine = row.get("affine_map")
            tasks[name] = Task(
                tower=_network(row, f"model.tasks.{original}", faults),
                pos_weight=_or(row.get("pos_weight"), 1.0),
                affine_map=None if affine is None else AffineMap(**_given(affine, "scale", "bias")),
            )
    featurization: Callable[..., nn.Module] = DoubleNormLog
    with _told(faults, "model.featurization_config"):
        featurization = _featurization(model, held, faults)
    ratios: dict[str, float] = {}
    with _told(faults, "train_data.tasks"):
        ratios = sampling_ratios(state, config)
    if faults:
        raise ValueError("\n".join(faults))
    first = "_backbone." if backbone else f"_towers.{sanitized(next(iter(model['tasks'])))}."
    dense = _dense(held, first)
    inputs: dict[str, Callable[..., nn.Module]] = {"featurization": featurization}
    if embeddings := [name for name in EMBEDDINGS if name in dense]:
        inputs["embeddings"] = partial(LayerNormedEmbeddings, feature_names=embeddings)
    ranker = HeavyRanker(
        Schema(labels={name: name for name in tasks}, dense=dense),
        multi_task_type=shared,
        inputs=inputs,
        backbone=backbone,
        tasks=tasks,
    )
    weights = original_weights(state, ranker)
    if any(weight.dtype == torch.float64 for weight in weights.values()):
        ranker.double()
    ranker.load_state_dict(weights)
    ranker.calibrate(ratios)
    return ranker


def _network(row: Any, place: str, faults: list[str]) -> Callable[..., nn.Module]:
    """What builds the one architecture that a task or the backbone is given."""
    row = row or {}
    given = [key for key in ("mlp", "dcn", "dlrm", "mask_net") if row.get(f"{key}_config")]
    if given not in (["mlp"], ["mask_net"]):
        told = ", ".join(f"{key}_config" for key in given) or "none"
        faults.append(
            f"{place}: weights exist of one of mlp_config and mask_net_config, given is {told}"
        )
        return MLP
    network = row[f"{given[0]}_config"]
    with _told(faults, f"{place}.{given[0]}_config"):
        return _mlp(network) if given == ["mlp"] else _mask_net(network)
    return MLP


def _mlp(row: Mapping[str, Any]) -> Callable[..., MLP]:
    dropout = row.get("dropout")
    return partial(
        MLP,
        layer_sizes=list(row["layer_sizes"]),
        batch_norm=_batch_norm(row.get("batch_norm")),
        dropout=None if dropout is None else _or(dropout.get("rate"), 0.1),
        final_layer_activation=bool(row.get("final_layer_activation")),
    )


def _mask_net(row: Mapping[str, Any]) -> Callable[..., nn.Module]:
    keys = ("output_size", "reduction_factor", "aggregation_size", "input_layer_norm")
    return partial(
        MaskNet,
        mask_blocks=[MaskBlockConfig(**_given(block, *keys)) for block in row["mask_blocks"]],
        mlp=None if row.get("mlp") is None else _mlp(row["mlp"]),
        use_parallel=bool(row.get("use_parallel")),
    )


def _batch_norm(row: Mapping[str, Any] | None) -> BatchNorm | None:
    return None if row is None else BatchNorm(**_given(row, "affine", "momentum"))


def _featurization(
    model: Mapping[str, Any], held: Mapping[str, Any], faults: list[str]
) -> Callable[..., nn.Module]:
    row = (model.get("featurization_config") or {}).get("double_norm_log_config")
    if row is None:
        faults.append(
            "model.featurization_config: the original has code for double_norm_log_config only"
        )
        return DoubleNormLog
    # in a double model the clamp ends where float32 has its magnitude
    ends = [float(held[name]) for name in held if CLAMP.fullmatch(name)]
    norm = row.get("layer_norm_config")
    if norm is not None:
        norm = LayerNorm(**{"epsilon": 1e-3, **_given(norm, "epsilon", "center", "scale")})
    return partial(
        DoubleNormLog,
        batch_norm_config=_batch_norm(row.get("batch_norm_config")),
        clip_magnitude=max(ends) if ends else _or(row.get("clip_magnitude"), 5.0),
        layer_norm_config=norm,
    )


def _dense(held: Mapping[str, Any], first: str) -> dict[str, Dense]:
    """The dense inputs by name, with the widths that the weights tell.

    Without a batch norm only the sum of continuous and binary columns is known, and nothing but the
    sum is used.
    """
    names = [f"{first}layers.0.weight", f"{first}_mask_blocks.0._mask_layer.0.weight"]
    found = [np.shape(held[name])[1] for name in names if name in held]
    if not found:
        raise ValueError(f"{' or '.join(names)}: missing; it tells how wide the features are")
    widths = {
        name: np.shape(held[f"_{name}_layer_norm.weight"])[0]
        for name in EMBEDDINGS
        if f"_{name}_layer_norm.weight" in held
    }
    both = found[0] - sum(widths.values())
    norms = [name for name in held if re.fullmatch(r"_preprocessor\..*\.running_mean", name)]
    continuous = np.shape(held[norms[0]])[0] if norms else both - 1
    if not 0 < continuous < both:
        raise ValueError(
            f"features of {found[0]} columns do not hold embeddings of {list(widths.values())} "
            f"and {max(continuous, 1)} or more continuous and binary columns"
        )
    widths = {"continuous": continuous, "binary": both - continuous, **widths}
    return {name: Dense(column=name, length=int(width)) for name, width in widths.items()}


@contextmanager
def _told(faults: list[str], place: str) -> Iterator[None]:
    """Turns what a part of the configuration is refused by into a fault."""
    try:
        yield
    except KeyError as error:
        faults.append(f"{place}: {error} is missing")
    except ValueError as error:
        faults.append(f"{place}: {error}")
    except (TypeError, AttributeError, ZeroDivisionError) as error:
        faults.append(f"{place}: not what the original has there ({error})")


def _read(node: Any) -> Any:
    """``node`` with numbers as numbers: YAML 1.1 takes 1e-3 for a string."""
    if isinstance(node, Mapping):
        return {key: _read(value) for key, value in node.items()}
    if isinstance(node, Sequence) and not isinstance(node, str):
        return [_read(value) for value in node]
    if isinstance(node, str) and _NUMBER.fullmatch(node):
        return float(node)
    return node


def _given(row: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """Those of ``keys`` that are neither absent nor null."""
    return {key: row[key] for key in keys if row.get(key) is not None}


def _or(value: Any, default: float) -> float:
    return default if value is None else value
