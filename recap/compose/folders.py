"""Where a run and a sweep are, if the user does not say it: folders named by the overrides."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig


def name_folders(cfg: DictConfig, sweep_dir: str | None, swept: Sequence[str] | None) -> None:
    """Fills the run's and the sweep's folder, where the user names none, from the overrides.

    Of a sweep's job, ``sweep_dir`` is the folder of the whole, and ``swept`` the overrides that
    tell it from the others.
    """
    if not isinstance(cfg.get("training"), DictConfig):
        return
    overrides = list(cfg.hydra.overrides.task)
    folder = f"runs/{cfg.hydra.runtime.choices.get('experiment') or 'unnamed'}"
    if str(cfg.hydra.mode) != "RunMode.MULTIRUN":
        if cfg.training.get("save_dir") is None:
            cfg.training.save_dir = f"{folder}/{run_name(overrides)}"
        return
    if cfg.hydra.sweep.dir == "auto":
        parsed = OverridesParser.create().parse_overrides(overrides)
        ranges = [str(override.input_line) for override in parsed if override.is_sweep_override()]
        cfg.hydra.sweep.dir = sweep_dir or f"{folder}/sweep-{run_name(overrides, ranges)}"
    if cfg.hydra.sweep.subdir == "auto":
        swept = overrides if swept is None else swept
        cfg.hydra.sweep.subdir = run_name(swept, swept)
    if cfg.training.get("save_dir") is None:
        cfg.training.save_dir = f"{cfg.hydra.sweep.dir}/{cfg.hydra.sweep.subdir}"


def run_name(overrides: Sequence[str], swept: Sequence[str] = ()) -> str:
    """The folder's name of a run with these overrides; other overrides have another name.

    What only says where to write or how long to train is left out, so that it can be changed to
    continue the same run; not so what tells a sweep's jobs apart, ``swept``. A name that does not
    show every character ends in a digest of them.
    """
    aside = ("experiment=", "training.save_dir=", "training.num_train_steps=", "tracking", "check.")
    told = [o.lstrip("+") for o in overrides if o in swept or not o.lstrip("+").startswith(aside)]
    # of one key given twice the last counts: sorted by key alone, their order is kept
    whole = ",".join(sorted(told, key=lambda override: override.split("=")[0])) or "default"
    name = re.sub(r"[^\w.,=+~@-]+", "_", whole, flags=re.ASCII)[:100]
    if name != whole:
        name = f"{name}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"
    return name
