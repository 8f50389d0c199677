"""What a run came to, kept in its folder: ``outcome.json``.

Written when a run ends and removed when it goes on, so that a run without one has not ended, or was
killed. Sweeps and launchers tell by it which runs are missing.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

OUTCOME_FILE = "outcome.json"
Status = Literal["finished", "failed", "not finite", "pruned", "stopped"]
# what does not decide what a run comes to: where it writes
_ASIDE = (("hydra",), ("tracking",), ("training", "save_dir"))


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run came to.

    Args:
        status: "finished" – at its last step; "failed" – by an error; "not finite" – a loss or a
            weight became no number; "pruned" – told to end by a search; "stopped" – by a signal.
        config: ``digest`` of the config that it ran with.
        step: updates done; None where none were begun.
        objective: value of ``training.objective``; None without one.
        message: of the failure, or why the objective is no number; empty where there is none.
    """

    status: Status
    config: str
    step: int | None = None
    objective: float | None = None
    message: str = ""


def write(run_dir: Path, outcome: Outcome) -> None:
    """Keeps the outcome in the run's folder; a crash leaves the old file or the new."""
    # JSON has no nan: as a string it is read by anything
    objective = None if outcome.objective is None else repr(float(outcome.objective))
    aside = run_dir / f".{OUTCOME_FILE}.tmp"
    with aside.open("w") as file:
        json.dump({**vars(outcome), "objective": objective}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(run_dir / OUTCOME_FILE)


def read(run_dir: Path) -> Outcome | None:
    """The outcome of the run in the folder; None where there is none yet."""
    try:
        kept = json.loads((run_dir / OUTCOME_FILE).read_text())
        if kept["status"] not in get_args(Status):
            return None
        if kept["objective"] is not None:
            kept["objective"] = float(kept["objective"])
        return Outcome(**kept)
    except (OSError, ValueError, TypeError, KeyError):  # what cannot be read is run again
        return None


def remove(run_dir: Path) -> None:
    """Takes the outcome out of a run's folder, as the run goes on."""
    (run_dir / OUTCOME_FILE).unlink(missing_ok=True)


def status_of(error: BaseException | None) -> Status:
    """What a run came to that ended with this error, None for none.

    An error that is another outcome than a failure says so by an attribute, ``outcome``.
    """
    if error is None:
        return "finished"
    if isinstance(error, KeyboardInterrupt | SystemExit):
        return "stopped"
    return getattr(error, "outcome", "failed")


def message_of(error: BaseException) -> str:
    """The error as it is told: by its message, with its kind where that is not made for users."""
    ours = type(error).__module__.split(".")[0] in ("recap", "hydra")
    return str(error) if ours else f"{type(error).__name__}: {error}"


def digest(config: Mapping[str, Any]) -> str:
    """SHA-256 of a resolved config without what only says where to write; in hexadecimal."""
    plain = json.loads(json.dumps(config, default=str))
    for *sections, key in _ASIDE:
        place = plain
        for section in sections:
            place = place.get(section) or {}
        place.pop(key, None)
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
