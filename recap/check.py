"""A composed config made into the objects of an experiment, or refused with all its faults."""

from __future__ import annotations

import functools
import inspect
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from recap.binding import binding_faults
from recap.compose import SECTIONS, Refused
from recap.data.decode import num_slots
from recap.data.parquet import ParquetData
from recap.data.partition_faults import partition_faults
from recap.distributed import world_size
from recap.loss import MultiTaskLoss
from recap.model.heavy_ranker import HeavyRanker
from recap.tracking import Tracker
from recap.training import Training

# lists reach Python as lists, and every other node without a target as a dict
instantiate = functools.partial(hydra.utils.instantiate, _convert_="object")


@dataclass(frozen=True)
class Experiment:
    """Everything a run is made of, checked against each other."""

    training: Training
    ranker: HeavyRanker
    loss: MultiTaskLoss
    optimizer: torch.optim.Optimizer
    train_data: ParquetData
    validation_data: Mapping[str, ParquetData]
    tracker: Tracker

    @property
    def save_dir(self) -> Path:
        """The run's folder, absolute."""
        return Path(self.training.save_dir).absolute()


def prepare(cfg: DictConfig) -> Experiment:
    """The experiment that ``cfg`` describes.

    Raises:
        Refused: anything that would stop the run later: unknown, missing and ill-typed keys, values
            out of range, sections that do not fit each other by task name, files that are missing,
            damaged or lack what the schema names, a folder that cannot be written.
    """
    try:
        plain = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        # what refers into a section that is null cannot be resolved either
        nulls = [name for name in SECTIONS if cfg[name] is None]
        faults = [f"{name}=null: must be a mapping, {{_target_: …}}" for name in nulls]
        raise Refused(faults or [f"{error.full_key}: {_first_line(error)}"]) from error
    assert isinstance(plain, dict)
    faults = list(binding_faults(plain, ""))
    if shapes := list(_shape_faults(plain, faults)):
        raise Refused(faults + shapes)
    if (ranks := world_size()) > 1:
        faults.append(f"{ranks} processes were started: a run is one process; start it by itself")
    parts = _instantiate_sections(cfg, faults)
    faults += _joining_faults(plain, parts)
    training: Training | None = parts.get("training")
    train_data: ParquetData | None = parts.get("train_data")
    ranker: HeavyRanker | None = None
    optimizer: torch.optim.Optimizer | None = None
    if training is not None:
        torch.manual_seed(training.seed)
    unread = ("train_data.preprocess", "train_data.seg_dense_schema.sparse")
    if train_data is not None and "model" in parts and not _any_at(faults, *unread):
        with _collected(faults, "model"):
            schema = train_data.schema
            slots = {name: num_slots(sparse) for name, sparse in schema.sparse.items()}
            ranker = parts["model"](schema, slots)
    if train_data is not None and not _any_at(faults, *unread):
        for name, data in parts["validation_data"].items():
            section = f"validation_data.{name}"
            if _any_at(faults, f"{section}.preprocess", f"{section}.seg_dense_schema.sparse"):
                continue
            inputs = None if ranker is None else ranker.input_names
            faults += partition_faults(section, data.schema, train_data.schema, inputs)
    if ranker is not None and training is not None:
        ranker.to(training.torch_device)
        if "optimizer" in parts and not _any_at(faults, "optimizer"):
            with _collected(faults, "optimizer"):
                optimizer = parts["optimizer"](**ranker.parameters_by_kind())
    if faults:
        raise Refused(list(dict.fromkeys(faults)))
    assert training is not None
    assert train_data is not None
    assert ranker is not None
    assert optimizer is not None
    loss = MultiTaskLoss(
        ranker.tasks,
        pos_weight=ranker.pos_weights,
        task_weights=ranker.loss_weights,
        reduction=training.loss_reduction,
    ).to(training.torch_device)
    return Experiment(
        training,
        ranker,
        loss,
        optimizer,
        train_data,
        parts["validation_data"],
        parts["tracking"],
    )


def _shape_faults(plain: Mapping[Any, Any], faults: list[str]) -> Iterator[str]:
    """What must be a mapping and is not, or lacks a ``_target_``; not what is at fault already."""
    holds = {
        "validation_data": "partition → {inputs: …}; ~validation_data.<partition> takes one out",
        "model.inputs": "input → {_target_: …}",
        "model.tasks": "task → what differs from the section task, {} for nothing",
    }
    model = plain["model"] if isinstance(plain["model"], dict) else {"inputs": {}, "tasks": {}}
    nodes = {"validation_data": plain["validation_data"]}
    nodes |= {f"model.{key}": model.get(key) for key in ("inputs", "tasks")}
    for place, rows in list(nodes.items()):
        if isinstance(rows, dict):
            nodes |= {f"{place}.{name}": row for name, row in rows.items()}
    for name in ("training", "model", "train_data", "optimizer", "tracking"):
        nodes[name] = plain[name]
    for place, node in nodes.items():
        if _any_at(faults, place):
            continue
        if not isinstance(node, dict):
            shape = holds.get(place, "{_target_: …}")
            yield f"{place}={'null' if node is None else node}: must be a mapping, {shape}"
        elif "_target_" not in node and place not in holds:
            yield f"{place}._target_: missing; it names what is made of these values"


def _instantiate_sections(cfg: DictConfig, faults: list[str]) -> dict[str, Any]:
    """Every section without a fault as its object; adds the faults of those that refuse."""
    parts: dict[str, Any] = {"validation_data": {}}
    nodes = [(name, cfg[name]) for name in ("training", "model", "train_data", "optimizer")]
    nodes += [("tracking", cfg.tracking)]
    nodes += [(f"validation_data.{name}", node) for name, node in cfg.validation_data.items()]
    for name, node in nodes:
        if _any_at(faults, name):
            continue
        try:
            made = instantiate(node)
        except InstantiationException as error:
            cause = error.__cause__ or error
            place = getattr(error, "full_key", None) or name
            match = [line for line in str(error).splitlines() if line.startswith("full_key: ")]
            if match:
                place = match[0].removeprefix("full_key: ")
            faults += _lines(place, cause)
            continue
        section, _, partition = name.partition(".")
        if partition:
            parts[section][partition] = made
        else:
            parts[section] = made
    return parts


def _joining_faults(plain: Mapping[Any, Any], parts: Mapping[str, Any]) -> Iterator[str]:
    """What does not fit between sections, and between sections and the outside."""
    if not isinstance(plain["model"]["tasks"], dict):
        return  # refused as ill-typed
    tasks = tuple(plain["model"]["tasks"])
    place = "optimizer.multi_task_learning_rates.tower_learning_rates"
    rates = plain["optimizer"].get("multi_task_learning_rates")
    if isinstance(rates, dict) and isinstance(rates.get("tower_learning_rates"), dict):
        for task in (task for task in tasks if task not in rates["tower_learning_rates"]):
            yield f"{place}: no rate for task {task}; towers are {', '.join(tasks)}"
        for task in (task for task in rates["tower_learning_rates"] if task not in tasks):
            yield f"{place}.{task}: a rate for no tower; towers are {', '.join(tasks)}"
    if schedule := plain.get("schedule"):
        yield from _own_number_faults(schedule, tasks)
    datas = {f"validation_data.{name}": d for name, d in parts["validation_data"].items()}
    if "train_data" in parts:
        datas = {"train_data": parts["train_data"], **datas}
    for section, data in datas.items():
        yield from _data_faults(section, data, tasks)
    yield from _training_faults(plain["training"], plain["validation_data"], tasks)


def _own_number_faults(schedule: Mapping[str, Any], tasks: tuple[str, ...]) -> Iterator[str]:
    """A task's own numbers may be for any kind of curve, so any curve's fields are allowed."""
    from recap import schedule as curves

    kinds = (
        curves.Constant,
        curves.LinearRampToConstant,
        curves.LinearRampToCosine,
        curves.PiecewiseConstant,
    )
    known = {"_target_"}.union(*(inspect.signature(kind).parameters for kind in kinds))
    known |= schedule["curve"].keys()  # also those of a curve of the user's own
    for task in schedule["towers"]:
        if task not in tasks:
            yield f"schedule.towers.{task}: no such task; tasks are {', '.join(tasks)}"
    rows = {f"towers.{name}": row for name, row in schedule["towers"].items()}
    rows |= {f"tables.{name}": row for name, row in schedule["tables"].items()}
    for place, row in {**rows, "backbone": schedule["backbone"]}.items():
        for key in row if isinstance(row, dict) else ():  # a bare number is a constant rate
            if key not in known:
                close = get_close_matches(key, known, n=1) or [", ".join(sorted(known))]
                yield f"schedule.{place}.{key}: no curve has such a number; close: {close[0]}"


def _data_faults(section: str, data: ParquetData, tasks: tuple[str, ...]) -> Iterator[str]:
    if section != "train_data":
        for task in data.evaluation_tasks or ():
            if task not in tasks:
                yield (
                    f"{section}.evaluation_tasks: {task} is no task of the model; "
                    f"tasks are {', '.join(tasks)}"
                )
        tasks = tuple(task for task in data.evaluation_tasks or tasks if task in tasks)
    elif data.evaluation_tasks is not None:
        yield "train_data.evaluation_tasks: only a validation partition has them; set it to null"
    labels = data.seg_dense_schema.labels
    known = []
    for task in tasks:
        if task in labels:
            known.append(task)
        else:
            close = get_close_matches(task, labels, n=1)
            hint = f"close: {close[0]}" if close else f"labels are {', '.join(labels)}"
            yield f"{section}.seg_dense_schema.labels: no label column for task {task}; {hint}"
    try:
        data.schema  # noqa: B018 the widths that preprocessing leaves
    except (ValueError, OSError) as error:
        yield f"{section}.preprocess: {error}"
    for name, sparse in data.seg_dense_schema.sparse.items():
        try:
            num_slots(sparse)
        except ValueError as error:
            yield f"{section}.seg_dense_schema.sparse.{name}: {error}"
    try:
        sources = data.sources
    except ValueError as error:
        yield from (f"{section}.inputs: {line}" for line in str(error).splitlines())
        return
    if not sources:
        yield f"{section}.inputs=[] names no file"
        return
    for fault in data.faults(known):
        yield f"{section}.seg_dense_schema: {fault}"
    rows = sum(source.num_rows for source in sources)
    if section == "train_data" and rows < data.global_batch_size:
        yield (
            f"train_data.global_batch_size={data.global_batch_size}: "
            f"the files hold only {rows} rows"
        )


def _training_faults(
    training: Mapping[str, Any], partitions: Mapping[str, Any], tasks: tuple[str, ...]
) -> Iterator[str]:
    """By the plain values: they are judged even where another of the section is refused."""
    save_dir, initial = training.get("save_dir"), training.get("initial_checkpoint_dir")
    objective = training.get("objective")
    if isinstance(save_dir, str) and (fault := _unwritable(Path(save_dir))):
        yield f"training.save_dir={save_dir}: {fault}"
    if isinstance(initial, str):
        from recap.checkpoint import CheckpointError, find

        try:
            find(Path(initial))
        except CheckpointError as error:
            yield f"training.initial_checkpoint_dir: {error}"
    if isinstance(objective, str):
        yield from _objective_faults(objective, partitions, tasks)


def _objective_faults(
    objective: str, partitions: Mapping[str, Any], tasks: tuple[str, ...]
) -> Iterator[str]:
    from recap.metrics import METRIC_NAMES

    place = f"training.objective={objective}"
    parts = objective.split("/")
    if len(parts) != 3:
        yield f"{place}: must be <partition>/<task or mean>/<metric>"
        return
    partition, task, metric = parts
    if partition not in partitions:
        yield f"{place}: no partition {partition}; there is {', '.join(partitions) or 'none'}"
    elif task not in (
        "mean",
        *(measured := partitions[partition].get("evaluation_tasks") or tasks),
    ):
        yield (
            f"{place}: partition {partition} does not measure task {task}; "
            f"it measures {', '.join(measured)}, and mean"
        )
    if metric not in METRIC_NAMES:
        yield f"{place}: no metric {metric}; there is {', '.join(METRIC_NAMES)}"


def _unwritable(folder: Path) -> str | None:
    """Why files cannot be made in ``folder``, which need not exist yet."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        return f"cannot be written ({error.strerror}); name a folder that can"
    return None


def _lines(place: str, error: BaseException) -> list[str]:
    """One fault per line of the error, each with its place."""
    return [
        line
        if line.startswith(f"{place.split('.')[0]}.")
        else f"{place}{'.' if re.match(r'[a-z_0-9]+=', line) else ': '}{line}"
        for line in str(error).splitlines()
    ]


@contextmanager
def _collected(faults: list[str], place: str) -> Iterator[None]:
    """Turns what refuses or lacks an argument into faults at ``place``."""
    try:
        yield
    except (ValueError, TypeError) as error:
        faults += _lines(place, error)


def _any_at(faults: list[str], *places: str) -> bool:
    return any(re.match(rf"{re.escape(place)}\b", fault) for fault in faults for place in places)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0]
