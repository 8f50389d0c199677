"""A run from its config to its last metrics: what ``python -m recap.train`` does."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from recap.compose import Refused
from recap.compose.run_config import composed_yaml, resolved_yaml, write_config
from recap.console import Progress, metrics_table
from recap.distributed import Ranks
from recap.evaluation import objective, shown, undefined
from recap.experiment import Experiment, prepare
from recap.run.connected import connected
from recap.run.ending import CameTo, outcome_kept
from recap.run.fit import fit
from recap.run.margin import Margin
from recap.run.preemption import preemptible
from recap.run.split import record
from recap.run.start import pace, start
from recap.search.trial import pruning_of
from recap.tracking.opening import Opening
from recap.tracking.provenance import without_passwords

log = logging.getLogger(__name__)


def train(cfg: DictConfig) -> float | None:
    """Trains, evaluates and tracks; returns the metric that ``training.objective`` names.

    Raises:
        Refused: see ``recap.experiment.prepare``; also a run directory of another architecture, or
            one that another process trains in.
        Diverged, DataError, OtherRankFailed, CheckpointError: what only shows while training; a
            checkpoint of an earlier step is in place.
        Stopped: after Ctrl-C, SIGTERM or a scheduler's signal, with a checkpoint of the step it
            came in.
        Pruned: the run's search has seen enough of it.
    """
    with connected(cfg) as ranks, preemptible(ranks) as margin:
        experiment = prepare(cfg, ranks)
        save_dir = experiment.save_dir
        with (
            _alone_in(save_dir, ranks),
            outcome_kept(save_dir, cfg, first=ranks.first) as came_to,
        ):
            return _train(experiment, cfg, came_to, margin)


def _train(
    experiment: Experiment, cfg: DictConfig, came_to: CameTo, margin: Margin
) -> float | None:
    training, ranker, ranks = experiment.training, experiment.ranker, experiment.ranks
    torch.backends.cuda.matmul.allow_tf32 = training.tf32
    with ranks.together():
        came_to.at = at = start(experiment)
        resume_step = at.step
        if ranks.first:
            _write_config(experiment, cfg)
            margin.recall(**pace(experiment.save_dir))
    log.info(
        "%s: %d tasks, %s parameters on %s, %s rows in %d files, steps %d to %d",
        experiment.save_dir,
        len(ranker.tasks),
        f"{experiment.num_parameters:,}",
        f"{ranks.world_size} × {training.torch_device.type}"
        if ranks.world_size > 1
        else training.torch_device,
        f"{experiment.train_data.num_rows:,}",
        len(experiment.train_data.sources),
        at.step,
        training.num_train_steps,
    )
    if ranks.first:
        for warning in experiment.train_data.rank_warnings(ranks.world_size):
            log.warning("train_data: %s", warning)
    opened = Opening(
        lambda: experiment.tracker.run(
            experiment.save_dir,
            overrides=_overrides(),
            config_yaml=resolved_yaml(cfg),
            name=experiment.save_dir.name,
            parent=_sweep_dir(),
            resume_step=resume_step,
        )
    )
    if training.evaluates_at(at.step):  # before any update, behind which ``fit`` opens it
        with ranks.together():
            opened.ready()
    pruning = pruning_of(experiment.save_dir, ranks)
    shown_on = sys.stderr if ranks.first else io.StringIO()
    with (
        opened as run,
        Progress(training.num_train_steps, first_step=at.step, stream=shown_on) as progress,
    ):
        with ranks.together():  # it opens the run where there is a plan to record
            if ranks.first:
                record(experiment.tables, experiment.save_dir, run)
        results = fit(experiment, run, progress, at, margin, pruning)
        value = None
        if training.objective is not None:
            value = objective(results, training.objective)
            run.log(at.step, {"objective": value})
    log.info("\n%s\n", metrics_table(shown(results)))
    if value is not None:
        came_to.objective = value
        came_to.message = why = undefined(results, str(training.objective))
        log.info("objective %s: %.5f%s", training.objective, value, f": {why}" if why else "")
    log.info("run: %s", experiment.save_dir)
    if run.view:
        log.info("look at it: %s", run.view)
    return value


@contextmanager
def _alone_in(save_dir: Path, ranks: Ranks) -> Iterator[None]:
    """Two runs in one folder would each continue from what the other saves; rank 0 holds the lock.

    Raises:
        Refused: another one is in it. A killed process is in no folder: the system frees its lock.
    """
    lock = FileLock(save_dir / ".lock")
    with ranks.together():
        if ranks.first:
            save_dir.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except Timeout as error:
                raise Refused(
                    [
                        f"training.save_dir={save_dir}: another process is training in this "
                        "folder; wait for its end, or name another folder as training.save_dir"
                    ]
                ) from error
    try:
        yield
    finally:
        lock.release()


def _write_config(experiment: Experiment, cfg: DictConfig) -> None:
    try:
        write_config(experiment.save_dir, without_passwords(composed_yaml(cfg)))
    except OSError as error:
        raise Refused([f"training.save_dir={experiment.save_dir}: {error}"]) from error


def _overrides() -> list[str]:
    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def _sweep_dir() -> Path | None:
    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return None
    return Path(HydraConfig.get().sweep.dir).absolute()
