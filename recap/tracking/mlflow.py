"""Runs recorded in MLflow: in an sqlite file beside the runs, or by any server.

A config names the tracker here; mlflow, which takes as long to import as torch, is imported when a
run is opened.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from recap.tracking.mlflow_run import MlflowRun


@dataclass
class MlflowTracker:
    """Opens MLflow runs.

    Args:
        uri: of the store; ``None`` takes ``$MLFLOW_TRACKING_URI``, and without it the file
            ``mlflow.db`` in ``folder``.
        folder: of that file and of artifacts that no server keeps (in ``mlartifacts``).
        experiment: name of the MLflow experiment; made where it does not exist.
        run_name: of every run this tracker opens; ``None`` leaves it to the caller.
        system_metrics: whether processor, memory, disk, network and GPU are sampled.
        sample_every_s: seconds between these samples.
    """

    uri: str | None = None
    folder: str = "runs"
    experiment: str = "recap"
    run_name: str | None = None
    system_metrics: bool = True
    sample_every_s: float = 10.0

    def __post_init__(self) -> None:
        if find_spec("mlflow") is None:
            raise ValueError("mlflow is not installed; train with tracking=none to record nothing")

    def run(
        self,
        run_dir: Path,
        *,
        overrides: Sequence[str] = (),
        config_yaml: str = "",
        tags: Mapping[str, str] | None = None,
        name: str | None = None,
        parent: Path | None = None,
        resume_step: int = 0,
    ) -> MlflowRun:
        """The run of ``run_dir``; arguments as in ``recap.tracking.Tracker``.

        What changed since the run was started (an override, the commit, the host, …) is recorded
        as a tag ``resumed_at_STEP/KEY``, since MLflow's params cannot change; a changed config as
        ``config-STEP.yaml``.

        Raises:
            ConnectionError: the store does not answer.
            ValueError: the run or its experiment was deleted from the store.
        """
        from recap.tracking.mlflow_run import MlflowRun
        from recap.tracking.mlflow_store import begin

        client, stored, unchanged = begin(
            self,
            run_dir,
            overrides=overrides,
            config_yaml=config_yaml,
            tags=tags or {},
            name=name,
            parent=parent,
            resume_step=resume_step,
        )
        return MlflowRun(
            client,
            stored,
            self.store(),
            unchanged=unchanged,
            sample_every_s=self.sample_every_s if self.system_metrics else None,
        )

    def join(self, run_dir: Path) -> MlflowRun:
        """The run recorded for ``run_dir``; see ``recap.tracking.Tracker``.

        Raises:
            ConnectionError: the store does not answer.
            ValueError: the store has no run of this directory.
        """
        from recap.tracking.mlflow_run import MlflowRun
        from recap.tracking.mlflow_store import joined

        uri = self.store()
        client, stored = joined(self, Path(run_dir).absolute(), uri)
        return MlflowRun(client, stored, uri, unchanged=True, sample_every_s=None, owned=False)

    def open_sweep(
        self, sweep_dir: Path, *, overrides: Sequence[str] = (), config_yaml: str = ""
    ) -> None:
        """Record a run for the sweep itself, or continue it; its id is kept in the directory.

        To be called before the first job starts; raises as ``run`` does.
        """
        from recap.tracking.mlflow_store import begin

        begin(self, sweep_dir, overrides=overrides, config_yaml=config_yaml)

    def close_sweep(
        self,
        sweep_dir: Path,
        *,
        status: str,
        tags: Mapping[str, str] | None = None,
        objective: float | None = None,
    ) -> None:
        """Record the outcome of the sweep's run; see ``recap.tracking.Tracker``.

        Raises:
            ConnectionError: the store does not answer.
        """
        from recap.tracking.mlflow_store import end_sweep

        end_sweep(self, sweep_dir, status=status, tags=tags or {}, objective=objective)

    def store(self) -> str:
        """URI of the store that will be used; a path in it is absolute."""
        uri = self.uri or os.environ.get("MLFLOW_TRACKING_URI")
        if not uri:
            uri = f"sqlite:///{Path(self.folder) / 'mlflow.db'}"
        path = sqlite_path(uri)
        return uri if path is None else f"sqlite:///{path}"


def sqlite_path(uri: str) -> Path | None:
    """Absolute path of an sqlite store's file; None for any other store."""
    return Path(uri.removeprefix("sqlite:///")).absolute() if uri.startswith("sqlite:///") else None
