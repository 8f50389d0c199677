"""The training loop: one update after another, and what is due between them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

import recap
from recap.batch import Batch
from recap.checkpoint import Checkpoints, training_state
from recap.compose.run_config import CONFIG_FILE
from recap.console import Progress
from recap.distributed import Ranks, refuse_failures
from recap.evaluate import Results, evaluate, flat, objective
from recap.experiment import Experiment
from recap.optimizer import set_learning_rates
from recap.run.divergence import LossWindow, refuse_divergence
from recap.run.margin import Margin
from recap.run.parallel import unsynchronised
from recap.run.split import clip
from recap.run.start import DATA, LONGEST_STEP, Place
from recap.search.trial import Pruning
from recap.signals import Stopped, stop_signals
from recap.tracking import Run
from recap.tracking.provenance import checkout, metadata_version

log = logging.getLogger(__name__)

FAILED = 1000  # above every signal's number: a rank could not read its part of a batch

FEWEST_ROWS = 2  # of a batch that lost rows: a batch norm cannot train on one

# with the position in the data behind each, and this rank's rows over the mean of all ranks'
MicroBatches = list[tuple[Batch, int, float]]


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
        closing(_batches(experiment, at.position)) as batches,
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
            micro_batches, failure = _next(batches, experiment)
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
            rates = set_learning_rates(optimizer, at.step)
            _seed(training.seed, at.step, ranks)
            for batch, at.position, share in micro_batches:
                last = at.position == micro_batches[-1][1]
                with unsynchronised(experiment.parallel, when=not last):
                    window.add(_backward(experiment, batch, share))
            norm = _clip(experiment)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            at.step += 1
            if at.step == started + 1:
                checkpoints.prepare(_state(experiment, at))
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
            if save_due:
                with progress.aside():
                    save(experiment, run, at, checkpoints, margin)


def save(
    experiment: Experiment, run: Run, at: Place, checkpoints: Checkpoints, margin: Margin
) -> None:
    """Begins to write the checkpoint of the place, and writes what was logged before it."""
    run.flush()  # what is logged up to here will not be logged again after a resume
    longest = {LONGEST_STEP: round(margin.longest_step_s, 3)}
    about = {**_about(), **longest, DATA: experiment.train_data.fingerprint}
    checkpoints.save(at.step, _state(experiment, at), about=about)


def _state(experiment: Experiment, at: Place) -> dict[str, Any]:
    return training_state(
        experiment.ranker, experiment.optimizer, step=at.step, position=at.position
    )


@cache
def _about() -> dict[str, str]:
    """What a checkpoint's manifest tells of the run that is no state of it."""
    versions = {f"version.{name}": metadata_version(name) for name in ("recap", "torchrec")}
    return {"config": CONFIG_FILE, **versions, **checkout(Path(recap.__file__).parent)}


def _leave(reason: int, failure: Exception | None, ranks: Ranks, step: int) -> None:
    """Raises on every rank what ends the run."""
    if reason < FAILED:
        raise Stopped(reason, step)
    failures = ranks.gathered(None if failure is None else str(failure))
    if failure is not None:
        raise failure
    refuse_failures(failures)


def _batches(experiment: Experiment, position: int) -> Generator[tuple[Batch, int]]:
    """This rank's part of every batch, without end."""
    training, ranks = experiment.training, experiment.ranks
    return experiment.train_data.batches(
        tasks=experiment.ranker.tasks,
        inputs=experiment.ranker.input_names,
        weighted=training.sampling_correction == "weights",
        shuffle_seed=training.seed,
        epochs=None,
        position=position,
        rank=ranks.rank,
        world_size=ranks.world_size,
        pin_memory=training.torch_device.type == "cuda",
    )


def _next(
    batches: Generator[tuple[Batch, int]], experiment: Experiment
) -> tuple[MicroBatches, Exception | None]:
    """The batches of an update, or what keeps them from being read: what a reader's thread raises.

    Where rows that cannot be read are ignored, a batch may have lost some on one rank only. Then
    all ranks weigh their parts, and leave out a batch with too few rows, as one rank would.
    """
    ranks, ignored = experiment.ranks, experiment.train_data.ignored
    number, found = experiment.training.micro_batches, []
    while len(found) < number:
        failure, lengths = None, [0] * (number - len(found))
        try:
            if ignored is not None:
                ignored.refuse_too_many()
            read = [next(batches) for _ in lengths]
        except Exception as error:  # to be told to the other ranks, who would wait, and raised then
            failure, read = error, []
        if ignored is None:
            return [(batch, position, 1.0) for batch, position in read], failure
        lengths[: len(read)] = [len(batch) for batch, _ in read]
        agreed = ranks.sum_(torch.tensor([*lengths, int(failure is not None)]))
        *rows, failures = agreed.tolist()
        if failures:
            return [], failure
        fewest = min(FEWEST_ROWS, experiment.train_data.global_batch_size)
        found += [
            (batch, position, len(batch) * ranks.world_size / n)
            for (batch, position), n in zip(read, rows, strict=True)
            if n >= fewest
        ]
        if len(found) < number:
            ignored.agree(ranks.gathered)
    return found, None


def _seed(seed: int, step: int, ranks: Ranks) -> None:
    """Draws of an update follow from these three: no random state outlives a step, or is saved."""
    sequence = np.random.SeedSequence((seed, step, ranks.rank))
    torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> 1))


def _backward(experiment: Experiment, batch: Batch, share: float) -> Tensor:
    """Adds a batch's gradients; returns [1 + T]: its loss and the loss of each task, detached."""
    training, ranks = experiment.training, experiment.ranks
    batch = batch.to(training.torch_device, non_blocking=True)
    with training.autocast():
        logits = experiment.parallel(batch)
    mean: Callable[[Tensor], Tensor] | None = ranks.mean if ranks.world_size > 1 else None
    total, per_task = experiment.loss(
        logits, batch.labels, batch.weights, share=share, mean_over_ranks=mean
    )
    (total / training.micro_batches).backward()
    return torch.cat([total.detach().reshape(1), per_task.detach()])


def _clip(experiment: Experiment) -> dict[str, Tensor]:
    """Clips the gradients if the config says so; returns their norm before that."""
    if (limit := experiment.training.gradient_clip_norm) is None:
        return {}
    ranker = experiment.ranker
    if experiment.tables:
        norm = clip(ranker, experiment.optimizer, experiment.tables, limit)
    else:
        norm = clip_grad_norm_(ranker.parameters(), limit)
    return {"gradient_norm": norm}


def _ignored_rows(experiment: Experiment) -> dict[str, float]:
    """How many rows all ranks have left out so far, where the data set allows it."""
    if (ignored := experiment.train_data.ignored) is None:
        return {}
    ignored.agree(experiment.ranks.gathered)
    return {"data/ignored_rows": ignored.rows}


def _named(prefix: str, values: dict[str, float]) -> dict[str, float]:
    return {f"{prefix}/{name}": value for name, value in values.items()}
