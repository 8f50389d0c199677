"""recap's launchers, where Hydra looks for them: it imports every module of ``hydra_plugins``.

That happens at the start of every Hydra command, so all that takes time to import stands in
``recap.launching`` and is imported when something is launched.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class QueueLauncher(Launcher):
    """Queues runs: the jobs of a sweep together, and without -m the one run."""

    kind: ClassVar[str]

    def __init__(self, **settings: Any) -> None:
        """``settings`` are read from the config, so that what is wrong is told with its key."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keep what launching takes."""
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config


class SlurmLauncher(QueueLauncher):
    """``hydra/launcher=slurm``."""

    kind = "slurm"

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Queue the jobs of a sweep; see ``recap.launching``."""
        from recap.launching import launch_sweep

        return launch_sweep(self, job_overrides, initial_job_idx)


class LocalLauncher(QueueLauncher):
    """``hydra/launcher=submitit_local``."""

    kind = "local"

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Queue the jobs of a sweep; see ``recap.launching``."""
        from recap.launching import launch_sweep

        return launch_sweep(self, job_overrides, initial_job_idx)
