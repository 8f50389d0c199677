"""What does not fit between the sections of a config, and between them and the outside."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from recap.data.decode import num_slots
from recap.data.layout import unwritable
from recap.data.parquet import ParquetData
from recap.nearest import nearest
from recap.run.warm_start import find


def joining_faults(plain: Mapping[Any, Any], parts: Mapping[str, Any]) -> Iterator[str]:
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
        yield from own_number_faults(schedule, tasks)
    for section, data in _data_sections(parts).items():
        yield from _data_faults(section, data, tasks)
    yield from _training_faults(plain, tasks)


def column_faults(
    plain: Mapping[Any, Any], parts: Mapping[str, Any], inputs: Collection[str] | None
) -> Iterator[str]:
    """What the files lack of the columns that are read for ``inputs`` (None: all), or hold else."""
    if not isinstance(plain["model"]["tasks"], dict):
        return
    for section, data in _data_sections(parts).items():
        tasks = (section != "train_data" and data.evaluation_tasks) or plain["model"]["tasks"]
        known = [task for task in tasks if task in data.seg_dense_schema.labels]
        try:
            faults = data.faults(known, inputs)
        except ValueError:
            continue  # files that cannot be opened: told by joining_faults
        for fault in faults:
            yield f"{section}.seg_dense_schema: {fault}"


def _data_sections(parts: Mapping[str, Any]) -> dict[str, ParquetData]:
    datas = {f"validation_data.{name}": d for name, d in parts["validation_data"].items()}
    return {"train_data": parts["train_data"], **datas} if "train_data" in parts else datas


def own_number_faults(schedule: Mapping[str, Any], tasks: tuple[str, ...]) -> Iterator[str]:
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
                hint = nearest(key, sorted(known))
                yield f"schedule.{place}.{key}: no curve has such a number; {hint}"


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
    for task in tasks:
        if task not in labels:
            place = f"{section}.seg_dense_schema.labels"
            yield f"{place}: no label column for task {task}; {nearest(task, labels)}"
    try:
        data.schema  # noqa: B018 the widths that preprocessing leaves
    except OSError as error:
        yield f"{section}.preprocess: {error}"
    except ValueError as error:
        yield from (f"{section}.preprocess.{line}" for line in str(error).splitlines())
    for name, sparse in data.seg_dense_schema.sparse.items():
        try:
            num_slots(sparse)
        except ValueError as error:
            yield f"{section}.seg_dense_schema.sparse.{name}: {error}"
    if data.cache is not None and (fault := unwritable(Path(data.cache).expanduser())):
        yield f"{section}.cache={data.cache}: {fault}"
    try:
        sources = data.sources
    except (ValueError, OSError) as error:  # OSError: a far file system that does not answer
        yield from (f"{section}.{data.named_by}: {line}" for line in str(error).splitlines())
        return
    if not sources:
        yield f"{section}.inputs=[] names no file"
        return
    rows, needed = sum(source.num_rows for source in sources), data.rows_per_batch
    if section == "train_data" and rows < needed:
        times = f", and each batch is made of {needed}" if needed > data.global_batch_size else ""
        yield (
            f"train_data.global_batch_size={data.global_batch_size}: "
            f"the files hold only {rows} rows{times}"
        )


def _training_faults(plain: Mapping[str, Any], tasks: tuple[str, ...]) -> Iterator[str]:
    """By the plain values: they are judged even where another of the section is refused."""
    training = plain["training"]
    save_dir, initial = training.get("save_dir"), training.get("initial_checkpoint_dir")
    objective = training.get("objective")
    if isinstance(save_dir, str) and (fault := unwritable(Path(save_dir))):
        yield f"training.save_dir={save_dir}: {fault}"
    if isinstance(initial, str):
        try:
            find(initial)
        except ValueError as error:
            yield f"training.initial_checkpoint_dir: {error}"
    if isinstance(objective, str):
        yield from objective_faults(objective, plain, tasks)


def objective_faults(
    objective: str, plain: Mapping[str, Any], tasks: tuple[str, ...]
) -> Iterator[str]:
    """What of ``training.objective`` no evaluation measures."""
    from recap.metrics import METRIC_NAMES

    partitions, stratifiers = plain["validation_data"], plain["model"].get("stratifiers") or {}

    place = f"training.objective={objective}"
    parts = objective.split("/")
    if len(parts) not in (3, 4):
        yield f"{place}: must be <partition>/<task or mean>/<metric>, or <partition>/<stratifier>/…"
        return
    partition, *slices, task, metric = parts
    for name in slices:
        if name not in stratifiers:
            known = ", ".join(stratifiers) or "none"
            yield f"{place}: no stratifier {name}; there is {known}"
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


def rank_faults(sections: Mapping[str, Any], world_size: int) -> Iterator[str]:
    """What does not fit the number of processes that train together."""
    if world_size == 1:
        return
    partitions = sections.get("validation_data", {})
    named = {f"validation_data.{name}": data for name, data in partitions.items()}
    if "train_data" in sections:
        named = {"train_data": sections["train_data"], **named}
    for place, data in named.items():
        size = data.global_batch_size
        below, above = size // world_size * world_size, (size // world_size + 1) * world_size
        if below != size:
            near = f"{below} and {above} do" if below else f"{above} does"
            fault = f"{place}.global_batch_size={size} does not divide over {world_size} ranks"
            yield f"{fault}; {near}"
    device = None if "training" not in sections else sections["training"].device
    if device is not None and device.startswith("cuda:"):
        yield (
            f"training.device={device}: {world_size} ranks were started, each takes a GPU of its "
            "own; write cuda, or null"
        )
