"""Evaluation of a ranker over named partitions of data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from itertools import islice

import torch

from recap.data.parquet import ParquetData
from recap.distributed import ALONE, Ranks
from recap.metrics import RankingMetrics
from recap.model.heavy_ranker import HeavyRanker
from recap.run.on_device import on_device
from recap.training import Training

# partition → task → metric → value; a slice of a partition is called <partition>/<stratifier>
Results = Mapping[str, Mapping[str, Mapping[str, float]]]


def evaluate(
    ranker: HeavyRanker,
    partitions: Mapping[str, ParquetData],
    training: Training,
    stop: Sequence[int] = (),
    ranks: Ranks = ALONE,
) -> Results:
    """Metrics per partition, task and name, over one pass or ``num_eval_steps`` batches of each.

    A partition with ``evaluation_tasks`` is measured on those tasks only, and once more within the
    slice of every stratifier. What is measured are calibrated probabilities, and examples weigh as
    many as stand for them where the partition was sampled. Neither weights nor random state change;
    the ranker is left in training mode if it was. Ranks share every batch, and all of them have the
    metrics of the whole. As soon as ``stop`` holds a number on any of them, the evaluation ends at
    a batch and comes out empty: half of it would mislead.

    Raises:
        DataError, OtherRankFailed: on all ranks, where one of them cannot read its part.
    """
    was_training = ranker.training
    ranker.eval()
    try:
        results = {}
        for name, data in partitions.items():
            slices = _evaluate(ranker, data, training, stop, ranks)
            if slices is None:
                return {}
            results |= {f"{name}/{part}" if part else name: rows for part, rows in slices.items()}
        return results
    finally:
        ranker.train(was_training)


@torch.inference_mode()
def _evaluate(
    ranker: HeavyRanker,
    data: ParquetData,
    training: Training,
    stop: Sequence[int],
    ranks: Ranks,
) -> dict[str, dict[str, dict[str, float]]] | None:
    """Metrics by slice, task and name; the slice called "" is the whole partition. None: stopped.

    What the ranks sum up of examples and histograms are whole numbers, so that metrics of examples
    that weigh one do not depend on the number of ranks beyond the rounding of float64.
    """
    device = training.torch_device
    tasks = tuple(data.evaluation_tasks or ranker.tasks)
    columns = torch.tensor([ranker.tasks.index(task) for task in tasks], device=device)
    metrics = {part: RankingMetrics(tasks, device) for part in ("", *ranker.stratifiers)}
    read = data.batches(
        tasks=tasks,
        inputs=ranker.input_names,
        weighted=True,
        shuffle_seed=None,
        epochs=1,
        pin_memory=device.type == "cuda",
        rank=ranks.rank,
        world_size=ranks.world_size,
    )
    limit = training.num_eval_steps if training.num_eval_steps >= 0 else None
    with closing(on_device(read, device)) as batches:
        for batch, _ in ranks.in_step(islice(batches, limit), lambda: max(stop, default=0)):
            ranks.alive()
            with training.autocast():
                logits = ranker.calibrated(ranker(batch)).index_select(1, columns)
            metrics[""].update(logits, batch.labels, batch.weights)
            for name, stratifier in ranker.stratifiers.items():
                rows = stratifier.rows(batch)
                weights = None if batch.weights is None else batch.weights[rows]
                metrics[name].update(logits[rows], batch.labels[rows], weights)
    if ranks.most(max(stop, default=0)):
        return None
    if data.ignored is not None:
        data.ignored.agree(ranks.gathered)
        data.ignored.refuse_too_many()
    for measured in metrics.values():
        ranks.sum_(measured.state)
    return {part: measured.compute() for part, measured in metrics.items()}


def flat(results: Results) -> dict[str, float]:
    """The metrics under the names they are tracked by: ``<partition>/<task>/<metric>``."""
    return {
        f"{partition}/{task}/{metric}": value
        for partition, tasks in results.items()
        for task, row in tasks.items()
        for metric, value in row.items()
    }


def objective(results: Results, name: str) -> float:
    """The value of ``<partition>/<task>/<metric>``; the task "mean" averages over all tasks.

    ``<partition>/<stratifier>`` names a slice of a partition.
    """
    partition, task, metric = name.rsplit("/", 2)
    if task != "mean":
        return results[partition][task][metric]
    values = [row[metric] for row in results[partition].values()]
    return sum(values) / len(values)


def undefined(results: Results, name: str) -> str:
    """Why the value of an objective is NaN, by its tasks; "" where it is a number."""
    partition, task, metric = name.rsplit("/", 2)
    measured = results[partition]
    reasons = []
    for each, row in measured.items():
        if task in (each, "mean") and math.isnan(row[metric]):
            lacks = "neither positives nor negatives"
            if row["examples"]:
                one_sided = {0: "no positives", row["examples"]: "no negatives"}
                lacks = one_sided.get(row["positives"], f"no defined {metric}")
            reasons.append(f"{each} has {lacks} in {partition}")
    return ", ".join(reasons)


def shown(results: Results) -> Results:
    """The part of the metrics that a person reads at the end of a run.

    Partitions that are called after the only task they measure come last, as one.
    """
    columns = ("auroc", "log_loss", "rce", "nrce", "calibration", "examples", "positives")
    rows: dict[str, dict[str, dict[str, float]]] = {}
    own = "its own partition"
    for partition, tasks in sorted(results.items(), key=lambda item: [*item[1]] == [item[0]]):
        name = own if [*tasks] == [partition] else partition
        for task, row in tasks.items():
            rows.setdefault(name, {})[task] = {
                metric: int(row[metric]) if metric in ("examples", "positives") else row[metric]
                for metric in columns
            }
    return rows
