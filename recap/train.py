"""``python -m recap.train``: trains the ranker that a composed config describes.

Started again in the same run directory, it continues the run: same weights, same order of rows.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from recap import checkpoint
from recap.batch import Batch
from recap.compose import Refused, hydra_command
from recap.console import Progress, metrics_table
from recap.data.files import DataError
from recap.data.parquet import ParquetData
from recap.divergence import LossWindow, refuse_divergence
from recap.evaluate import Results, evaluate, flat, objective, shown, undefined
from recap.experiment import Experiment, prepare
from recap.optimizer import set_learning_rates
from recap.run_config import write_config
from recap.signals import Stopped, stop_signals
from recap.tracking import Run
from recap.tracking.provenance import without_passwords
from recap.warm_start import initial_weights
from recap.weight_files import WeightFileError

log = logging.getLogger(__name__)


@dataclass
class Place:
    """Where a run stands: all that the loop changes beside the weights and the moments."""

    step: int  # updates done
    position: int  # rows read, see ParquetData.batches


def train(cfg: DictConfig) -> float | None:
    """Trains, evaluates and tracks; returns the metric that ``training.objective`` names.

    Raises:
        Refused: see ``recap.experiment.prepare``; also a run directory of another architecture, or
            one that another process trains in.
        Diverged, DataError, CheckpointError: what only shows while training; a checkpoint of an
            earlier step is in place.
        Stopped: after Ctrl-C or SIGTERM, with a checkpoint of the step it came in.
    """
    experiment = prepare(cfg)
    with _alone_in(experiment.save_dir):
        return _train(experiment, cfg)


def _train(experiment: Experiment, cfg: DictConfig) -> float | None:
    training, ranker = experiment.training, experiment.ranker
    torch.backends.cuda.matmul.allow_tf32 = training.tf32
    at = _start(experiment)
    try:
        write_config(experiment.save_dir, without_passwords(OmegaConf.to_yaml(cfg)))
    except OSError as error:
        raise Refused([f"training.save_dir={experiment.save_dir}: {error}"]) from error
    log.info(
        "%s: %d tasks, %s parameters on %s, %s rows in %d files, steps %d to %d",
        experiment.save_dir,
        len(ranker.tasks),
        f"{sum(p.numel() for p in ranker.parameters()):,}",
        training.torch_device,
        f"{experiment.train_data.num_rows:,}",
        len(experiment.train_data.sources),
        at.step,
        training.num_train_steps,
    )
    with (
        experiment.tracker.run(
            experiment.save_dir,
            overrides=_overrides(),
            config_yaml=OmegaConf.to_yaml(cfg, resolve=True),
            name=experiment.save_dir.name,
            parent=_sweep_dir(),
            resume_step=at.step,
        ) as run,
        Progress(training.num_train_steps, first_step=at.step) as progress,
    ):
        results = fit(experiment, run, progress, at)
        value = None
        if training.objective is not None:
            value = objective(results, training.objective)
            run.log(at.step, {"objective": value})
    log.info("\n%s\n", metrics_table(shown(results)))
    if value is not None:
        why = undefined(results, str(training.objective))
        log.info("objective %s: %.5f%s", training.objective, value, f": {why}" if why else "")
    log.info("run: %s", experiment.save_dir)
    if run.view:
        log.info("look at it: %s", run.view)
    return value


def fit(experiment: Experiment, run: Run, progress: Progress, at: Place) -> Results:
    """The training loop, from ``at`` to the last step; returns the last evaluation."""
    training, ranker, optimizer = experiment.training, experiment.ranker, experiment.optimizer
    window = LossWindow(ranker.tasks, at.step)
    results: Results = {}
    stop = False

    def due(every: int) -> bool:
        return at.step >= training.num_train_steps or (at.step > 0 and at.step % every == 0)

    ranker.train()
    with (
        closing(_batches(experiment, at.position)) as batches,
        stop_signals() as signals,
        _saved_on_data_error(experiment, run, at),
    ):
        while True:
            # behind the save, and first after a restart: what ends it costs no step and no metric
            if training.evaluates_at(at.step) and not stop:
                with progress.aside():
                    results = evaluate(ranker, experiment.validation_data, training, signals)
                run.log(at.step, flat(results))
                if signals:
                    stop = True
                    _save(experiment, run, at)
            if stop or at.step >= training.num_train_steps:
                break
            rates = set_learning_rates(optimizer, at.step)
            # all of them first: what cannot be read must not leave half an update behind
            micro_batches = [next(batches) for _ in range(training.micro_batches)]
            for batch, _ in micro_batches:
                window.add(_backward(experiment, batch))
            norm = _clip(experiment)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            at.step, at.position = at.step + 1, micro_batches[-1][1]
            progress.advance(training.micro_batches * experiment.train_data.global_batch_size)

            stop = bool(signals)
            log_due = due(training.train_log_every_n)
            evaluate_due = training.evaluates_at(at.step)
            save_due = due(training.checkpoint_every_n) or stop
            if log_due or evaluate_due or save_due:
                losses = window.close(at.step, rates, experiment.save_dir)
                speed = {"examples_per_s": progress.report(losses["loss"])} if log_due else {}
                norms = _values(norm | (ranker.embedding_norms() if log_due else {}))
                ignored = _ignored_rows(experiment.train_data)
                run.log(at.step, {**losses, **_named("lr", rates), **norms, **speed, **ignored})
            if evaluate_due or save_due:
                refuse_divergence(optimizer, at.step, experiment.save_dir)
            if save_due:
                with progress.aside():
                    _save(experiment, run, at)
    if stop:
        raise Stopped(signals[0], at.step)
    return results


@contextmanager
def _alone_in(save_dir: Path) -> Iterator[None]:
    """Two processes in one folder would each continue from what the other saves.

    Raises:
        Refused: another one is in it. A killed process is in no folder: the system frees its lock.
    """
    save_dir.mkdir(parents=True, exist_ok=True)
    lock = FileLock(save_dir / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise Refused(
            [
                f"training.save_dir={save_dir}: another process is training in this folder; "
                "wait for its end, or name another folder as training.save_dir"
            ]
        ) from error
    try:
        yield
    finally:
        lock.release()


def _start(experiment: Experiment) -> Place:
    """Where the run starts; see ``restored``, and what counts the data has counted it."""
    at = restored(experiment)
    if at is None:
        _observe(experiment)
        return Place(step=0, position=0)
    if at.step > 0:
        log.info("continuing %s after step %d", experiment.save_dir, at.step)
    return at


def restored(experiment: Experiment) -> Place | None:
    """Where the run stands, with its state restored: at its latest checkpoint, or else at step 0.

    The weights of step 0 are those of ``training.initial_checkpoint_dir``; None where there is
    neither, and the model is as it was built.

    Raises:
        Refused: a checkpoint that does not fit the model or the optimizer.
    """
    training, ranker = experiment.training, experiment.ranker
    latest = checkpoint.latest(experiment.save_dir)
    try:
        if latest is not None:
            state = checkpoint.load(latest)
            return Place(*checkpoint.restore_training(state, ranker, experiment.optimizer))
        if training.initial_checkpoint_dir is None:
            return None
        ranker.load_state_dict(initial_weights(training.initial_checkpoint_dir, ranker))
    except (checkpoint.CheckpointError, WeightFileError) as error:
        key = "save_dir" if latest is not None else "initial_checkpoint_dir"
        raise Refused([f"training.{key}={getattr(training, key)}: {error}"]) from error
    return Place(step=0, position=0)


def _observe(experiment: Experiment) -> None:
    """One pass over the training data for the inputs that count it."""
    if observers := experiment.ranker.observers():
        batches = experiment.train_data.batches(
            tasks=tuple(dict.fromkeys(task for layer in observers for task in layer.tasks)),
            inputs=set().union(*(layer.reads for layer in observers)),
            shuffle_seed=None,
            epochs=1,
        )
        with closing(batches):
            for batch, _ in batches:
                batch = batch.to(experiment.training.torch_device)
                for layer in observers:
                    layer.observe(batch)


def _batches(experiment: Experiment, position: int) -> Generator[tuple[Batch, int]]:
    training = experiment.training
    return experiment.train_data.batches(
        tasks=experiment.ranker.tasks,
        inputs=experiment.ranker.input_names,
        weighted=training.sampling_correction == "weights",
        shuffle_seed=training.seed,
        epochs=None,
        position=position,
        pin_memory=training.torch_device.type == "cuda",
    )


def _backward(experiment: Experiment, batch: Batch) -> Tensor:
    """Adds a batch's gradients; returns [1 + T]: its loss and the loss of each task, detached."""
    training = experiment.training
    batch = batch.to(training.torch_device, non_blocking=True)
    with training.autocast():
        logits = experiment.ranker(batch)
    total, per_task = experiment.loss(logits, batch.labels, batch.weights)
    (total / training.micro_batches).backward()
    return torch.cat([total.detach().reshape(1), per_task.detach()])


def _clip(experiment: Experiment) -> dict[str, Tensor]:
    """Clips the gradients if the config says so; returns their norm before that."""
    if (limit := experiment.training.gradient_clip_norm) is None:
        return {}
    return {"gradient_norm": clip_grad_norm_(experiment.ranker.parameters(), limit)}


def _save(experiment: Experiment, run: Run, at: Place) -> None:
    run.flush()  # what is logged up to here will not be logged again after a resume
    state = checkpoint.training_state(
        experiment.ranker, experiment.optimizer, step=at.step, position=at.position
    )
    keep = experiment.training.checkpoint_max_to_keep
    checkpoint.save(experiment.save_dir, step=at.step, state=state, max_to_keep=keep)


@contextmanager
def _saved_on_data_error(experiment: Experiment, run: Run, at: Place) -> Iterator[None]:
    """A data file that turns out damaged ends the run, but not without what was learned."""
    started = at.step
    try:
        yield
    except DataError:
        if at.step > started:
            refuse_divergence(experiment.optimizer, at.step, experiment.save_dir)
            _save(experiment, run, at)
            log.info("step %d is saved in %s", at.step, experiment.save_dir)
        raise


def _ignored_rows(data: ParquetData) -> dict[str, float]:
    """How many rows have been left out so far, where the data set allows it."""
    return {} if data.ignored is None else {"data/ignored_rows": data.ignored.rows}


def _values(tensors: dict[str, Tensor]) -> dict[str, float]:
    return {name: tensor.item() for name, tensor in tensors.items()}


def _named(prefix: str, values: dict[str, float]) -> dict[str, float]:
    return {f"{prefix}/{name}": value for name, value in values.items()}


def _overrides() -> list[str]:
    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def _sweep_dir() -> Path | None:
    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return None
    return Path(HydraConfig.get().sweep.dir).absolute()


@hydra_command("train")
def main(cfg: DictConfig) -> float | None:
    """The command; see ``train``. What a user can mend is printed without a trace."""
    try:
        return train(cfg)
    except (DataError, checkpoint.CheckpointError, ConnectionError) as error:
        raise CompactHydraException(str(error)) from error
    except Stopped as stopped:
        log.info("%s", stopped)
        raise SystemExit(stopped.exit_code) from None
    except KeyboardInterrupt:
        log.info("stopped at once; only what a checkpoint holds is kept")
        raise SystemExit(128 + signal.SIGINT) from None


if __name__ == "__main__":
    main()
