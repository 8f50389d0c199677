"""What is wrong with a configuration of the original: what stops a conversion, and what it did."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from recap.model.original_weights import task_name
from recap.original.fields import NAMED_BY

Row = Mapping[str, Any]

_NO_KEY = re.compile(r"[\s\"'()\[\]{}:\\]")  # what no reference to a key may hold here


def joining_faults(config: Row) -> Iterator[str]:
    """What contradicts itself; of sections that could not be read, nothing."""
    model, train = config.get("model") or {}, config.get("train_data") or {}
    shared, backbone = model.get("multi_task_type"), model.get("backbone")
    if shared == "share_none" and backbone:
        yield "model.backbone: multi_task_type=share_none has none; set it to null"
    if shared in ("share_all", "share_partial") and not backbone:
        yield f"model.backbone: multi_task_type={shared} needs one, and it is null"
    labels = train.get("tasks") or {}
    names: dict[str, str] = {}
    for task in model.get("tasks") or {}:
        if labels and task not in labels:
            yield f"model.tasks.{task}: train_data.tasks has no such label"
        if (other := names.setdefault(task_name(task), task)) != task:
            yield f"model.tasks.{task}: {other} would have the same name here, {task_name(task)}"
    for section, row in _datas(config):
        for task in row.get("evaluation_tasks") or []:
            if task not in (row.get("tasks") or {}):
                yield f"{section}.evaluation_tasks: {task} is not in {section}.tasks"
    for place, name in _named(config):
        if match := _NO_KEY.search(name):
            yield f"{place}.{name}: rename it; no name of a task or feature has {match[0]!r} here"
    for place, curve in _curves(config):
        yield from _curve_faults(place, curve)


def findings(config: Row) -> Iterator[str]:
    """What the original did otherwise than its configuration says, or would not have done."""
    tasks, labels = list(config["model"]["tasks"]), list(config["train_data"]["tasks"])
    pairs = [(task, label) for task, label in zip(tasks, labels, strict=False) if task != label]
    if pairs:
        told = ", ".join(f"{task_name(task)} on {task_name(label)}" for task, label in pairs)
        yield (
            "train_data.tasks and model.tasks: the original pairs them by position, not by name, "
            f"so it trains {len(pairs)} of {len(tasks)} towers on another task's label and weight: "
            f"{told}; here they are joined by name"
        )
    yield from _rates(config)
    yield from _model(config["model"])
    if config["optimizer"]["single_task_learning_rate"] is not None:
        yield "optimizer.single_task_learning_rate: the original stops at it; here it is used"
    if config["which_metrics"] is not None:
        yield (
            f"which_metrics={config['which_metrics']}: no counterpart here: every metric is "
            "computed, training.objective names the one that counts"
        )
    for section, row in _datas(config):
        for key in NAMED_BY[1:]:
            if row[key] is not None:
                yield f"{section}.{key}: the original stops at it; here it is used"
        if row["seg_dense_schema"]["mask_mantissa_features"]:
            place = f"{section}.seg_dense_schema.mask_mantissa_features"
            yield f"{place}: the original ignores it; here the bits are zeroed"


def _rates(config: Row) -> Iterator[str]:
    def sampled(rows: Row) -> list[str]:
        return [
            f"{task_name(task)} {row['pos_downsampling_rate']:g}/{row['neg_downsampling_rate']:g}"
            for task, row in rows.items()
            if set(row.values()) != {1.0}
        ]

    if told := sampled(config["train_data"]["tasks"]):
        yield (
            f"train_data.tasks: rates {', '.join(told)}: the original corrects for them twice, by "
            "weights in the loss and by calibration; here by weights, or with "
            "training.sampling_correction=calibration by that"
        )
    rows = {name: sampled(row["tasks"]) for name, row in config["validation_data"].items()}
    if told := [f"{task_name(name)}: {', '.join(rates)}" for name, rates in rows.items() if rates]:
        yield (
            "validation_data: the original's calibration never reads the rates of partitions "
            f"(positives/negatives kept; {'; '.join(told)}): it takes train_data.tasks"
        )


def _model(model: Row) -> Iterator[str]:
    used = [key for key in ("large_embeddings", "small_embeddings") if model[key]]
    used += ["position_debias_config"] if model["position_debias_config"] else []
    kinds = model["featurization_config"]
    used += [
        f"featurization_config.{key}"
        for key in kinds
        if key.endswith("_config") and kinds[key] is not None and key != "double_norm_log_config"
    ]
    networks = {f"tasks.{name}": row for name, row in model["tasks"].items()}
    if model["backbone"]:
        networks["backbone"] = model["backbone"]
    for place, row in networks.items():
        used += [f"{place}.{kind}" for kind in ("dcn_config", "dlrm_config") if row[kind]]
        net = row["mask_net_config"]
        if net and net["mlp"] and not net["use_parallel"]:
            used.append(f"{place}.mask_net_config (serial, with an MLP)")
        mlp = row["mlp_config"]
        if mlp and len(mlp["layer_sizes"]) == 1 and not mlp["final_layer_activation"]:
            used.append(f"{place}.mlp_config (of one layer)")
    if used:
        told = ", ".join(f"model.{place}" for place in used)
        yield f"{told}: the original has no code for it, or code that fails; here it works"
    if model["backbone"] and model["backbone"]["affine_map"]:
        yield "model.backbone.affine_map: nothing reads it, there or here; left out"
    if model["backbone"] and model["backbone"]["pos_weight"] != 1.0:
        yield "model.backbone.pos_weight: nothing reads it, there or here; left out"
    if (names := kinds["feature_names_to_concat"]) != ["binary"]:
        yield (
            f"model.featurization_config.feature_names_to_concat={names}: the original "
            "concatenates binary whatever stands here; here these are"
        )
    log = kinds["double_norm_log_config"]
    if norm := log and log["layer_norm_config"]:
        place = "model.featurization_config.double_norm_log_config.layer_norm_config"
        if norm["epsilon"] == 0.0:
            yield f"{place}.epsilon=0: a constant row gives NaN there; here it gives the center"
        if norm["center"] != norm["scale"]:
            yield f"{place}: the original stops where center differs from scale; here it may"


def _named(config: Row) -> Iterator[tuple[str, str]]:
    """Every name that becomes a key here, with the section it stands in."""
    sections = {"model.tasks": (config.get("model") or {}).get("tasks")}
    sections["validation_data"] = config.get("validation_data")
    for section, row in _datas(config):
        sections[f"{section}.tasks"] = row.get("tasks")
        schema = row.get("seg_dense_schema") or {}
        for key in ("features", "renamed_features"):
            sections[f"{section}.seg_dense_schema.{key}"] = schema.get(key)
    for section, names in sections.items():
        yield from ((section, str(name)) for name in names or ())


def _datas(config: Row) -> Iterator[tuple[str, Row]]:
    if train := config.get("train_data"):
        yield "train_data", train
    for name, row in (config.get("validation_data") or {}).items():
        if row:
            yield f"validation_data.{name}", row


def _curves(config: Row) -> Iterator[tuple[str, Row | None]]:
    optimizer = config.get("optimizer") or {}
    yield "optimizer.single_task_learning_rate", optimizer.get("single_task_learning_rate")
    multi = optimizer.get("multi_task_learning_rates") or {}
    place = "optimizer.multi_task_learning_rates"
    yield f"{place}.backbone_learning_rate", multi.get("backbone_learning_rate")
    for task, curve in (multi.get("tower_learning_rates") or {}).items():
        yield f"{place}.tower_learning_rates.{task}", curve
    large = (config.get("model") or {}).get("large_embeddings") or {}
    place = "model.large_embeddings.optimizer.learning_rate"
    yield place, (large.get("optimizer") or {}).get("learning_rate")


def _curve_faults(place: str, curve: Row | None) -> Iterator[str]:
    cosine = (curve or {}).get("linear_ramp_to_cosine") or {}
    ramp, end = cosine.get("num_ramp_steps"), cosine.get("final_num_steps")
    if ramp is not None and end is not None and end <= ramp:
        yield (
            f"{place}.linear_ramp_to_cosine.final_num_steps={end}: must be above "
            f"num_ramp_steps={ramp}; the original divides by their difference"
        )
    pieces = (curve or {}).get("piecewise_constant") or {}
    boundaries, values = (
        pieces.get("learning_rate_boundaries"),
        pieces.get("learning_rate_values"),
    )
    if boundaries is not None and values is not None and len(values) != len(boundaries) + 1:
        yield (
            f"{place}.piecewise_constant: {len(boundaries)} learning_rate_boundaries need "
            f"{len(boundaries) + 1} learning_rate_values, not {len(values)}"
        )
