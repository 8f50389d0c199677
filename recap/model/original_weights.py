"""Weights of the original recap, by its own names, under the names of a ranker here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recap.model.embeddings import LayerNormedEmbeddings
from recap.model.featurization import DoubleNormLog
from recap.model.heavy_ranker import HeavyRanker
from recap.model.module_names import module_key

# in the order in which the original appends them to the features
EMBEDDINGS = ("user_embedding", "user_eng_embedding", "author_embedding")
# settings here and no weights: the clamp's ends and the ratio of sampling rates
CLAMP = re.compile(r"_preprocessor\._before_concat_layers\.\d+\.(min|max)_value")
_RATIO = re.compile(r"_calibrators\.(.+)\.ratio")
_PREFIX = "recap.engagement."
_FEATURES = "continuous and binary columns"
_WRAPPERS = re.compile(r"^(?:(?:module|_dmp_wrapped_module|model)\.)+")
_OWN_NAMES = re.compile(
    r"_(preprocessor|backbone|towers|affine_maps|calibrators)\.|_\w+_embedding_layer_norm\."
)


def is_original(names: Iterable[str]) -> bool:
    """Whether the entries of a state dict bear the original's names."""
    return any(_OWN_NAMES.match(bare(name)) for name in names)


def original_weights(state: Mapping[str, Any], ranker: HeavyRanker) -> dict[str, Tensor]:
    """The ranker's state dict with the original's weights, joined by the names of inputs and tasks.

    What the original keeps as settings and not as weights (the clamp, sampling rates) is left out;
    what of the ranker's state is no weight (counts of batches) may be missing there.

    Raises:
        ValueError: entries without a place here, entries that lack here, other shapes, embeddings
            in another order than the original's; lists everything.
    """
    faults: list[str] = []
    ours = _renamed(state, ranker, faults)
    own = ranker.state_dict()
    told = {name: ours.pop(name) for name in list(ours) if name not in own}
    faults += [f"{original}: no such weight here ({name})" for name, (original, _) in told.items()]
    for name, tensor in own.items():
        if name in ours:
            original, there = ours[name]
            if there.shape != tensor.shape:
                faults.append(
                    f"{original}: {list(there.shape)} there, {list(tensor.shape)} here ({name})"
                )
        elif not name.endswith("num_batches_tracked"):
            faults.append(f"{name}: {list(tensor.shape)} here, nothing there")
    parts = _parts(ranker)
    embeddings = [part for part in parts if part in EMBEDDINGS]
    if embeddings != [name for name in EMBEDDINGS if name in parts] or parts[:1] != [_FEATURES]:
        faults.append(
            f"model.inputs are {', '.join(parts)}; the original's weights read {_FEATURES}, "
            f"{', '.join(name for name in EMBEDDINGS if name in parts)} in this order"
        )
    if faults:
        raise ValueError("\n".join(faults))
    return {**own, **{name: tensor for name, (_, tensor) in ours.items()}}


def renamed(state: Mapping[str, Any], ranker: HeavyRanker) -> dict[str, Tensor]:
    """Entries of the original (weights, or gradients or moments of some) by the ranker's names.

    Raises:
        ValueError: lists the entries that have no place here.
    """
    faults: list[str] = []
    out = _renamed(state, ranker, faults)
    if faults:
        raise ValueError("\n".join(faults))
    return {name: tensor for name, (_, tensor) in out.items()}


def sampling_ratios(state: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, float]:
    """Per task, in the configuration's order, r = negatives kept / positives kept.

    It is the weights' where they hold it (the original keeps it in float32), else it follows from
    the rates of ``train_data.tasks``, which are 1 where absent.
    """
    held = {
        match[1]: float(value)
        for name, value in state.items()
        if (match := _RATIO.fullmatch(bare(name)))
    }
    rates = (config.get("train_data") or {}).get("tasks") or {}
    out = {}
    for original in config["model"]["tasks"]:
        row = {"pos_downsampling_rate": 1.0, "neg_downsampling_rate": 1.0}
        row |= {key: rate for key, rate in (rates.get(original) or {}).items() if rate is not None}
        ratio = row["neg_downsampling_rate"] / row["pos_downsampling_rate"]
        out[task_name(original)] = held.get(sanitized(original), ratio)
    return out


def task_name(original: str) -> str:
    """The name here of a task of the original: without its prefix, without dots."""
    return original.removeprefix(_PREFIX).replace(".", "__")


def sanitized(task: str) -> str:
    """A task of the original as its module names write it."""
    return task.replace(".", "__")


def bare(name: str) -> str:
    """An entry's name in the model itself, without those of the modules it was wrapped in."""
    return _WRAPPERS.sub("", name)


def _renamed(
    state: Mapping[str, Any], ranker: HeavyRanker, faults: list[str]
) -> dict[str, tuple[str, Tensor]]:
    """Our name → original name and tensor; adds the entries that have no place to ``faults``."""
    places = _places(ranker)
    out = {}
    for original, value in state.items():
        name = bare(original)
        if CLAMP.fullmatch(name) or _RATIO.fullmatch(name):
            continue
        for pattern, place in places:
            if match := re.match(pattern, name):
                out[match.expand(place) + name[match.end() :]] = original, _tensor(value)
                break
        else:
            faults.append(f"{original}: no place for it here")
    return out


def _places(ranker: HeavyRanker) -> list[tuple[str, str]]:
    """Pattern of the original's names → how ours begin; what is behind a pattern is kept."""
    rows = []
    for name, layer in ranker.inputs.items():
        if isinstance(layer, DoubleNormLog):
            batch_norm = r"_preprocessor\._before_concat_layers\.\d+\.layer\."
            rows.append((batch_norm, f"inputs.{name}.batch_norm."))
            rows.append((r"_preprocessor\.layer_norm\.layer\.", f"inputs.{name}.layer_norm."))
        if isinstance(layer, LayerNormedEmbeddings):
            for feature in layer.layer_norms:
                place = f"inputs.{name}.layer_norms.{feature}."
                rows.append((rf"_{re.escape(feature)}_layer_norm\.", place))
    networks = [("_backbone", "backbone")]
    for task in ranker.tasks:
        there, here = rf"(?:{sanitized(_PREFIX)})?{re.escape(task)}", module_key(task)
        networks.append((rf"_towers\.{there}", f"towers.{here}"))
        rows.append((rf"_affine_maps\.{there}\.", f"affine_maps.{here}."))
    for there, here in networks:
        rows.append((rf"{there}\._mask_blocks\.(\d+)\._", rf"{here}.mask_blocks.\1."))
        rows.append((rf"{there}\._dense_layers\.", f"{here}.mlp."))
        rows.append((rf"{there}\.(?=layers\.)", f"{here}."))
    return rows


def _parts(ranker: HeavyRanker) -> list[str]:
    """What the features are made of, in their order."""
    parts = []
    for name, layer in ranker.inputs.items():
        if isinstance(layer, DoubleNormLog):
            parts.append(_FEATURES)
        elif isinstance(layer, LayerNormedEmbeddings):
            parts += list(layer.layer_norms)
        else:
            parts.append(name)
    return parts


def _tensor(value: Any) -> Tensor:
    return value if isinstance(value, Tensor) else torch.from_numpy(np.array(value))
