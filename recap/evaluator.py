"""The metrics of a run's checkpoint, or of each one as it appears: ``python -m recap.evaluate``.

It reads the run's folder and adds to the run's record, and leaves the rest of both as they are: it
may work beside the processes that train, on ranks of its own.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from hydra.errors import CompactHydraException
from omegaconf import DictConfig, OmegaConf

from recap import checkpoint
from recap.compose import Refused
from recap.compose.binding import any_at
from recap.console import metrics_table
from recap.distributed import ALONE, Ranks
from recap.evaluation import Results, evaluate, flat, shown
from recap.experiment import Parts, assemble, for_other_devices, refuse_together, told_once
from recap.run.connected import connected
from recap.run.preemption import preemptible
from recap.signals import Stopped, stop_signals

log = logging.getLogger(__name__)

POLL_S = 1.0  # between two looks for a checkpoint

# what only training needs
ASIDE = (
    *(
        f"train_data.{key}"
        for key in ("inputs", "explicit_date_inputs", "explicit_datetime_inputs")
    ),
    "train_data.global_batch_size",
    "training.save_dir",
    "training.initial_checkpoint_dir",
    "training.objective",
    "training.sharding",
    "training.compile",
    "training.gradient_accumulation",
    "training.gradient_clip_norm",
    "optimizer",
)
ADDED = re.compile(r"\+validation_data\.(\w+)[=.]")
# overrides that leave the metrics of the run's own partitions what they are
NEUTRAL = re.compile(
    r"(run|checkpoint|follow|tracking|[+]?tracking\.\w+)=|~validation_data\.\w+$|"
    r"training\.(?!num_eval_steps|precision|tf32|sampling_correction)[\w.]+=|" + ADDED.pattern
)


class LastStepNotReached(CompactHydraException):
    """No further checkpoint came in time."""


def evaluate_run(cfg: DictConfig, overrides: Sequence[str] = ()) -> Results:
    """Evaluates and tracks the checkpoint or checkpoints that ``cfg`` names; returns the last ones.

    ``overrides`` are those of the command line. Metrics are recorded in the run at the checkpoint's
    step, under the names that training uses, unless the run has them already. Two kinds are only
    shown: those of a step that training itself evaluates, and, where an override changes what is
    measured, all but those of partitions that were added.

    Raises:
        Stopped: after Ctrl-C, SIGTERM or a scheduler's signal.
        Refused: a run that is not there, has no such checkpoint or another architecture, and what
            ``recap.experiment.assemble`` finds.
        LastStepNotReached: while following, ``training.eval_timeout_in_s`` passed without a
            checkpoint.
        DataError, CheckpointError: damaged files.
    """
    if OmegaConf.is_missing(cfg, "run"):
        raise Refused([NO_RUN])
    with connected(cfg) as ranks, preemptible(ranks), stop_signals() as signals:
        return _evaluate_run(cfg, overrides, ranks, signals)


def _evaluate_run(
    cfg: DictConfig, overrides: Sequence[str], ranks: Ranks, signals: Sequence[int]
) -> Results:
    parts, faults = _assembled(cfg, ranks=ranks)
    refuse_together(faults, ranks)
    assert parts.training is not None
    assert parts.ranker is not None
    parts.optimizer = None  # its moments need not take room
    parts.ranker.to(parts.training.torch_device)  # whole, also where training splits tables
    torch.backends.cuda.matmul.allow_tf32 = parts.training.tf32
    run_dir = Path(cfg.run).absolute()
    results: Results = {}
    checkpoints = _checkpoints(run_dir, cfg.checkpoint, cfg.follow, parts)
    for step, folder in _everywhere(checkpoints, ranks, signals):
        if not (measured := _measured(folder, parts, ranks, signals)):
            continue
        results = measured
        log.info("\n%s, step %d\n\n%s\n", run_dir, step, metrics_table(shown(results)))
        with ranks.together():
            if ranks.first:
                _record(run_dir, step, results, parts, overrides)
    return results


def _everywhere(
    checkpoints: Iterator[tuple[int, Path] | None], ranks: Ranks, signals: Sequence[int]
) -> Iterator[tuple[int, Path]]:
    """What rank 0 finds, on all ranks; None is a sign that it is still looking.

    Raises:
        Stopped: a signal came to any rank.
    """
    there = True
    while there:
        found = None
        if came := ranks.most(max(signals, default=0)):
            raise Stopped(came)
        with ranks.together():
            if ranks.first:
                there, found = next(((True, found) for found in checkpoints), (False, None))
        there, found = ranks.told((there, found))
        if found is not None:
            yield found


OWN_KEYS = ("run", "checkpoint", "follow")


NO_RUN = "run: missing; name the folder of a run, run=runs/…"


def _assembled(
    cfg: DictConfig, num_ranks: int | None = None, ranks: Ranks = ALONE
) -> tuple[Parts, list[str]]:
    own = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key not in OWN_KEYS])
    parts = assemble(own, num_ranks, ranks)
    faults = [*_faults(cfg), *(f for f in parts.faults if not any_at([f], *ASIDE))]
    return parts, faults or (parts.faults if parts.ranker is None else [])


def faults_of(cfg: DictConfig, num_ranks: int) -> list[str]:
    """What is wrong with the command, for so many ranks on machines with other devices."""
    if OmegaConf.is_missing(cfg, "run"):
        return [NO_RUN]
    return told_once(_assembled(for_other_devices(cfg), num_ranks)[1])


def _faults(cfg: DictConfig) -> Iterator[str]:
    if not isinstance(cfg.follow, bool):
        yield f"follow={cfg.follow}: must be true or false"
    named = cfg.checkpoint
    if named != "latest" and (not isinstance(named, int) or isinstance(named, bool) or named < 0):
        yield f"checkpoint={named}: must be latest or a step"
    elif cfg.follow is not True:
        there = checkpoint.by_step(Path(cfg.run))
        if named == "latest" and not there:
            yield f"run={cfg.run}: it has no checkpoint yet; follow=true waits for one"
        elif named != "latest" and named not in there:
            steps = ", ".join(map(str, there)) or "none"
            yield f"checkpoint={named}: the run has no checkpoint of this step; there is {steps}"


def _checkpoints(
    run_dir: Path, named: str | int, follow: bool, parts: Parts
) -> Iterator[tuple[int, Path] | None]:
    """Each checkpoint to evaluate with its step, as it appears; None while none does."""
    assert parts.training is not None
    there = checkpoint.by_step(run_dir)
    first = max(there, default=0) if isinstance(named, str) else named
    if not follow:
        yield first, there[first]
        return
    done, last = first - 1, max(first, parts.training.num_train_steps)
    timeout_s, waiting_since = parts.training.eval_timeout_in_s, time.monotonic()
    while done < last:
        if newer := {s: path for s, path in checkpoint.by_step(run_dir).items() if s > done}:
            done = min(newer)
            yield done, newer[done]
            waiting_since = time.monotonic()
        elif time.monotonic() - waiting_since >= timeout_s:
            raise LastStepNotReached(
                f"{run_dir}: no further checkpoint came within "
                f"training.eval_timeout_in_s={timeout_s}; the last one is of step "
                f"{max(there | checkpoint.by_step(run_dir), default='none')} of {last}"
            )
        else:
            time.sleep(POLL_S)
            yield None


def _measured(folder: Path, parts: Parts, ranks: Ranks, signals: Sequence[int]) -> Results | None:
    """The metrics of a checkpoint; None if it was pruned before, empty if a signal came."""
    assert parts.ranker is not None
    assert parts.training is not None
    weights = None
    with ranks.together():
        try:
            weights = checkpoint.weights(folder)
        except checkpoint.CheckpointError:
            if folder.exists():
                raise
            log.info("%s was removed before it could be read", folder)
    if ranks.most(int(weights is None)):
        return None
    assert weights is not None
    try:
        checkpoint.restore_model(weights, parts.ranker)
    except checkpoint.CheckpointError as error:
        raise Refused([f"{folder}: {error}"]) from error
    return evaluate(parts.ranker, parts.validation_data, parts.training, signals, ranks)


def _record(
    run_dir: Path, step: int, results: Results, parts: Parts, overrides: Sequence[str]
) -> None:
    assert parts.tracker is not None
    assert parts.training is not None
    added = {match[1] for override in overrides if (match := ADDED.match(override))}
    changing = [override for override in overrides if not NEUTRAL.match(override)]
    by_training = parts.training.evaluates_at(step)
    if changing:
        log.info("%s: only partitions that are added are recorded", ", ".join(changing))
    elif by_training:
        log.info("step %d is one that training evaluates and records itself", step)
    recorded = {
        partition: rows
        for partition, rows in results.items()
        if partition.split("/")[0] in added or not (changing or by_training)
    }
    if recorded:
        with parts.tracker.join(run_dir) as run:
            run.log(step, flat(recorded))
