"""The record of what was submitted together: ``submission.json`` in a folder of its own."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FILE = "submission.json"
JOBS = "jobs"  # the folder of a run or a sweep that holds one folder per submission
# submitit's signal handler, which requeues on rank 0 without saving, is kept from the warning: it
# listens to a signal that nobody sends
NO_HANDLER = {"SUBMITIT_PREEMPT_SIGNAL": "URG"}
PRUNED = {"checkpoints", "code", "mlruns", "mlartifacts", ".git", ".venv"}


@dataclass(frozen=True)
class Job:
    """One run that was queued."""

    id: str
    name: str
    run_dir: str


@dataclass(frozen=True)
class Submission:
    """Jobs that were submitted together, and all that running them needs beside their configs."""

    folder: Path
    launcher: str  # slurm or local
    module: str  # of the command that the jobs run
    function: str
    argv: list[str]  # the command line that submitted them
    cwd: str
    num_tasks: int
    jobs: list[Job] = field(default_factory=list)
    submitted: float = 0.0  # seconds since 1970
    code: str | None = None  # folder of the copy that jobs run from
    settings: Mapping[str, Any] = field(default_factory=dict)

    def config_file(self, index: int) -> Path:
        """The frozen config of a job."""
        return self.folder / f"{index}.yaml"

    def log_file(self, job_id: str, rank: int) -> Path:
        """What a rank of a job printed, and with rank 0 the batch script."""
        return self.folder / f"{job_id}_{rank}_log.out"

    def end_file(self, job_id: str, rank: int) -> Path:
        """How a rank of a job stands; see ``recap.launcher.ends``."""
        return self.folder / f"{job_id}_{rank}.json"

    def write(self) -> None:
        """Keeps the record; a crash leaves the old one or the new."""
        facts = asdict(self) | {"folder": str(self.folder)}
        write_json(self.folder / FILE, facts)


def new_folder(place: Path) -> Path:
    """A new, empty folder for a submission below the folder of a run or of a sweep."""
    jobs = place / JOBS
    jobs.mkdir(parents=True, exist_ok=True)
    number = 1 + max((int(path.name) for path in jobs.iterdir() if path.name.isdigit()), default=0)
    while True:  # until no other submission takes the number at the same time
        try:
            folder = jobs / f"{number:04d}"
            folder.mkdir(mode=0o700)
            return folder
        except FileExistsError:
            number += 1


def read_submission(folder: Path) -> Submission:
    """The record in a submission's folder, wherever that was moved."""
    facts = json.loads((folder / FILE).read_text())
    jobs = [Job(**job) for job in facts["jobs"]]
    return Submission(**(facts | {"folder": folder, "jobs": jobs}))


def submissions(root: Path) -> Iterator[Submission]:
    """All submissions of the runs below ``root``, in the order of their folders."""
    for folder, names, files in os.walk(root):
        if Path(folder).parent.name == JOBS and FILE in files:
            names.clear()
            yield read_submission(Path(folder))
        else:
            names[:] = sorted(name for name in names if name not in PRUNED)


def submissions_of(place: Path) -> Iterator[Submission]:
    """Those that were made for the very run or sweep in a folder, in their order."""
    for record in sorted((place / JOBS).glob(f"*/{FILE}")):
        yield read_submission(record.parent)


def write_json(path: Path, facts: Any) -> None:
    """Writes a small file that others may read at any time."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    aside.write_text(json.dumps(facts, indent=1))
    aside.replace(path)


def now() -> float:
    """Seconds since 1970."""
    return time.time()
