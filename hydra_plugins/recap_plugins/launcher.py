"""``hydra/launcher=slurm`` and ``hydra/launcher=submitit_local``.

All that takes time to import stands in ``recap.compose.launching`` and is imported when a job is
launched.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class SlurmLauncher(Launcher):
    """Queues runs on SLURM: the jobs of a sweep as an array, and without -m the one run."""

    kind = "slurm"

    def __init__(self, **settings: Any) -> None:
        """``settings`` are read from the config, so that what is wrong is told with its key."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keep what launching takes."""
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Queue the jobs of a sweep; see ``recap.compose.launching``."""
        from recap.compose.launching import launch_sweep

        return launch_sweep(
            self.kind,
            self.task_function,
            self.config,
            [
                self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
                for overrides in job_overrides
            ],
            initial_job_idx,
        )

    def launch_one(self) -> Any:
        """Queue the one run of a command without -m; what the run returned."""
        from recap.compose.launching import launch_one

        return launch_one(self.kind, self.task_function, self.config)


class LocalLauncher(SlurmLauncher):
    """Queues runs over this machine's devices."""

    kind = "local"
