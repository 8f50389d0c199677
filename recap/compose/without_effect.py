"""What is stated and nothing reads: keys of the schedule, overrides that change nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from recap.compose.templates import SCHEDULE
from recap.nearest import nearest


def schedule_faults(schedule: dict[str, Any]) -> list[str]:
    """What of the section is not read or is not what templates are."""
    keys = ["curve", *SCHEDULE]
    faults = []
    for key in schedule:
        if key not in keys:
            faults.append(f"schedule.{key}: nothing reads this key; {nearest(key, keys)}")
    if not isinstance(curve := schedule.get("curve"), dict):
        faults.append(
            f"schedule.curve={curve}: must be a mapping, {{_target_: …}}; for the same rate at "
            "every step schedule=constant schedule.curve.learning_rate=…"
        )
    for key, name in (("towers", "task"), ("tables", "table")):
        if not isinstance(rows := schedule[key], dict):
            faults.append(
                f"schedule.{key}={rows}: must be a mapping, {name} → numbers of its curve"
            )
    if not isinstance(single := schedule["single_task"], bool):
        faults.append(f"schedule.single_task={single}: must be true or false")
    return faults


def overrides_without_effect(cfg: DictConfig, overrides: Sequence[str]) -> list[str]:
    """The overrides that take something out which is still there, or set what no row takes."""
    faults = []
    raw = str(OmegaConf.to_container(cfg, resolve=False))
    for override in overrides:
        key = override.removeprefix("~").split("=")[0]
        if key.startswith("schedule.curve.") and f"${{{key}}}" not in raw:
            faults.append(
                f"{key}: no rate takes it, every tower and the backbone state their own; "
                "write schedule.towers.<task>… or schedule.backbone…"
            )
        if not OmegaConf.select(cfg, key):
            continue
        if override.startswith("~") and "." not in key:
            faults.append(f"~{key}: the experiment states values of it; choose with {key}=…")
        elif override.startswith("~"):
            faults.append(f"~{key}: its template brings this value back; write {key}=null")
        elif override == f"{key}={{}}":
            faults.append(f"{override} takes nothing out; write ~{key}.<entry> for each entry")
    return faults
