"""A composed config made into the objects of an experiment, or refused with all its faults."""

from __future__ import annotations

import functools
import inspect
import os
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import hydra
import torch
import typeguard
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from recap.compose import Refused
from recap.data.decode import num_slots
from recap.data.parquet import ParquetData
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
    plain = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(plain, dict)
    if faults := list(binding_faults(plain, "")):
        raise Refused(faults)
    parts, faults = _instantiate_sections(cfg)
    faults += list(_joining_faults(plain, parts))
    if faults:
        raise Refused(faults)
    training: Training = parts["training"]
    torch.manual_seed(training.seed)
    try:
        train_data: ParquetData = parts["train_data"]
        schema = train_data.schema
        slots = {name: num_slots(sparse) for name, sparse in schema.sparse.items()}
        ranker: HeavyRanker = parts["model"](schema, slots)
    except ValueError as error:
        raise Refused(_lines("model", error)) from error
    ranker.to(training.torch_device)
    try:
        optimizer = parts["optimizer"](**ranker.parameters_by_kind())
    except ValueError as error:
        raise Refused(_lines("optimizer", error)) from error
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


def binding_faults(node: Any, path: str) -> Iterator[str]:
    """What keeps the ``_target_`` nodes at and below ``node`` from being called: names, types."""
    if isinstance(node, list):
        for index, item in enumerate(node):
            yield from binding_faults(item, f"{path}.{index}")
    if not isinstance(node, dict):
        return
    for key, value in node.items():
        yield from binding_faults(value, f"{path}.{key}" if path else str(key))
    if "_target_" not in node:
        return
    try:
        target = hydra.utils.get_object(node["_target_"])
        parameters = inspect.signature(target).parameters
        hints = typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)
    except (ImportError, ValueError, TypeError, NameError, AttributeError) as error:
        if isinstance(error, TypeError | NameError | AttributeError):
            return  # a target whose annotations cannot be read is left to its own checks
        yield f"{path}._target_: {node['_target_']!r} cannot be imported: {_first_line(error)}"
        return
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    given = {key: value for key, value in node.items() if not _is_hydras(key)}
    for key, value in given.items():
        if key not in parameters and not open_ended:
            close = get_close_matches(key, parameters, n=1) or [", ".join(parameters)]
            yield f"{path}.{key}: {node['_target_']} takes no such key; close: {close[0]}"
        elif key in hints and (fault := _type_fault(value, hints[key])):
            yield f"{path}.{key}={value!r}: {fault}"
    if not node.get("_partial_"):
        for name, parameter in parameters.items():
            required = parameter.default is parameter.empty and parameter.kind not in (
                parameter.VAR_KEYWORD,
                parameter.VAR_POSITIONAL,
            )
            if required and name not in given and name != "self":
                yield f"{path}.{name}: missing; {node['_target_']} needs it"


def _is_hydras(key: Any) -> bool:
    return key in ("_target_", "_partial_", "_convert_", "_recursive_", "_args_")


def _type_fault(value: Any, hint: Any) -> str | None:
    """Why a plain value cannot be what is annotated; nodes become objects and are not judged."""
    if _holds_target(value):
        return None
    try:
        typeguard.check_type(
            value, hint, collection_check_strategy=typeguard.CollectionCheckStrategy.ALL_ITEMS
        )
    except typeguard.TypeCheckError:
        wanted = getattr(hint, "__name__", None) if inspect.isclass(hint) else None
        return (
            f"must be {wanted or str(hint).replace('typing.', '').replace('collections.abc.', '')}"
        )
    except Exception:  # an annotation beyond typeguard: the target's own checks remain
        return None
    return None


def _holds_target(value: Any) -> bool:
    if isinstance(value, dict):
        return "_target_" in value or any(_holds_target(item) for item in value.values())
    return isinstance(value, list) and any(_holds_target(item) for item in value)


def _instantiate_sections(cfg: DictConfig) -> tuple[dict[str, Any], list[str]]:
    """Every section as its object, and the faults of those that could not be made."""
    parts: dict[str, Any] = {"validation_data": {}}
    faults: list[str] = []
    nodes = [(name, cfg[name]) for name in ("training", "model", "train_data", "optimizer")]
    nodes += [("tracking", cfg.tracking)]
    nodes += [(f"validation_data.{name}", node) for name, node in cfg.validation_data.items()]
    for name, node in nodes:
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
    return parts, list(dict.fromkeys(faults))


def _joining_faults(plain: Mapping[Any, Any], parts: Mapping[str, Any]) -> Iterator[str]:
    """What does not fit between sections, and between sections and the outside."""
    tasks = tuple(plain["model"]["tasks"])
    if (rates := plain["optimizer"].get("multi_task_learning_rates")) is not None:
        place = "optimizer.multi_task_learning_rates.tower_learning_rates"
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
    if "training" in parts:
        yield from _training_faults(parts["training"], parts["validation_data"], tasks)


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
    for task in schedule["towers"]:
        if task not in tasks:
            yield f"schedule.towers.{task}: no such task; tasks are {', '.join(tasks)}"
    rows = {f"towers.{name}": row for name, row in schedule["towers"].items()}
    rows |= {f"tables.{name}": row for name, row in schedule["tables"].items()}
    for place, row in {**rows, "backbone": schedule["backbone"]}.items():
        for key in row or {}:
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
        sources = data.sources
    except ValueError as error:
        yield from (f"{section}.inputs: {line}" for line in str(error).splitlines())
        return
    for fault in data.faults(known):
        yield f"{section}.seg_dense_schema: {fault}"
    try:
        data.schema  # noqa: B018 the widths that preprocessing leaves
    except (ValueError, OSError) as error:
        yield f"{section}.preprocess: {error}"
    rows = sum(source.num_rows for source in sources)
    if section == "train_data" and rows < data.global_batch_size:
        yield (
            f"train_data.global_batch_size={data.global_batch_size}: "
            f"the files hold only {rows} rows"
        )


def _training_faults(
    training: Training, partitions: Mapping[str, ParquetData], tasks: tuple[str, ...]
) -> Iterator[str]:
    if fault := _unwritable(Path(training.save_dir)):
        yield f"training.save_dir={training.save_dir}: {fault}"
    if training.initial_checkpoint_dir is not None:
        from recap.checkpoint import CheckpointError, find

        try:
            find(Path(training.initial_checkpoint_dir))
        except CheckpointError as error:
            yield f"training.initial_checkpoint_dir: {error}"
    if training.objective is not None:
        yield from _objective_faults(training.objective, partitions, tasks)


def _objective_faults(
    objective: str, partitions: Mapping[str, ParquetData], tasks: tuple[str, ...]
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
    elif task not in ("mean", *(partitions[partition].evaluation_tasks or tasks)):
        yield f"{place}: partition {partition} does not measure task {task}"
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
        return f"cannot be written: {error.strerror}"
    return None


def _lines(place: str, error: BaseException) -> list[str]:
    """One fault per line of the error, each with its place."""
    return [
        line if line.startswith(f"{place.split('.')[0]}.") else f"{place}: {line}"
        for line in str(error).splitlines()
    ]


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0]
