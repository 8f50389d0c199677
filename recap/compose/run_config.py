"""The composed config of a run, kept in its folder: ``config.yaml``.

It is kept as composed, with its references: what composes on it again, as ``recap.evaluator`` does,
can override a template's value for every row at once.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf._utils import get_omega_conf_dumper
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from recap.compose.references import values
from recap.outcome import digest

CONFIG_FILE = "config.yaml"
# OmegaConf's way to write values, by libyaml where PyYAML was built with it
_DUMPER: Any = type(
    "Dumper",
    (getattr(yaml, "CDumper", yaml.Dumper),),
    {"yaml_representers": get_omega_conf_dumper().yaml_representers},
)


def write_config(run_dir: Path, config_yaml: str) -> None:
    """Keeps a run's config in its folder; a crash leaves the old file or the new."""
    aside = run_dir / f".{CONFIG_FILE}.tmp"
    with aside.open("w") as file:
        file.write(config_yaml)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(run_dir / CONFIG_FILE)


def composed_yaml(cfg: DictConfig) -> str:
    """The settings that ``OmegaConf.to_yaml(cfg)`` writes, in a third of the time.

    The text is the same, too, but for characters such as emoji, which libyaml writes by their code.
    """
    return _dumped(OmegaConf.to_container(cfg, enum_to_str=True))


def resolved_yaml(cfg: DictConfig) -> str:
    """As ``composed_yaml``, of ``OmegaConf.to_yaml(cfg, resolve=True)``, in a tenth of the time.

    Raises:
        OmegaConfBaseException: a reference leads nowhere.
    """
    return _dumped(values(cfg))


def _dumped(plain: Any) -> str:
    return yaml.dump(
        plain, default_flow_style=False, allow_unicode=True, sort_keys=False, Dumper=_DUMPER
    )


def read_config(run_dir: Path) -> DictConfig:
    """The config that the run was last started with; its ``training.save_dir`` is ``run_dir``.

    Raises:
        ValueError: there is no run in the folder, or none that was started.
    """
    path = run_dir / CONFIG_FILE
    try:
        cfg = OmegaConf.create(path.read_text())
    except FileNotFoundError as error:
        there = "there is no such folder" if not run_dir.exists() else f"it has no {CONFIG_FILE}"
        raise ValueError(
            f"run={run_dir}: {there}; name the folder of a run, the training.save_dir that "
            "`python -m recap.train` printed"
        ) from error
    except (OSError, YAMLError, OmegaConfBaseException) as error:
        raise ValueError(f"run={run_dir}: {CONFIG_FILE} cannot be read ({error})") from error
    if not isinstance(cfg, DictConfig) or not isinstance(cfg.get("training"), DictConfig):
        raise ValueError(f"run={run_dir}: {CONFIG_FILE} is not the config of a run")
    cfg.training.save_dir = str(run_dir)
    return cfg


def config_digest(cfg: DictConfig) -> str:
    """``recap.outcome.digest`` of a composed config, with or without Hydra's own section."""
    rest = cfg
    if "hydra" in cfg:
        rest = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    try:
        plain: Any = values(rest)
    except OmegaConfBaseException:  # what leads nowhere is refused before it is trained
        plain = OmegaConf.to_container(rest)
    return digest(plain)
