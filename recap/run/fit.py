"""The training loop: one update after another, and what is due between them."""

from __future__ import annotations

import gc
import logging
import time
from contextlib import closing

from recap.allocator import keep_freed
from recap.checkpoint import Checkpoints
from recap.console import Progress
from recap.distributed import Ranks, refuse_failures
from recap.evaluation import Results, evaluate, flat, objective
from recap.experiment import Experiment
from recap.run.divergence import LossWindow, refuse_divergence
from recap.run.margin import Margin
from recap.run.reading import batches_from, next_batches
from recap.run.saving import save, state
from recap.run.start import Place
from recap.run.update import update
from recap.search.trial import Pruning
from recap.signals import Stopped, stop_signals
from recap.tracking import Run

log = logging.getLogger(__name__)

FAILED = 1000  # above every signal's number: a rank could not read its part of a batch


def fit(
    experiment: Experiment,
    run: Run,
    progress: Progress,
    at: Place,
    margin: Margin,
    pruning: Pruning | None = None,
) -> Results:
    """The training loop, from ``at`` to the last step; returns the last evaluation.

    ``margin`` is told how long steps and saves take.

    Raises:
        Stopped: a signal came to any rank; all have saved the same step.
        DataError, OtherRankFailed: a rank cannot read its data; all have saved, too.
        Diverged, CheckpointError, Pruned: on all ranks.
    """
    training, ranker, optimizer = experiment.training, experiment.ranker, experiment.optimizer
    ranks, window = experiment.ranks, LossWindow(ranker.tasks, at.step, experiment.ranks)
    results: Results = {}
    started, rates, norm = at.step, {}, {}

    def due(every: int) -> bool:
        return at.step >= training.num_train_steps or (at.step > 0 and at.step % every == 0)

    def report(*, at_cadence: bool) -> None:
        losses = window.close(at.step, rates, checkpoints)
        told = {**losses, **_named("lr", rates), **_ignored_rows(experiment)}
        if at_cadence:
            told["examples_per_s"] = progress.report(losses["loss"])
            norm.update(ranker.embedding_norms())
        run.log(at.step, told | {name: tensor.item() for name, tensor in norm.items()})

    ranker.train()
    with (
        closing(batches_from(experiment, at.position)) as batches,
        stop_signals() as signals,
        Checkpoints(
            experiment.save_dir, ranks.group(), training.checkpoint_max_to_keep
        ) as checkpoints,
    ):
        while True:
            ranks.at(at.step)
            # behind the save, and first after a restart: what ends it costs no step and no metric
            if training.evaluates_at(at.step):
                with progress.aside():
                    data = experiment.validation_data
                    results = evaluate(ranker, data, training, signals, ranks)
                run.log(at.step, flat(results))
                # nothing is known of an evaluation that a signal ended
                if pruning is not None and results and at.step < training.num_train_steps:
                    pruning.refuse(objective(results, str(training.objective)), at.step)
            if at.step >= training.num_train_steps and not ranks.most(max(signals, default=0)):
                return results
            # all of them first: what cannot be read must not leave half an update behind
            began = time.monotonic()
            micro_batches, failure = next_batches(batches, experiment)
            if reason := ranks.most(FAILED if failure else max(signals, default=0)):
                if at.step > started:
                    if window.is_open:
                        report(at_cadence=False)
                    refuse_divergence(optimizer, at.step, checkpoints, ranks)
                if at.step > started or reason < FAILED:
                    save(experiment, run, at, checkpoints, margin)
                    checkpoints.wait()
                    log.info("step %d is saved in %s", at.step, experiment.save_dir)
                _leave(reason, failure, ranks, at.step)
            rates, norm = update(experiment, micro_batches, at.step, window)
            at.step, at.position = at.step + 1, micro_batches[-1][1]
            progress.advance(training.micro_batches * experiment.train_data.global_batch_size)

            log_due, save_due = due(training.train_log_every_n), due(training.checkpoint_every_n)
            evaluate_due = training.evaluates_at(at.step)
            if log_due or evaluate_due or save_due:
                report(at_cadence=log_due)
            if evaluate_due or save_due:
                refuse_divergence(optimizer, at.step, checkpoints, ranks)
            margin.stepped(time.monotonic() - began)
            if (took := checkpoints.seconds) is not None:
                margin.saved(took.staged + took.written)
            if at.step == started + 1:
                with progress.aside():
                    with ranks.together():  # what keeps the run from being recorded ends it here
                        run.flush()
                    checkpoints.prepare(state(experiment, at))
                    keep_freed()
                    gc.enable()  # the command starts without, see recap.train
            if save_due:
                with progress.aside():
                    save(experiment, run, at, checkpoints, margin)


def _leave(reason: int, failure: Exception | None, ranks: Ranks, step: int) -> None:
    """Raises on every rank what ends the run."""
    if reason < FAILED:
        raise Stopped(reason, step)
    failures = ranks.gathered(None if failure is None else str(failure))
    if failure is not None:
        raise failure
    refuse_failures(failures)


def _ignored_rows(experiment: Experiment) -> dict[str, float]:
    """How many rows all ranks have left out so far, where the data set allows it."""
    if (ignored := experiment.train_data.ignored) is None:
        return {}
    ignored.agree(experiment.ranks.gathered)
    return {"data/ignored_rows": ignored.rows}


def _named(prefix: str, values: dict[str, float]) -> dict[str, float]:
    return {f"{prefix}/{name}": value for name, value in values.items()}
