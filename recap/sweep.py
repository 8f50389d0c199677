"""The run that stands for a whole sweep; a Hydra callback, since it must exist before the jobs."""

from __future__ import annotations

import atexit
from functools import partial
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf


class SweepRun(Callback):
    """Opens a run for the sweep directory before its first job and records its outcome at the end.

    Under ``hydra.callbacks`` of the primary config. Jobs find the run through the directory:
    ``tracker.run(…, parent=Path(hydra.sweep.dir))``.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Open the sweep's run; a store that does not answer is left to the jobs to report."""
        tracker = instantiate(config.tracking, _convert_="object")
        sweep_dir = Path(config.hydra.sweep.dir).absolute()
        tracker.open_sweep(
            sweep_dir,
            overrides=list(config.hydra.overrides.task),
            config_yaml=OmegaConf.to_yaml(
                OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
            ),
        )
        # Hydra does not call on_multirun_end after a job failed.
        self._close = partial(tracker.close_sweep, sweep_dir)
        atexit.register(self._close, complete=False)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Record the outcome of a sweep whose jobs all came to their end."""
        if hasattr(self, "_close"):
            atexit.unregister(self._close)
            self._close(complete=True)
