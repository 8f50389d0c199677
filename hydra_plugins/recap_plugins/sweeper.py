"""The sweepers ``hydra/sweeper=grid`` and ``hydra/sweeper=optuna`` as Hydra finds them."""

from __future__ import annotations

from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class _RecapSweeper(Sweeper):
    _given: tuple[DictConfig, ConfigLoader, Launcher]  # of the sweep

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Called by Hydra before ``sweep``."""
        from hydra.core.plugins import Plugins  # imports the plugins, so this module, too

        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )
        self._given = config, hydra_context.config_loader, launcher


class GridSweeper(_RecapSweeper):
    """Every combination of listed values; conf/hydra/sweeper/grid.yaml says what the fields mean.

    See ``recap.sweep.grid``.
    """

    def __init__(
        self, max_batch_size: int | None = None, params: dict[str, Any] | None = None
    ) -> None:
        self.max_batch_size, self.params = max_batch_size, params or {}

    def sweep(self, arguments: list[str]) -> None:
        """Runs the sweep over ``params`` and the overrides of the command line."""
        from recap.sweep import grid

        overrides = [f"{key}={value}" for key, value in self.params.items()] + arguments
        grid.sweep(*self._given, overrides, self.max_batch_size)


class OptunaSweeper(_RecapSweeper):
    """A search by Optuna; conf/hydra/sweeper/optuna.yaml says what the fields mean.

    See ``recap.search.sweep``.
    """

    def __init__(
        self,
        sampler: Any,
        pruner: Any,
        direction: str | None = None,
        n_trials: int = 20,
        n_jobs: int = 1,
        study_name: str = "search",
        params: dict[str, Any] | None = None,
    ) -> None:
        self.params = params or {}
        self.settings = {
            "direction": direction,
            "n_trials": n_trials,
            "n_jobs": n_jobs,
            "sampler": _plain(sampler),
            "pruner": _plain(pruner),
            "study_name": study_name,
        }

    def sweep(self, arguments: list[str]) -> None:
        """Runs the search in ``params`` and the ranges of the command line."""
        from recap.search.settings import Search
        from recap.search.sweep import sweep

        overrides = [f"{key}={value}" for key, value in self.params.items()] + arguments
        sweep(*self._given, overrides, Search(**self.settings))


def _plain(node: Any) -> Any:
    """The node as it was written: ``_recursive_: false`` leaves it to the search to make it."""
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
