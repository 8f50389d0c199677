"""``python -m recap.jobs``: lists, follows and cancels what recap's launchers have queued.

Jobs are found by the records that are kept with their runs, below the folder ``--runs``.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from recap.launcher import local, slurm
from recap.launcher.states import COMPLETED, State, clock, states
from recap.launcher.submission import Job, Submission, submissions

POLL_S = 0.5
Found = tuple[Submission, Job]


class NotFound(Exception):
    """Nothing below the folder is what was asked for."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; exit code 0, or 1 where a followed job failed or one is not there."""
    parser = argparse.ArgumentParser(
        prog="python -m recap.jobs", description=(__doc__ or "").partition(": ")[2]
    )
    commands = parser.add_subparsers(dest="command", metavar="list | follow | cancel")
    about = {
        "list": "a line per job, those that are not over first; the default",
        "follow": "prints a job's logs, of all ranks, until it has ended",
        "cancel": "ends jobs, those that wait and those that run",
    }
    places = [parser]
    for name, text in about.items():
        command = commands.add_parser(name, help=text, description=text)
        places.append(command)
        if name != "list":
            word = "a job" if name == "follow" else "jobs; of an array also all of it"
            command.add_argument("job", nargs=1 if name == "follow" else "+", help=word)
    for place in places:
        place.add_argument(
            *("--runs", "-r"),
            type=Path,
            default=Path("runs") if place is parser else argparse.SUPPRESS,
            help="folder of runs, sweeps, or one of them; default: runs",
        )
    given = parser.parse_args(arguments)
    try:
        if not given.runs.is_dir():
            raise NotFound(f"--runs {given.runs}: there is no such folder")
        if given.command == "follow":
            return _follow(*_named(given.runs, given.job[0])[-1])
        if given.command == "cancel":
            return _cancel([found for name in given.job for found in _named(given.runs, name)])
        _list(given.runs)
    except NotFound as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    return 0


def _list(root: Path) -> None:
    rows = []
    for submission in submissions(root):
        found = states(submission)
        rows += [(submission, job, found[job.id]) for job in submission.jobs if job.id]
    if not rows:
        raise NotFound(f"--runs {root}: no job was queued from there")
    rows.sort(key=lambda row: (row[2].final, row[0].submitted))
    table = [("job", "state", "elapsed", "run")]
    table += [_row(job, state) for _, job, state in rows]
    widths = [max(len(row[i]) for row in table) for i in range(3)]
    logs = ["", *(str(_shown(submission.log_file(job.id, 0))) for submission, job, _ in rows)]
    for row, log in zip(table, logs, strict=True):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        print("  ".join([*cells, row[3]]))
        if log:
            print(f"  {log}")
    _close({row[0].folder.parent.parent: row[0] for row in rows})


def _close(places: Mapping[Path, Submission]) -> None:
    """Closes the runs of sweeps whose last job was killed, so that it could not do it itself."""
    for place, submission in places.items():
        if not (place / "points.json").exists():
            continue
        from recap.compose.frozen import thawed  # seconds, for mlflow
        from recap.sweep.closing import close_if_over

        with contextlib.chdir(submission.cwd):  # what its tracking's folder is relative to
            status = close_if_over(place.absolute(), thawed(submission.config_file(0)))
        if status:
            print(f"{_shown(place)}: all jobs are over; the sweep is recorded as {status}")


def _row(job: Job, state: State) -> tuple[str, str, str, str]:
    where = f" ({state.where})" if state.where and not state.final else ""
    return job.id, f"{state.name}{where}", clock(state.elapsed_s), str(_shown(Path(job.run_dir)))


def _shown(path: Path) -> Path:
    """A path from here, where that is shorter."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _named(root: Path, name: str) -> list[Found]:
    """The jobs of this id, or of an array of this id."""
    found = [
        (submission, job)
        for submission in submissions(root)
        for job in submission.jobs
        if name in (job.id, job.id.split("_")[0])
    ]
    if not found:
        raise NotFound(f"{name}: there is no such job below {root}; see python -m recap.jobs list")
    return found


def _cancel(found: Sequence[Found]) -> int:
    """Cancels each job that is not over; says so of the others."""
    for submission, job in found:
        state = states(submission)[job.id]
        if state.final:
            print(f"{job.id}: is over, {state.name}")
        elif submission.launcher == "local":
            local.cancel(submission, [job.id])
            print(f"{job.id}: cancelled")
        else:
            complaint = slurm.cancel([job.id])
            print(f"{job.id}: {complaint or 'cancelled'}")
    return 0


def _follow(submission: Submission, job: Job) -> int:
    """Prints what the ranks print, from the beginning; 0 if the job ends well."""
    ranks = range(submission.num_tasks)
    tails = [_Tail(submission.log_file(job.id, rank)) for rank in ranks]
    told = None
    while True:
        state = states(submission)[job.id]  # before the logs: what comes after its end is nothing
        for rank, tail in zip(ranks, tails, strict=True):
            for line in tail.lines(to_the_end=state.final):
                print(f"[{rank}] {line}" if len(tails) > 1 else line, flush=True)
        if state.final:
            break
        if state.name != told and state.name != "RUNNING":
            where = f" ({state.where})" if state.where else ""
            print(f"job {job.id}: {state.name}{where}", file=sys.stderr)
        told = state.name
        time.sleep(POLL_S)
    print(f"job {job.id}: {state.name} after {clock(state.elapsed_s)}", file=sys.stderr)
    return 0 if state.name == COMPLETED else 1


class _Tail:
    """The lines of a growing file, each once it is whole."""

    def __init__(self, path: Path) -> None:
        self._path, self._place, self._part = path, 0, ""

    def lines(self, *, to_the_end: bool) -> Iterator[str]:
        """Those that were not told yet; with ``to_the_end`` also one without a line's end."""
        if self._path.exists():
            with self._path.open(errors="replace") as file:
                file.seek(self._place)
                self._part += file.read()
                self._place = file.tell()
        *whole, self._part = self._part.split("\n")
        yield from whole
        if to_the_end and self._part:
            yield self._part
            self._part = ""


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # … | head
    sys.exit(main())
