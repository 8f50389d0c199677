"""What a run saves of itself on the way."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import recap
from recap.checkpoint import Checkpoints, training_state
from recap.compose.run_config import CONFIG_FILE
from recap.experiment import Experiment
from recap.run.margin import Margin
from recap.run.start import DATA, LONGEST_STEP, Place
from recap.tracking import Run
from recap.tracking.provenance import checkout, metadata_version


def save(
    experiment: Experiment, run: Run, at: Place, checkpoints: Checkpoints, margin: Margin
) -> None:
    """Begins to write the checkpoint of the place, and before it what was logged."""
    longest = {LONGEST_STEP: round(margin.longest_step_s, 3)}
    about = {**_about(), **longest, DATA: experiment.train_data.fingerprint}
    # what is logged up to here will not be logged again after a resume
    checkpoints.save(at.step, state(experiment, at), about=about, before=run.flush)


def state(experiment: Experiment, at: Place) -> dict[str, Any]:
    """What the run goes on from, see ``recap.checkpoint.training_state``."""
    return training_state(
        experiment.ranker, experiment.optimizer, step=at.step, position=at.position
    )


@cache
def _about() -> dict[str, str]:
    """What a checkpoint's manifest tells of the run that is no state of it."""
    versions = {f"version.{name}": metadata_version(name) for name in ("recap", "torchrec")}
    return {"config": CONFIG_FILE, **versions, **checkout(Path(recap.__file__).parent)}
