"""Rows of a config filled from their templates, so that a part fits any set of tasks.

A task, the learning rate of its tower and a validation partition each have a template: the sections
``task``, ``schedule.curve`` and ``train_data``. Every row gets references to those values of its
template that it does not state itself. Composition fills after the YAML files are merged and before
the command line's overrides are applied, and once more after them: the composed config shows the
whole run, and every single value can be overridden in place.
"""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf

# what a schedule's file need not state beside its curve
SCHEDULE: dict[str, Any] = {"single_task": False, "backbone": {}, "towers": {}, "tables": {}}

# a validation partition's own keys, never filled from train_data: what they are where not stated
OWN: dict[str, Any] = {
    "inputs": None,
    "explicit_date_inputs": None,
    "explicit_datetime_inputs": None,
    "num_files_to_keep": None,
    "tasks": {},
}


def fill_templates(cfg: DictConfig) -> None:
    """Completes every row from its template, in place; a second time follows what changed since.

    What is no mapping where one must stand is left as it is: ``recap.experiment`` refuses it.
    """
    plain = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(plain, dict)
    tasks = _mapping(_mapping(plain.get("model")).get("tasks"))
    if isinstance(plain.get("task"), dict) and tasks:
        cfg.model.tasks = {name: filled(row, plain["task"], "task") for name, row in tasks.items()}
    optimizer, schedule = _mapping(plain.get("optimizer")), _mapping(plain.get("schedule"))
    for key, default in SCHEDULE.items() if schedule else ():
        if schedule.get(key) is None:
            schedule[key] = cfg.schedule[key] = default
    if optimizer and isinstance(schedule.get("curve"), dict):
        rates = _filled_rates(optimizer, schedule, tasks)
        cfg.optimizer.single_task_learning_rate, cfg.optimizer.multi_task_learning_rates = rates
    if train_data := _mapping(plain.get("train_data")):
        template = {key: value for key, value in train_data.items() if key not in OWN}
        kinds = (template.get("_target_"), "${train_data._target_}")
        for name, row in _mapping(plain.get("validation_data")).items():
            if not isinstance(row, dict | None):
                continue
            # the files are each partition's own, also where it refers to those of train_data
            stated = _mapping(row)
            same_kind = stated.get("_target_", kinds[0]) in kinds
            defaults = {key: OWN[key] for key in OWN if same_kind and key in train_data}
            own = {**defaults, **{key: stated[key] for key in OWN if key in stated}}
            rest = {key: value for key, value in stated.items() if key not in OWN}
            full = {**own, **filled(rest, template, "train_data")}
            if full != row:  # to set a row is slow, and the second time most of them stand
                cfg.validation_data[name] = full


def filled(
    row: Any,
    template: dict[str, Any],
    path: str,
    *,
    own: dict[str, Any] | None = None,
    own_path: str = "",
) -> Any:
    """``row`` and, for every value of its template that it does not state, a reference to it.

    The template stands at ``path`` of the config. Keys that are also in ``own`` (at ``own_path``)
    refer there; with a ``_target_`` of its own, ``own`` is the template. A row of another
    ``_target_`` than its template's is another kind of thing: it is left as stated.
    """
    if not isinstance(row, dict | None):
        return row
    own = own or {}
    row = _stated(row or {}, path, own_path)
    kind = own.get("_target_", template.get("_target_"))
    if kind is not None and row.get("_target_", kind) != kind:
        return row
    if kind != template.get("_target_"):
        template = own
    out = {}
    for key, value in template.items():
        place = f"{own_path if key in own else path}.{key}"
        if isinstance(value, dict) and isinstance(row.get(key, {}), dict):
            out[key] = filled(row.get(key), value, place)
        else:
            out[key] = row.get(key, f"${{{place}}}")
    return {**out, **{key: value for key, value in row.items() if key not in template}}


def _stated(row: dict[str, Any], *paths: str) -> dict[str, Any]:
    """What of a row was not written by an earlier filling from templates at ``paths``."""
    out = {}
    for key, value in row.items():
        places = [f"{path}.{key}" for path in paths]
        if isinstance(value, dict) and value:
            if inner := _stated(value, *places):
                out[key] = inner
        elif value not in [f"${{{place}}}" for place in places]:
            out[key] = value
    return out


def _filled_rates(optimizer: dict, schedule: dict, tasks: dict) -> tuple[Any, Any]:
    """The optimizer's single learning rate and its rates per task, one of them None.

    The schedule's curve stands for every tower, the backbone and the named embedding tables; where
    both ways of giving rates are stated, both come out, and the optimizer refuses them.
    """

    def stated(row: Any, *own: str) -> Any:
        own_path = ".".join(("schedule", *own))
        if not isinstance(row, dict):
            return None if row == f"${{{own_path}}}" else row
        return _stated(row, "schedule.curve", own_path) or None

    def rate(row: Any, *own: str) -> Any:
        numbers: Any = schedule if own else {}
        for name in own:
            numbers = _mapping(numbers).get(name)
        own_path = ".".join(("schedule", *own))
        if not isinstance(numbers, dict | None):  # a bare number: a constant rate
            return f"${{{own_path}}}" if row is None else row
        return filled(row, schedule["curve"], "schedule.curve", own=numbers, own_path=own_path)

    single = stated(optimizer.get("single_task_learning_rate"))
    multi = optimizer.get("multi_task_learning_rates") or {}
    if not isinstance(multi, dict):
        return single, multi
    multi = dict(multi)
    target = multi.pop("_target_", "recap.optimizer.MultiTaskLearningRates")
    null = multi.get("backbone_learning_rate", "unstated") is None  # for a model without one
    backbone = stated(multi.pop("backbone_learning_rate", None), "backbone")
    rows: dict[str, Any] = {}
    nulls: dict[str, dict[str, None]] = {}  # no rate, said so: the optimizer judges it
    for own in ("tower", "table"):
        given = multi.pop(f"{own}_learning_rates", None) or {}
        if isinstance(given, dict):
            kept = {name: stated(row, f"{own}s", name) for name, row in given.items()}
            nulls[own] = {name: None for name, row in given.items() if row is None}
            given = {name: row for name, row in kept.items() if row is not None}
        rows[own] = given

    if schedule["single_task"]:
        single = rate(single)
    if single is None:
        backbone = None if null else rate(backbone, "backbone")
        for own, names in (("tower", tasks), ("table", _mapping(schedule["tables"]))):
            if not isinstance(rows[own], dict):
                continue
            full = {name: rate(rows[own].pop(name, None), f"{own}s", name) for name in names}
            rows[own] = {**full, **rows[own], **nulls[own]}
    elif backbone is None and not any(rows.values()):
        return single, None
    return single, {
        "_target_": target,
        "backbone_learning_rate": backbone,
        **{f"{own}_learning_rates": row for own, row in rows.items()},
        **multi,
    }


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
