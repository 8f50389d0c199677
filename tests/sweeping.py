"""Sweeps of the tiny experiment: in this process, or in one of their own that can be killed."""

from __future__ import annotations

import logging
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run as StoredRun
from tiny import ENVIRONMENT, HERE, Tiny

from recap import outcome
from recap.train import main


def arguments(tiny: Tiny, *overrides: str, sweep: str = "sweep") -> list[str]:
    """Of the command line of a sweep into that folder."""
    return [
        "-m",
        f"--config-dir={HERE / 'conf'}",
        "experiment=tiny",
        f"data_root={tiny.root}",
        f"hydra.sweep.dir={tiny.root / sweep}",
        *overrides,
    ]


def swept(tiny: Tiny, *overrides: str, sweep: str = "sweep") -> int:
    """Exit code of a sweep in this process."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(tiny.root)
        patched.setattr(sys, "argv", ["train", *arguments(tiny, *overrides, sweep=sweep)])
        try:
            main()
        except SystemExit as ended:
            return int(ended.code or 0)
        finally:  # Hydra's write to what this test captures
            root.handlers, root.level = handlers, level
    return 0


@contextmanager
def sweeping(tiny: Tiny, *overrides: str, sweep: str = "sweep") -> Iterator[subprocess.Popen]:
    """A sweep in a process of its own, which is gone behind the block; its output in one pipe."""
    with subprocess.Popen(
        [sys.executable, "-m", "recap.train", *arguments(tiny, *overrides, sweep=sweep)],
        env=ENVIRONMENT,
        cwd=tiny.root,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def killed_at(tiny: Tiny, line: str, *overrides: str, times: int = 1) -> None:
    """A sweep that SIGKILL ends as it prints a line of this beginning for the ``times``-th time."""
    lines = []
    with sweeping(tiny, *overrides) as process:
        assert process.stdout is not None
        for printed in process.stdout:
            lines.append(printed)
            if sum(each.startswith(line) for each in lines) == times:
                return
    pytest.fail("".join(lines))


def statuses(folder: Path) -> dict[str, str]:
    """What the runs in a sweep's folder came to, by their folders' names."""
    runs = {path.name: outcome.read(path) for path in sorted(folder.iterdir()) if path.is_dir()}
    return {name: "none" if ended is None else ended.status for name, ended in runs.items()}


def recorded(root: Path, sweep: str) -> tuple[StoredRun, dict[str | None, StoredRun]]:
    """The sweep's run and its children by name."""
    with warnings.catch_warnings():  # see recap.tracking.mlflow
        warnings.simplefilter("ignore", DeprecationWarning)
        client = MlflowClient(f"sqlite:///{root}/runs/mlflow.db")
    run_id = (root / sweep / "mlflow_run_id").read_text().splitlines()[0]
    parent = client.get_run(run_id)
    query = f"tags.`mlflow.parentRunId` = '{run_id}'"
    children = client.search_runs([parent.info.experiment_id], query)
    return parent, {child.info.run_name: child for child in children}
