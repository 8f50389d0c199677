"""Where a run starts: at its latest checkpoint, from other weights, or anew."""

from __future__ import annotations

import logging
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from recap import checkpoint
from recap.compose import Refused
from recap.experiment import Experiment
from recap.run.warm_start import initial_weights
from recap.weight_files import WeightFileError

log = logging.getLogger(__name__)


# entries of a checkpoint's manifest beside the state
DATA = "data"  # stands for the data set
LONGEST_STEP = "longest_step_s"


@dataclass
class Place:
    """Where a run stands: all that the loop changes beside the weights and the moments."""

    step: int  # updates done
    position: int  # rows read by all ranks, see ParquetData.batches


def start(experiment: Experiment) -> Place:
    """Where the run starts; see ``restored``, and what counts the data has counted it."""
    at = restored(experiment, set_aside=True)
    if at is None:
        observe(experiment)
        return Place(step=0, position=0)
    if at.step > 0:
        log.info("continuing %s after step %d", experiment.save_dir, at.step)
    return at


def restored(experiment: Experiment, *, set_aside: bool = False) -> Place | None:
    """Where the run stands, with its state restored: at its latest checkpoint, or else at step 0.

    The weights of step 0 are those of ``training.initial_checkpoint_dir``; None where there is
    neither, and the model is as it was built. Damaged checkpoints are passed over and, with
    ``set_aside``, renamed.

    Raises:
        Refused: a checkpoint that does not fit the model or the optimizer, or all are damaged.
    """
    training, ranker = experiment.training, experiment.ranker
    key = "save_dir"
    try:
        sound = checkpoint.newest_sound(
            experiment.save_dir, experiment.ranks.world, set_aside=set_aside
        )
        if sound is not None:
            _compare_data(experiment, sound)
            return Place(*checkpoint.restore_training(sound, ranker, experiment.optimizer))
        key = "initial_checkpoint_dir"
        if training.initial_checkpoint_dir is None:
            return None
        ranker.load_state_dict(initial_weights(training.initial_checkpoint_dir, ranker))
    except (checkpoint.CheckpointError, WeightFileError) as error:
        raise Refused([f"training.{key}={getattr(training, key)}: {error}"]) from error
    return Place(step=0, position=0)


def _compare_data(experiment: Experiment, found: Path) -> None:
    """Tells that the place in the data means other rows than when it was saved."""
    before = checkpoint.read_manifest(found)["about"].get(DATA)
    if before != experiment.train_data.fingerprint and experiment.ranks.first:
        log.warning(
            "train_data has changed since %s: other files, rows of files or settings of their "
            "order; the run goes on at the same number of rows in the new order, so that of this "
            "epoch some rows come twice and others not at all",
            found.name,
        )


def pace(save_dir: Path) -> dict[str, float]:
    """Seconds of the longest step and of a save, as the run's latest checkpoint tells; 0 if not."""
    latest = checkpoint.latest(save_dir)
    told = {} if latest is None else checkpoint.read_manifest(latest)
    return {
        "longest_step_s": told.get(LONGEST_STEP, 0.0),
        "save_s": sum(told.get("seconds", {}).values()),
    }


def observe(experiment: Experiment) -> None:
    """One pass over the training data for the inputs that count it, each rank its part."""
    ranks = experiment.ranks
    if observers := experiment.ranker.observers():
        batches = experiment.train_data.batches(
            tasks=tuple(dict.fromkeys(task for layer in observers for task in layer.tasks)),
            inputs=set().union(*(layer.reads for layer in observers)),
            shuffle_seed=None,
            epochs=1,
            rank=ranks.rank,
            world_size=ranks.world_size,
        )
        with closing(batches):
            for batch, _ in ranks.in_step(batches):
                batch = batch.to(experiment.training.torch_device)
                for layer in observers:
                    layer.observe(batch)
        for layer in observers:
            for counted in layer.counted():
                ranks.sum_(counted)
