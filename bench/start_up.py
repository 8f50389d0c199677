"""``python -m bench.start_up``: seconds from the start of a process to its first finished step.

    python -m bench.start_up [directory=FOLDER] [rows=24576] [repetitions=3]
                             [tracking=none,mlflow] [overrides of recap.train]

The commands are real processes, on data that is there; the step is finished when its report is
written. After that, where the time goes, by taking the same way step by step in one process.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from statistics import median
from time import perf_counter, time

from bench.report import conditions, own_settings, table

DEFAULTS = {"directory": "", "rows": "24576", "repetitions": "3", "tracking": "none,mlflow"}
FIRST_REPORT = "step 1/"  # of the line that tells the first step
WALK = "walk"  # the first argument of the process that tells where the time goes


def main() -> None:
    """Writes the data set if it is not there yet, measures, prints."""
    from bench.local_prod import write_data  # here: the walk begins with no import of its own

    settings, overrides = own_settings(sys.argv[1:], DEFAULTS)
    repetitions = int(settings["repetitions"])
    print(conditions(), flush=True)
    with contextlib.ExitStack() as stack:
        runs = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder = settings["directory"] or str(runs / "data")
        own = ["experiment=local_prod", f"data_root={folder}", *overrides]
        write_data(folder, int(settings["rows"]), own)
        trained = {
            "none": [*own, "training.train_log_every_n=1", "tracking=none"],
            "mlflow": [*own, "training.train_log_every_n=1", f"tracking.folder={runs}"],
        }
        trained = {name: trained[name] for name in settings["tracking"].split(",")}
        took: dict[str, list[float]] = {}
        if "mlflow" in trained:
            seconds = _until_first_step(trained["mlflow"], runs / "first")
            took["first step, with mlflow's database to make"] = [seconds]
        for number in range(repetitions):
            took.setdefault("--help", []).append(_to_the_end(["--help"]))
            took.setdefault("--cfg job", []).append(_to_the_end([*own, "--cfg", "job"]))
            for name, arguments in trained.items():
                seconds = _until_first_step(arguments, runs / f"{name}-{number}")
                took.setdefault(f"first step, tracking={name}", []).append(seconds)
        walks = [_walked(own, runs / f"walk-{number}") for number in range(repetitions)]
    rows = [(name, *_figures(each)) for name, each in took.items()]
    print(f"\n{table(('python -m recap.train', 'seconds', 'lowest … highest'), rows)}\n")
    rows = [(name, *_figures([walk[name] for walk in walks])) for name in walks[0]]
    print(table(("one after the other, tracking=none", "seconds", "lowest … highest"), rows))


def _figures(seconds: Sequence[float]) -> tuple[str, str]:
    return f"{median(seconds):.2f}", f"{min(seconds):.2f} … {max(seconds):.2f}"


def _command(arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "recap.train", *arguments]


def _to_the_end(arguments: Sequence[str]) -> float:
    """Seconds of the command, from start to exit."""
    started = perf_counter()
    subprocess.run(_command(arguments), check=True, capture_output=True)
    return perf_counter() - started


def _until_first_step(overrides: Sequence[str], run: Path) -> float:
    """Seconds until the command tells its first step; then it is killed."""
    command = _command([*overrides, f"training.save_dir={run}"])
    started = perf_counter()
    lines = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if FIRST_REPORT in line:
                took = perf_counter() - started
                process.kill()
                return took
    raise RuntimeError(f"{command} told no first step:\n{''.join(lines)}")


def _walked(overrides: Sequence[str], run: Path) -> dict[str, float]:
    """Seconds of each part of the way to the first step, by what it is."""
    arguments = [WALK, str(time()), *overrides, f"training.save_dir={run}", "tracking=none"]
    out = subprocess.run(
        [sys.executable, "-m", "bench.start_up", *arguments],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    pairs = (line.rsplit(" ", 1) for line in out.splitlines())
    return {name: float(seconds) for name, seconds in pairs}


def _walk(started: float, overrides: Sequence[str]) -> None:
    """Goes to the first step as ``recap.train`` does and prints when it came where."""
    marks = {"interpreter": time()}
    import recap.train
    from recap.compose import compose

    marks["imports of the command"] = time()
    cfg = compose(*overrides)
    marks["composition"] = time()
    import torch  # noqa: F401

    marks["import of torch"] = time()
    import recap.trainer  # noqa: F401
    from recap.experiment import prepare

    marks["all other imports"] = time()
    experiment = prepare(cfg)
    marks["data, model and optimizer built and joined"] = time()
    from recap.distributed import ALONE
    from recap.run.divergence import LossWindow
    from recap.run.reading import batches_from
    from recap.run.update import update

    experiment.ranker.train()
    with closing(batches_from(experiment, 0)) as batches:
        batch, position = next(batches)
        marks["first batch"] = time()
        update(experiment, [(batch, position, 1.0)], 0, LossWindow(batch.tasks, 0, ALONE))
        marks["first step"] = time()
    for name, at in marks.items():
        print(f"{name} {at - started}")
        started = at


if __name__ == "__main__":
    if sys.argv[1:2] == [WALK]:
        _walk(float(sys.argv[2]), sys.argv[3:])
    else:
        main()
