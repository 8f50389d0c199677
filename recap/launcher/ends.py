"""How the ranks of a job stand, each in a file of its own beside the logs.

submitit keeps a result of rank 0 that counts for the whole job, and none of a rank that exits by
itself. Here every rank says that it started, and how it ended unless it was killed.
"""

from __future__ import annotations

import json
import math
import os
import platform
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recap.launcher.submission import Submission, now, write_json

RUNNING, DONE, FAILED = "running", "done", "failed"
TOLD_TO_END = 128 + signal.SIGTERM  # exit code


@dataclass(frozen=True)
class End:
    """How a rank stands."""

    state: str  # running also where it was killed: it could not say so
    host: str
    started: float
    ended: float | None = None
    value: Any = None  # what the command returned
    error: str | None = None
    exit_code: int | None = None


@dataclass(frozen=True)
class Task:
    """A process of a job."""

    job_id: str
    rank: int


def this_task() -> Task:
    """This process, started by submitit."""
    import submitit

    environment = submitit.JobEnvironment()
    return Task(environment.job_id, environment.global_rank)


@contextmanager
def recorded(path: Path) -> Iterator[list[Any]]:
    """Records in ``path`` that a rank runs and how it ends; the list's item is what it returns.

    What an earlier attempt of a queued-again job left there is gone.
    """
    about = {"host": platform.node(), "pid": os.getpid(), "started": now()}
    write_json(path, {**about, "state": RUNNING})
    value: list[Any] = [None]

    def ended(state: str, **facts: Any) -> None:
        write_json(path, {**about, "state": state, "ended": now(), **facts})

    try:
        yield value
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else int(left.code is not None)
        if code == 0:
            ended(DONE, exit_code=0)
        else:
            ended(FAILED, exit_code=code, error=f"exit code {code}")
        raise
    except BaseException as error:
        told = str(error).strip() or type(error).__name__
        plain = type(error).__name__ in ("Refused", "CompactHydraException")
        ended(FAILED, exit_code=1, error=told if plain else f"{type(error).__name__}: {told}")
        raise
    ended(DONE, exit_code=0, value=value[0] if _is_plain(value[0]) else str(value[0]))


def ends(submission: Submission, job_id: str) -> dict[int, End]:
    """Rank → how it stands, of the ranks that have started."""
    found = {}
    for rank in range(submission.num_tasks):
        try:
            facts = json.loads(submission.end_file(job_id, rank).read_text())
        except FileNotFoundError:
            continue
        facts.pop("pid")
        found[rank] = End(**facts)
    return found


def failure(found: Mapping[int, End]) -> tuple[int, str] | None:
    """The rank that a job which is over failed by, and what it said; None where none did.

    The first that failed by itself; else one that was killed; else one that was told to end.
    """
    failed = {rank: end for rank, end in found.items() if end.state == FAILED}
    by_itself = {rank: end for rank, end in failed.items() if end.exit_code != TOLD_TO_END}
    killed = [rank for rank, end in found.items() if end.state == RUNNING]
    if not by_itself and killed:
        return killed[0], "it was killed, or its node was lost: it has not said how it ended"
    first = min(by_itself or failed, key=lambda rank: failed[rank].ended or math.inf, default=None)
    return None if first is None else (first, failed[first].error or "")


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)
