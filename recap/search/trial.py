"""A run's side of a search: tells the study what it measures, and learns whether to go on.

The search leaves ``trial.json`` in the run's folder, so any process that trains there, on whatever
machine and after whatever restart, finds its trial in the study's journal.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.errors import CompactHydraException

if TYPE_CHECKING:
    import optuna

    from recap.distributed import Ranks

TRIAL_FILE = "trial.json"


class Pruned(CompactHydraException):
    """A run that its search has ended early: others were better at this step."""

    outcome = "pruned"


class Pruning:
    """What a study says to a run at its evaluations; rank 0 asks, all ranks hear it.

    Args:
        trial: that the run is; None on the other ranks.
        ranks: of the run.
    """

    def __init__(self, trial: optuna.Trial | None, ranks: Ranks) -> None:
        self._trial, self._ranks = trial, ranks

    def refuse(self, value: float, step: int) -> None:
        """Tells the study what the objective has come to.

        A step that was told before, as before a restart, keeps its value.

        Raises:
            Pruned: the study has the run end here; on all ranks.
        """
        ends = False
        with self._ranks.together():
            if self._trial is not None:
                stored = self._trial.storage.get_trial(self._trial._trial_id)
                if step not in stored.intermediate_values and math.isfinite(value):
                    self._trial.report(value, step)
                ends = self._trial.should_prune()
        if self._ranks.most(int(ends)):
            raise Pruned(f"pruned at step {step}, where the objective was {value:.5f}")


def write_trial(
    run_dir: Path, *, journal: Path, study: str, trial_id: int, pruner: Mapping[str, Any]
) -> None:
    """Leaves in a run's folder which trial it is; a crash leaves no file or all of it."""
    run_dir.mkdir(parents=True, exist_ok=True)
    about = {
        # the folders may be moved together, or be mounted elsewhere
        "journal": os.path.relpath(journal, run_dir),
        "study": study,
        "trial_id": trial_id,
        "pruner": dict(pruner),
    }
    aside = run_dir / f".{TRIAL_FILE}.tmp"
    aside.write_text(json.dumps(about))
    aside.replace(run_dir / TRIAL_FILE)


def pruning_of(run_dir: Path, ranks: Ranks) -> Pruning | None:
    """Whom the run in this folder reports to; None for one of no search, or of one that is over.

    Raises:
        ValueError: the journal that the folder names is not there.
    """
    with ranks.together():
        trial = _trial(run_dir) if ranks.first else None
    return Pruning(trial, ranks) if ranks.most(int(trial is not None)) else None


def _trial(run_dir: Path) -> optuna.Trial | None:
    try:
        about = json.loads((run_dir / TRIAL_FILE).read_text())
    except FileNotFoundError:
        return None
    from recap.search.study import opened, trial_of  # imports optuna, which takes half a second

    journal = run_dir / about["journal"]
    if not journal.exists():
        raise ValueError(
            f"{run_dir / TRIAL_FILE}: its study {journal} is not there; without {TRIAL_FILE} the "
            "run trains on its own"
        )
    study = opened(journal, about["study"], pruner=about["pruner"])
    return trial_of(study, about["trial_id"])
