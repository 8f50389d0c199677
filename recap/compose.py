"""Hydra's composition with two additions: rows filled from their template, and the nearest name.

A task, the learning rate of its tower and a validation partition each have a template: the sections
``task``, ``schedule.curve`` and ``train_data``. After the YAML files are merged and before the
command line's overrides are applied, every row is filled with references to the keys of its
template that it does not state itself, so that the composed config shows the whole run and every
single value can be overridden in place. It is what lets a schedule or a model fit any set of tasks.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import hydra
from hydra._internal import hydra as hydra_internals
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.errors import CompactHydraException
from omegaconf import DictConfig, OmegaConf, open_dict

_HERE = Path(__file__).resolve().parent
# an installed wheel holds the YAML files inside the package, a checkout beside it
CONF = _HERE / "conf" if (_HERE / "conf").is_dir() else _HERE.parent / "conf"


class Refused(CompactHydraException, ValueError):
    """A run that cannot start; the message lists every fault, Hydra prints it without a trace."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


def hydra_command(config_name: str) -> Callable[[Callable[[DictConfig], Any]], Callable[[], Any]]:
    """Decorator: a function of the config composed from ``<config_name>.yaml`` is a command."""
    return hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)


def compose(*overrides: str, config_name: str = "train") -> DictConfig:
    """The config that a command with these overrides runs on, for use from Python."""
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return hydra.compose(config_name, list(overrides))


class Composer(ConfigLoaderImpl):
    """Hydra's config loader; see the module's docstring for what it adds."""

    _keys: list[str]
    _sweep_dir: str | None = None
    _swept: list[str] | None = None  # what tells a sweep's job from the others

    def _load_configuration_impl(self, config_name, overrides, *args, **kwargs) -> DictConfig:
        faults: list[str] = []
        while True:  # an override that is refused is set aside, so that all faults come at once
            try:
                cfg = super()._load_configuration_impl(config_name, overrides, *args, **kwargs)
                break
            except CompactHydraException as error:
                rest = [o for o in overrides if not _is_about(o, error)]
                faults.append(self._explain(error))
                if len(rest) == len(overrides):
                    raise Refused(faults) from None
                overrides = rest
        if faults:
            raise Refused(faults)
        with open_dict(cfg):
            fill_templates(cfg)
            self._name_folders(cfg)
        return cfg

    def _compose_config_from_defaults_list(self, defaults, repo) -> DictConfig:
        cfg = super()._compose_config_from_defaults_list(defaults, repo)
        fill_templates(cfg)
        self._keys = list(_dotted_keys(cfg))
        return cfg

    def load_sweep_config(self, master_config, sweep_overrides) -> DictConfig:
        """The config of one job of a sweep, which knows the folder of the whole."""
        self._sweep_dir = master_config.hydra.sweep.dir
        common = set(master_config.hydra.overrides.task)
        self._swept = [override for override in sweep_overrides if override not in common]
        return super().load_sweep_config(master_config, sweep_overrides)

    def _name_folders(self, cfg: DictConfig) -> None:
        """Fills the run's and the sweep's folder, where the user names none, from the overrides."""
        if "training" not in cfg:
            return
        name = run_name(list(cfg.hydra.overrides.task))
        folder = f"runs/{cfg.hydra.runtime.choices.get('experiment') or 'unnamed'}"
        if str(cfg.hydra.mode) != "RunMode.MULTIRUN":
            if cfg.training.save_dir is None:
                cfg.training.save_dir = f"{folder}/{name}"
            return
        if cfg.hydra.sweep.dir == "auto":
            cfg.hydra.sweep.dir = self._sweep_dir or f"{folder}/sweep-{name}"
        if cfg.hydra.sweep.subdir == "auto":
            cfg.hydra.sweep.subdir = name if self._swept is None else run_name(self._swept)
        if cfg.training.save_dir is None:
            cfg.training.save_dir = f"{cfg.hydra.sweep.dir}/{cfg.hydra.sweep.subdir}"

    def _explain(self, error: CompactHydraException) -> str:
        text = str(error).strip()
        if match := re.search(r"Could not override '([^']+)'", text):
            key = getattr(error.__cause__, "full_key", None) or match[1]
            return (
                f"{key}: there is no such key{_close(key, self._keys)}; a new one takes a + before"
            )
        if match := re.search(r"Could not find '([^']+)/([^'/]+)'", text):
            group, choice = match[1].removeprefix("/"), match[2]
            choices = self.list_groups_options(group)
            return f"{group}={choice}: there is no such choice{_close(choice, choices)}"
        cause = f": {error.__cause__}" if error.__cause__ is not None else ""
        return text + cause

    def list_groups_options(self, group: str) -> list[str]:
        """The choices of a config group."""
        return sorted(self.get_group_options(group))


setattr(hydra_internals, "ConfigLoaderImpl", Composer)  # hydra names its loader in this one place


def fill_templates(cfg: DictConfig) -> None:
    """Completes every row from its template, in place; a second time adds what was left."""
    plain = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(plain, dict)
    if "task" in plain:
        tasks = plain["model"]["tasks"]
        cfg.model.tasks = {
            name: filled(row, plain["task"], "task", deep=True) for name, row in tasks.items()
        }
    if "schedule" in plain:
        _fill_rates(cfg.optimizer, plain["optimizer"], plain["schedule"], plain["model"]["tasks"])
    if plain.get("validation_data"):
        template = {key: value for key, value in plain["train_data"].items() if key != "inputs"}
        for name, row in plain["validation_data"].items():
            cfg.validation_data[name] = filled(row, template, "train_data")


def filled(
    row: Any,
    template: dict[str, Any],
    path: str,
    *,
    own: dict[str, Any] | None = None,
    own_path: str = "",
    deep: bool = False,
) -> Any:
    """``row`` and, for every key of its template that it does not state, a reference to it.

    The template stands at ``path`` of the config. Keys that are also in ``own`` (at ``own_path``)
    refer there. ``deep`` gives every leaf a reference of its own instead of one for a whole node. A
    row of another ``_target_`` than the template's is another kind of thing: it is left as stated.
    """
    if not isinstance(row, dict | None):
        return row
    row = row or {}
    references = {key: f"${{{own_path if key in (own or {}) else path}.{key}}}" for key in template}
    kinds = (None, template.get("_target_"), references.get("_target_"))
    if row.get("_target_") not in kinds:
        return {key: value for key, value in row.items() if value != references.get(key)}
    out = {}
    for key, value in template.items():
        stated = row.get(key, {} if deep and isinstance(value, dict) else references[key])
        if isinstance(stated, dict) and isinstance(value, dict):
            stated = filled(stated, value, f"{path}.{key}", deep=deep)
        elif isinstance(stated, dict) and _only_refers_to(stated, f"{path}.{key}"):
            stated = references[key]  # filled before an override gave the template another shape
        out[key] = stated
    return {**out, **{key: value for key, value in row.items() if key not in template}}


def _only_refers_to(row: dict[str, Any], path: str) -> bool:
    return all(
        _only_refers_to(value, f"{path}.{key}")
        if isinstance(value, dict)
        else value == f"${{{path}.{key}}}"
        for key, value in row.items()
    )


def _fill_rates(optimizer: DictConfig, stated: dict, schedule: dict, tasks: dict) -> None:
    """Writes the schedule's curve for every tower, the backbone and the named embedding tables."""

    def curve(row: Any, own: dict[str, Any] | None, own_path: str) -> Any:
        return filled(row, schedule["curve"], "schedule.curve", own=own, own_path=own_path)

    if schedule["single_task"]:
        single = curve(stated.get("single_task_learning_rate"), None, "")
        optimizer.single_task_learning_rate = single
        return
    if stated.get("single_task_learning_rate") is not None:
        return  # one rate for all is stated: nothing is left to fill
    rates = stated.get("multi_task_learning_rates") or {}
    rates.setdefault("_target_", "recap.optimizer.MultiTaskLearningRates")
    rates["backbone_learning_rate"] = curve(
        rates.get("backbone_learning_rate"), schedule["backbone"], "schedule.backbone"
    )
    for key, own, names in (
        ("tower_learning_rates", "towers", tasks),
        ("table_learning_rates", "tables", schedule["tables"]),
    ):
        rows = rates.get(key) or {}
        for name in names:
            numbers = schedule[own].get(name)
            rows[name] = curve(rows.get(name), numbers, f"schedule.{own}.{name}")
        rates[key] = rows
    optimizer.multi_task_learning_rates = rates


def run_name(overrides: list[str]) -> str:
    """The folder's name of a run with these overrides: the overrides, or a digest of many.

    What only says where to write or how long to train is left out, so that it can be changed to
    continue the same run.
    """
    aside = ("experiment=", "training.save_dir=", "training.num_train_steps=", "tracking")
    told = [o.lstrip("+") for o in overrides if not o.lstrip("+").startswith(aside)]
    name = re.sub(r"[^\w.,=+~@-]+", "_", ",".join(sorted(told))) or "default"
    if len(name) > 120:
        name = f"{name[:100]}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"
    return name


def _is_about(override: str, error: Exception) -> bool:
    key = override.lstrip("+~").split("=", 1)[0].split("@")[0]
    return f"'{key}'" in str(error) or (
        "=" in override and f"'{key}/{override.split('=', 1)[1]}'" in str(error)
    )


def _dotted_keys(node: Any, prefix: str = "") -> list[str]:
    keys = []
    if isinstance(node, DictConfig) and not node._is_none() and not node._is_missing():
        for key in node:
            if prefix or key != "hydra":
                keys.append(f"{prefix}{key}")
                if not node._is_interpolation():
                    keys += _dotted_keys(node._get_node(key), f"{prefix}{key}.")
    return keys


def _close(name: str, names: list[str]) -> str:
    """ "; close: a" with the nearest of ``names``, by the whole name or by its last part."""
    close = get_close_matches(name, names, n=1, cutoff=0.5)
    last = {key.rsplit(".", 1)[-1]: key for key in reversed(names)}
    if "." in name and (
        by_last := get_close_matches(name.rsplit(".", 1)[-1], last, n=1, cutoff=0.8)
    ):
        candidates = [*close, last[by_last[0]]]
        close = get_close_matches(name, candidates, n=1, cutoff=0.0)
    if close:
        return f"; close: {close[0]}"
    return f"; there is {', '.join(names)}" if len(names) < 20 else ""
