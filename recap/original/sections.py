"""The original's sections training, model and optimizer as those of an experiment here."""

from __future__ import annotations

import inspect
from typing import Any

from recap.model.original_weights import EMBEDDINGS, task_name
from recap.original.data import our_name
from recap.original.reading import Told
from recap.training import Training

Row = dict[str, Any]

_NETWORKS = {
    "mlp_config": "recap.model.mlp.MLP",
    "dcn_config": "recap.model.dcn.DCN",
    "dlrm_config": "recap.model.dlrm.DLRM",
    "mask_net_config": "recap.model.mask_net.MaskNet",
}
_FEATURIZATIONS = {
    "log1p_abs": "recap.model.featurization.Log1pAbs",
    "clip_log1p_abs": "recap.model.featurization.ClipLog1pAbs",
    "z_score_log": "recap.model.z_score_log.ZScoreLog",
    "double_norm_log": "recap.model.featurization.DoubleNormLog",
}
_CURVES = {
    "constant": "Constant",
    "linear_ramp_to_constant": "LinearRampToConstant",
    "linear_ramp_to_cosine": "LinearRampToCosine",
    "piecewise_constant": "PiecewiseConstant",
}
# of the groups of choices, which curve is which
_SCHEDULES = {
    "constant": "constant",
    "linear_ramp_to_constant": "linear_ramp",
    "linear_ramp_to_cosine": "linear_ramp_to_cosine",
    "piecewise_constant": "piecewise_constant",
}


def training(row: Row, told: Told) -> Row:
    """The section training."""
    known = inspect.signature(Training).parameters
    for key in (key for key in row if key not in known):
        if key != "eval_timeout_in_s" or row[key] != 3600.0:
            told.findings.append(f"training.{key}={row[key]}: no counterpart here; left out")
    if row["save_dir"] is not None:
        told.findings.append(
            f"training.save_dir={row['save_dir']}: all runs of this experiment are one there; with "
            "null, or an override, each has its own folder"
        )
    return {key: value for key, value in row.items() if key in known}


def model(row: Row, embeddings: list[str], told: Told) -> tuple[list[str], Row, Row]:
    """Choices of groups, the section model, and the section task, the template of its tasks.

    ``embeddings`` are the precomputed ones that the data hold, under the names they are read by.
    """
    kinds = row["featurization_config"]
    (kind,) = (key for key in kinds if key.endswith("_config") and kinds[key] is not None)
    featurization = kind.removesuffix("_config")
    inputs = {"featurization": _featurization(featurization, kinds, told)}
    if large := row["large_embeddings"]:
        inputs["large_embeddings"] = _large(large, told)
    if small := row["small_embeddings"]:
        tables = {
            table["name"]: {key: table[key] for key in ("num_embeddings", "embedding_dim", "index")}
            for table in small["tables"]
        }
        inputs["small_embeddings"] = _node("recap.model.small_embeddings.SmallEmbeddings") | {
            "tables": tables
        }
    if embeddings := [name for name in EMBEDDINGS if name in embeddings]:
        layers = _node("recap.model.embeddings.LayerNormedEmbeddings")
        inputs["user_embeddings"] = layers | {"feature_names": embeddings}
    if position := row["position_debias_config"]:
        debias = _node("recap.model.position_debias.PositionDebias")
        inputs["position_debias"] = debias | position
    shared = row["multi_task_type"]
    tower, template = _network(next(iter(row["tasks"].values())))
    choices = [f"model/featurization: {featurization}", f"model/tower: {tower}"]
    out: Row = {"multi_task_type": shared, "inputs": inputs}
    if shared == "share_none":
        choices.insert(1, "model/backbone: none")
    else:
        backbone, out["backbone"] = _network(row["backbone"])
        choices.insert(1, f"model/backbone: {backbone}")
    out["tasks"] = {task_name(name): _task(task, template) for name, task in row["tasks"].items()}
    if row["stratifiers"]:
        out["stratifiers"] = {
            slice_["name"]: {"index": slice_["index"], "value": slice_["value"]}
            for slice_ in row["stratifiers"]
        }
    return choices, out, {"tower": template}


def optimizer(row: Row, model: Row, told: Told) -> tuple[list[str], Row, Row]:
    """Choices of groups, the section optimizer, and the section schedule."""
    tasks = list(model["tasks"])
    single, multi = row["single_task_learning_rate"], row["multi_task_learning_rates"]
    large = model["large_embeddings"]
    choices, tables = ["optimizer: adam"], {}
    if large:
        choices.append("optimizer/table_algorithm: sgd")
        rate = large["optimizer"]["learning_rate"]
        rate = rate or {"constant": large["optimizer"]["init_learning_rate"]}
        tables = {table["name"]: _curve(rate) for table in large["tables"]}
    if single is not None and not tables:
        kind, own = _curve(single)
        choices.append(f"schedule: {_SCHEDULES[kind]}")
        return choices, {"adam": row["adam"]}, {"single_task": True, "curve": own}
    if single is not None:  # the tables have rates of their own, so all others are told one by one
        multi = {"tower_learning_rates": dict.fromkeys(tasks, single)}
        multi["backbone_learning_rate"] = single
    rates, shared = multi["tower_learning_rates"], multi["backbone_learning_rate"]
    place = "optimizer.multi_task_learning_rates"
    if shared is None:
        shared = {"constant": 0.0}
        told.findings.append(
            f"{place}.backbone_learning_rate: null; the original stops at it unless nothing is "
            "shared; here 0.0, which leaves shared parameters as they are"
        )
    for task in (task for task in rates if task not in tasks):
        told.findings.append(
            f"{place}.tower_learning_rates.{task}: a rate for no task of the model, at which the "
            "original stops; left out"
        )
    for task in (task for task in tasks if task not in rates):
        told.findings.append(
            f"{place}.tower_learning_rates: none for {task}; the original trains its tower at the "
            "backbone's rate, and so does this"
        )
    kind, backbone = _curve(shared)
    curves = {task_name(task): _curve(rates.get(task) or shared) for task in tasks}
    choices.append(f"schedule: {_SCHEDULES[kind]}")

    def told_by(curve: tuple[str, Row]) -> Row:
        """A curve's numbers, with its kind where that is not the schedule's."""
        other = {"_target_": f"recap.schedule.{_CURVES[curve[0]]}"} if curve[0] != kind else {}
        return {**other, **curve[1]}

    schedule: Row = {"backbone": backbone}
    schedule["towers"] = {name: told_by(curve) for name, curve in curves.items()}
    if tables:
        schedule["tables"] = {name: told_by(curve) for name, curve in tables.items()}
    return choices, {"adam": row["adam"]}, schedule


def _curve(row: Row) -> tuple[str, Row]:
    """The kind of the one curve that is given, and its numbers."""
    ((kind, value),) = [(kind, row[kind]) for kind in _CURVES if row.get(kind) is not None]
    return kind, {"learning_rate": value} if kind == "constant" else dict(value)


def _network(row: Row) -> tuple[str, Row]:
    """The choice in the groups backbone and tower of the one network given, and its node."""
    (kind,) = (kind for kind in _NETWORKS if row[kind] is not None)
    config = row[kind]
    if kind == "mlp_config":
        node = _mlp(config)
    elif kind == "mask_net_config":
        block = "recap.model.mask_net.MaskBlockConfig"
        blocks = [{"_target_": block, **each} for each in config["mask_blocks"]]
        top = _mlp(config["mlp"])
        node = _node(_NETWORKS[kind]) | {**config, "mask_blocks": blocks, "mlp": top}
    else:
        mlps = {key: _mlp(row) for key, row in config.items() if key.endswith("mlp")}
        node = _node(_NETWORKS[kind]) | config | mlps
        if kind == "dcn_config" and config["parallel_mlp"] is None:
            node["use_parallel"] = True  # there is nothing beside or on the cross layers
    return kind.removesuffix("_config"), node


def _mlp(row: Row | None) -> Any:
    if row is None:
        return None
    dropout = row["dropout"]
    return _node("recap.model.mlp.MLP") | {
        "layer_sizes": row["layer_sizes"],
        "batch_norm": _norm("BatchNorm", row["batch_norm"]),
        "dropout": None if dropout is None else dropout["rate"],
        "final_layer_activation": row["final_layer_activation"],
    }


def _task(row: Row, template: Row) -> Row:
    """What a task has of its own beside the template of its tower."""
    _, tower = _network(row)
    out: Row = {}
    if tower["_target_"] != template["_target_"]:
        out["tower"] = tower
    elif own := {key: value for key, value in tower.items() if value != template[key]}:
        out["tower"] = own
    if row["pos_weight"] != 1.0:
        out["pos_weight"] = row["pos_weight"]
    if row["affine_map"] is not None:
        out["affine_map"] = {"_target_": "recap.model.heavy_ranker.AffineMap", **row["affine_map"]}
    return out


def _featurization(kind: str, rows: Row, told: Told) -> Row:
    row, place = dict(rows[f"{kind}_config"]), f"model.featurization_config.{kind}_config"
    node: Row = _node(_FEATURIZATIONS[kind])
    node["continuous_feature_names"] = ["continuous"]
    node["feature_names_to_concat"] = [our_name(n) for n in rows["feature_names_to_concat"]]
    if kind == "double_norm_log":
        row["batch_norm_config"] = _norm("BatchNorm", row["batch_norm_config"])
        row["layer_norm_config"] = _norm("LayerNorm", row["layer_norm_config"])
    elif kind == "clip_log1p_abs":
        told.findings.append(
            f"{place}.clip_magnitude={row['clip_magnitude']}: the original has no code for it; "
            "here it clips after the logarithm"
        )
    elif kind == "z_score_log":
        row["statistics_path"] = row.pop("analysis_path")
        norm = {"affine": True, "momentum": 0.1} if row.pop("use_batch_norm") else None
        row["batch_norm_config"] = _norm("BatchNorm", norm)
        told.findings.append(
            f"{place}.analysis_path: the original has no code that reads it; compute statistics of "
            "the converted files with python -m recap.data.statistics and name them here"
        )
        for key in ("schema_path", "use_renorm", "use_bq_stats"):
            if value := row.pop(key):
                told.findings.append(f"{place}.{key}={value}: no counterpart here; left out")
    return node | row


def _norm(name: str, row: Row | None) -> Row | None:
    return None if row is None else {"_target_": f"recap.model.norm.{name}", **row}


def _large(row: Row, told: Told) -> Row:
    tables: Row = {}
    for table in row["tables"]:
        tables[table["name"]] = {"embedding_dim": table["embedding_dim"]}
        if snapshot := table["pretrained"]:
            tables[table["name"]]["pretrained"] = snapshot["embedding_snapshot_uri"]
            told.findings.append(
                f"model.large_embeddings.tables.{table['name']}.pretrained: a torchsnapshot there; "
                f"here a .pt, .npy or .parquet file: export {snapshot['emb_name']} and name it"
            )
    node = _node("recap.model.embeddings.EmbeddingTables") | {"tables": tables}
    return node | ({"tables_to_log": row["tables_to_log"]} if row["tables_to_log"] else {})


def _node(target: str) -> Row:
    return {"_target_": target, "_partial_": True}
