"""What an experiment states for another choice than the one made.

An experiment's file names choices of optimizer, schedule and model parts, and states values for
them. Where the command line makes another choice, what only the choice of the file knows is set
aside, so that every choice works with every experiment. Without another choice everything stays,
and what nobody knows is refused.
"""

from __future__ import annotations

from typing import Any

from hydra._internal.config_repository import IConfigRepository
from hydra.core.default_element import ResultDefault
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, OmegaConf

from recap.compose.templates import SCHEDULE


def set_aside(cfg: DictConfig, default: ResultDefault, repo: IConfigRepository) -> None:
    """Takes out of ``cfg`` what only other choices of the default's group know."""
    group, _, choice = (default.config_path or "").rpartition("/")
    if group.split("/")[0] not in ("model", "optimizer", "schedule"):
        return

    def loaded(name: str) -> ConfigResult:
        found = repo.load_config(f"{group}/{name}")
        assert found is not None
        return found

    def package(name: str) -> str:
        return loaded(name).header.get("package") or group.replace("/", ".")

    # chosen for another place than its own, e.g. model/tower@model.tasks.like.tower
    moved_to = default.package if default.package != package(choice) else None

    def known(name: str) -> dict[str, Any]:
        content: Any = OmegaConf.to_container(loaded(name).config, resolve=False)
        if group == "schedule":
            content = {**SCHEDULE, **content}
        for key in reversed((moved_to or package(name)).split(".")):
            content = {key: content}
        return content

    own = known(choice)
    others = [known(name) for name in repo.get_group_options(group) if name != choice]
    _keep_known(cfg, own, others)
    for row in _rows_of_tasks(cfg) if "task" in own else ():
        _keep_known(row, own["task"], [other["task"] for other in others])


def _rows_of_tasks(cfg: DictConfig) -> list[DictConfig]:
    tasks = OmegaConf.select(cfg, "model.tasks")
    rows = [tasks._get_node(name) for name in tasks] if isinstance(tasks, DictConfig) else []
    return [row for row in rows if isinstance(row, DictConfig) and not row._is_none()]


def _keep_known(node: DictConfig, own: dict[str, Any], others: list[Any]) -> None:
    """Deletes what is in one of ``others`` and not in ``own``; another ``_target_`` is kept."""
    for key in list(node):
        value, mine = node._get_node(key), own.get(str(key))
        theirs = [other[key] for other in others if isinstance(other, dict) and key in other]
        if not theirs:
            continue
        if not isinstance(value, DictConfig) or value._is_none():
            if key not in own:
                del node[key]
        elif isinstance(mine, dict):
            # a task's row states no target where it is of its template's kind
            if "_target_" not in value or mine.get("_target_") in (None, value["_target_"]):
                _keep_known(value, mine, theirs)
        elif "_target_" not in value:
            if key in own:
                node[key] = mine
            else:
                del node[key]
