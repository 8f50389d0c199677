"""Whether a run can be trained, told before it is queued: what ``python -m recap.check`` does.

Everything that training would make is made and joined, the first row group of every data set is
read, and the model sees some of its rows once; nothing is trained, recorded or left behind but the
plot of the learning rates. The weights are made in full, so it takes the memory of the model.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import CompactHydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from recap import footprint, report
from recap.batch import Bag, Batch
from recap.compose import Refused
from recap.compose.binding import any_at
from recap.data.files import DataError
from recap.data.parquet import ParquetData
from recap.distributed import launched
from recap.experiment import Experiment, Parts, assemble
from recap.nearest import nearest
from recap.run.start import restored
from recap.sweep.grid import combinations

MEASURED_ROWS = 128  # at most, of the batch whose activations are measured


def told(cfg: DictConfig) -> str:
    """What the command prints, of a run whose learning rates it draws; "" on all ranks but rank 0.

    Raises:
        Refused: see ``check``; also a plot that cannot be written.
    """
    if launched().rank > 0:
        return ""  # rank 0 says it, for as many as were started
    experiment, text = check(cfg)
    return f"{text}\n\n{_plot(experiment, cfg.check.plot)}\n"


def check(cfg: DictConfig) -> tuple[Experiment, str]:
    """The experiment of ``cfg`` and, as text, what a run of it will be.

    Raises:
        Refused: it cannot be trained; with every fault.
    """
    parts = assemble(cfg)
    samples = _samples(parts)
    for key, value in cfg.get("check", {}).items():
        if key != "plot":
            parts.faults.append(f"check.{key}: nothing reads this key; {nearest(key, ['plot'])}")
        elif not isinstance(value, str | None):
            parts.faults.append(f"check.plot={value}: must be the path of a file, or null")
    experiment = parts.experiment()
    ranker, training = experiment.ranker, experiment.training
    at = restored(experiment)
    start = f"continues after step {at.step}" if at and at.step else "starts at step 0"
    sample = samples["train_data"]
    data, optimizer = experiment.train_data, experiment.optimizer
    return experiment, "\n\n".join(
        [
            f"run {experiment.save_dir}\n  {start}, ends at step {training.num_train_steps:,}; "
            f"{data.num_rows:,} rows in {len(data.sources)} files",
            report.task_tables(ranker, optimizer, data, sample.rates, sample.num_rows),
            report.widths(ranker),
            report.parameter_groups(optimizer),
            report.memory(_memory(experiment, parts, sample), training),
            *(f"warning: train_data: {w}" for w in data.rank_warnings(launched().world_size)),
        ]
    )


class Sample:
    """The rows of a data set's first row group."""

    def __init__(self, data: ParquetData, tasks: Sequence[str], inputs: set[str]) -> None:
        """Reads them as they are trained on, for the first batch, and their labels as stored.

        Raises:
            DataError: they cannot be read; names file, row group and row.
        """
        self.batch: Batch | None = None
        for batch in _first_row_group(data.opening(), tasks, inputs):
            self.batch = self.batch or batch
        self.num_rows = 0
        positives = torch.zeros(len(tasks))
        for batch in _first_row_group(data.opening(as_stored=True), tasks, ()):
            self.num_rows += len(batch)
            positives += batch.labels.sum(dim=0)
        shares = (positives / max(1, self.num_rows)).tolist()
        self.rates = dict(zip(tasks, shares, strict=True))


def _first_row_group(
    data: ParquetData, tasks: Sequence[str], inputs: Collection[str]
) -> Iterator[Batch]:
    batches = data.batches(tasks=tasks, inputs=inputs, weighted=True, shuffle_seed=None, epochs=1)
    with closing(batches):
        for batch, position in batches:
            if not len(batch):
                continue  # all of its rows are ignored
            yield batch
            if position >= data.sources[0].row_group_rows[0]:
                return


def _samples(parts: Parts) -> dict[str, Sample]:
    """A sample of every data set that has no fault; what cannot be read becomes a fault."""
    datas = {f"validation_data.{name}": data for name, data in parts.validation_data.items()}
    if parts.train_data is not None:
        datas = {"train_data": parts.train_data, **datas}
    samples = {}
    for section, data in datas.items():
        if any_at(parts.faults, section):
            continue
        if parts.ranker is not None:
            tasks, inputs = parts.ranker.tasks, parts.ranker.input_names
        else:
            tasks, inputs = _there(data)
        try:
            samples[section] = Sample(data, tuple(data.evaluation_tasks or tasks), inputs)
        except (DataError, ValueError) as error:
            parts.faults.append(f"{section}: {' '.join(str(error).split())}")
    return samples


def _there(data: ParquetData) -> tuple[tuple[str, ...], set[str]]:
    """The tasks and the inputs whose columns the files hold: without a model all may be read."""
    schema, columns = data.seg_dense_schema, set(data.sources[0].schema.names)
    tasks = tuple(task for task, column in schema.labels.items() if column in columns)
    inputs = {name for name, dense in schema.dense.items() if columns.issuperset(dense.stored_in)}
    inputs |= {name for name, sparse in schema.sparse.items() if sparse.column in columns}
    return tasks, inputs


def _memory(experiment: Experiment, parts: Parts, sample: Sample) -> dict[str, int]:
    """Bytes by what they are for.

    Raises:
        Refused: the model does not come through a batch.
    """
    training, ranker = experiment.training, experiment.ranker
    assert parts.build_optimizer is not None
    assert sample.batch is not None
    some = _first_rows(sample.batch, MEASURED_ROWS)
    per_row = footprint.tensor_bytes(some.tensors()) / len(some)
    batch_size = experiment.train_data.global_batch_size // launched().world_size
    try:
        with training.autocast():
            activations = footprint.activation_bytes(
                ranker, experiment.loss, some.to(training.torch_device)
            )
    except (RuntimeError, ValueError, KeyError, IndexError) as error:
        raise Refused(
            [f"model: fails on the first {len(some)} rows: {type(error).__name__}: {error}"]
        ) from error
    return {
        "weights": footprint.weight_bytes(ranker),
        "gradients": footprint.gradient_bytes(ranker),
        "optimizer state": footprint.state_bytes(
            parts.build_optimizer, ranker.parameters_by_kind()
        ),
        f"a batch of {batch_size:,}": round(per_row * batch_size),
        "its activations": round(activations / len(some) * batch_size),
    }


def _first_rows(batch: Batch, number: int) -> Batch:
    """At most ``number`` rows of a batch, whole."""
    return replace(
        batch,
        dense={name: values[:number].clone() for name, values in batch.dense.items()},
        sparse={name: _first_bags(bag, number) for name, bag in batch.sparse.items()},
        labels=batch.labels[:number].clone(),
        weights=None if batch.weights is None else batch.weights[:number].clone(),
    )


def _first_bags(bag: Bag, number: int) -> Bag:
    offsets = bag.offsets[: number + 1]
    return Bag(bag.slots[: int(offsets[-1])].clone(), offsets.clone(), bag.one_each)


def _plot(experiment: Experiment, file: str | None) -> str:
    """Draws the learning rates into the file, None draws nothing; says where.

    Raises:
        Refused: the file cannot be written.
    """
    if file is None:
        return "learning rates: not plotted, check.plot=null"
    from recap.plot import save_plot  # matplotlib takes a second to import

    path = Path(file).absolute()
    try:
        save_plot(report.curves(experiment.optimizer), experiment.training.num_train_steps, path)
    except OSError as error:
        raise Refused([f"check.plot={file}: cannot be written ({error.strerror})"]) from error
    return f"learning rates: plotted in {path}"


class SweepCheck(Callback):
    """Checks every point of a sweep in place of Hydra's launcher, which would make its folders.

    Under ``hydra.callbacks`` of conf/check.yaml.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Checks all points, prints a table of them, and ends the command with 0 or 1."""
        loader = GlobalHydra.instance().config_loader()
        task_overrides = list(config.hydra.overrides.task)
        try:
            points = _points(config, loader)
        except CompactHydraException as error:  # Hydra makes a warning of what a callback raises
            print(error, file=sys.stderr)
            raise SystemExit(1) from None
        outcomes: dict[str, list[str]] = {}
        for point in points:
            name = " ".join(override for override in point if override not in task_overrides)
            print(f"checking {len(outcomes) + 1} of {len(points)}: {name}", flush=True)
            try:
                check(loader.load_sweep_config(config, list(point)))
                outcomes[name] = []
            except CompactHydraException as error:
                outcomes[name] = str(error).splitlines()
        print(f"\n{report.sweep_table(outcomes)}")
        raise SystemExit(1 if any(outcomes.values()) else 0)


def _points(config: DictConfig, loader: ConfigLoader) -> list[list[str]]:
    """The overrides of all points of a sweep; of a search, of two ends of its space."""
    params = (config.hydra.sweeper.get("params") or {}).items()
    overrides = [f"{key}={value}" for key, value in params] + list(config.hydra.overrides.task)
    if not config.hydra.sweeper._target_.endswith(".OptunaSweeper"):
        return combinations(loader, overrides)
    from recap.search.space import ends, job_overrides, split  # imports optuna

    fixed, space = split(loader, overrides)
    return [job_overrides(fixed, params) for params in ends(space)]
