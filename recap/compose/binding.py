"""Whether the ``_target_`` nodes of a config can be called: names and types, before anything is."""

from __future__ import annotations

import collections.abc
import dataclasses
import inspect
import logging
import math
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import hydra

from recap.nearest import nearest

logging.getLogger("hydra.utils").setLevel(logging.CRITICAL)  # says what is raised once more


def completed(node: Any) -> Any:
    """``node`` with the ``_target_`` of every row that its parent's signature tells.

    Where a parameter is annotated with a dataclass, or with a mapping or sequence of one, a mapping
    without a ``_target_`` can mean nothing else: ``{index: 3, value: 1}`` under ``stratifiers``.
    """
    if isinstance(node, list):
        return [completed(item) for item in node]
    if not isinstance(node, dict):
        return node
    hints = _hints(node["_target_"]) if "_target_" in node else {}
    return {key: completed(_told(value, hints.get(key))) for key, value in node.items()}


def _told(value: Any, hint: Any) -> Any:
    """``value`` as what ``hint`` says it is, if that is a dataclass or holds one."""
    if isinstance(value, list | dict) and (kinds := typing.get_args(hint)):
        if typing.get_origin(hint) in (typing.Union, types.UnionType):
            fitting = [kind for kind in kinds if kind is not type(None)]
            return _told(value, fitting[0]) if len(fitting) == 1 else value
        if isinstance(value, list):
            return [_told(item, kinds[0]) for item in value]
        return {key: _told(item, kinds[-1]) for key, item in value.items()}
    if isinstance(value, dict) and "_target_" not in value and dataclasses.is_dataclass(hint):
        assert isinstance(hint, type)
        return {"_target_": f"{hint.__module__}.{hint.__qualname__}", **value}
    return value


def _hints(target: Any) -> dict[str, Any]:
    """Annotations of a target's parameters; none where it cannot be had, which is refused later."""
    try:
        called = hydra.utils.get_object(target)
        return typing.get_type_hints(called.__init__ if inspect.isclass(called) else called)
    except (ImportError, ValueError, TypeError, NameError, AttributeError):
        return {}


def binding_faults(node: Any, path: str) -> Iterator[str]:
    """What keeps the ``_target_`` nodes at and below ``node`` from being called: names, types."""
    if isinstance(node, list):
        for index, item in enumerate(node):
            yield from binding_faults(item, f"{path}.{index}")
    if not isinstance(node, dict):
        return
    for key, value in node.items():
        yield from binding_faults(value, f"{path}.{key}" if path else str(key))
    if "_target_" not in node:
        return
    for key, kind in {"_target_": str, "_partial_": bool, "_recursive_": bool}.items():
        if key in node and not isinstance(node[key], kind):
            meant = "the dotted name of a class or function" if kind is str else "true or false"
            yield f"{path}.{key}={node[key]}: must be {meant}"
    if not isinstance(node["_target_"], str):
        return
    try:
        target = hydra.utils.get_object(node["_target_"])
        parameters = inspect.signature(target).parameters
        hints = typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)
    except (ImportError, ValueError, TypeError, NameError, AttributeError) as error:
        if isinstance(error, TypeError | NameError | AttributeError):
            return  # a target whose annotations cannot be read is left to its own checks
        reason = [*str(error).splitlines(), ""][:2][-1]  # the first line repeats the target
        yield f"{path}._target_: {node['_target_']!r} cannot be imported: {reason}"
        return
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    given = {key: value for key, value in node.items() if not _is_hydras(key)}
    for key, value in given.items():
        if key not in parameters and not open_ended:
            hint = nearest(key, parameters)
            yield f"{path}.{key}: {node['_target_']} takes no such key; {hint}"
        elif value == "???":
            yield f"{path}.{key}: missing; {node['_target_']} needs it"
        elif key in hints:
            yield from _type_faults(value, hints[key], f"{path}.{key}")
    if not node.get("_partial_"):
        for name, parameter in parameters.items():
            required = parameter.default is parameter.empty and parameter.kind not in (
                parameter.VAR_KEYWORD,
                parameter.VAR_POSITIONAL,
            )
            if required and name not in given and name != "self":
                yield f"{path}.{name}: missing; {node['_target_']} needs it"


def shape_faults(plain: Mapping[Any, Any], faults: list[str]) -> Iterator[str]:
    """What must be a mapping and is not, or lacks a ``_target_``; not what is at fault already."""
    holds = {
        "validation_data": "partition → {inputs: …}; ~validation_data.<partition> takes one out",
        "model.inputs": "input → {_target_: …}",
        "model.tasks": "task → what differs from the section task, {} for nothing",
    }
    model = plain["model"] if isinstance(plain["model"], dict) else {"inputs": {}, "tasks": {}}
    nodes = {"validation_data": plain["validation_data"]}
    nodes |= {f"model.{key}": model.get(key) for key in ("inputs", "tasks")}
    for place, rows in list(nodes.items()):
        if isinstance(rows, dict):
            nodes |= {f"{place}.{name}": row for name, row in rows.items()}
    for name in ("training", "model", "train_data", "optimizer", "tracking"):
        nodes[name] = plain[name]
    for place, node in nodes.items():
        if any_at(faults, place):
            continue
        if not isinstance(node, dict):
            shape = holds.get(place, "{_target_: …}")
            yield f"{place}={'null' if node is None else node}: must be a mapping, {shape}"
        elif "_target_" not in node and place not in holds:
            yield f"{place}._target_: missing; it names what is made of these values"


def any_at(faults: list[str], *places: str) -> bool:
    """Whether a fault is at or below one of the places."""
    return any(re.match(rf"{re.escape(place)}\b", fault) for fault in faults for place in places)


def _is_hydras(key: Any) -> bool:
    return key in ("_target_", "_partial_", "_convert_", "_recursive_", "_args_")


_PLAIN = (str, int, float, bool, type(None))


def _type_faults(value: Any, hint: Any, place: str) -> Iterator[str]:
    """Why a plain value at ``place`` cannot be what is annotated; of a mapping, which values."""
    if _admits(hint, value):
        return
    wanted = getattr(hint, "__name__", None) if inspect.isclass(hint) else None
    wanted = wanted or _in_words(hint)
    kinds = _kinds(hint)
    rows = [kind for kind in kinds if _is_mapping(kind)]
    if isinstance(value, dict) and rows:
        for key, row in value.items():
            yield from _type_faults(row, typing.get_args(rows[0])[1], f"{place}.{key}")
    elif isinstance(value, dict) and not all(kind in _PLAIN for kind in kinds):
        yield f"{place}._target_: missing; it names the {wanted} that is made of these values"
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"{place}={value!r}: must be a finite number"
    elif kinds and all(_is_made(kind) for kind in kinds):
        yield f"{place}={value!r}: must be a mapping{_shape(kinds, wanted)}"
    else:
        yield f"{place}={value!r}: must be {wanted}"


def _shape(kinds: Sequence[Any], wanted: str) -> str:
    """The fields of the one dataclass that is annotated; of anything else that it is made."""
    kinds = [kind for kind in kinds if kind is not type(None)]
    if len(kinds) == 1 and dataclasses.is_dataclass(kinds[0]):
        names = [field.name for field in dataclasses.fields(kinds[0]) if field.init]
        return f" {{{', '.join(f'{name}: …' for name in names)}}}"
    return f", {{_target_: …}}, that makes a {wanted}"


def _kinds(hint: Any) -> tuple[Any, ...]:
    """What a value may be of: the parts of a union, or the annotation itself."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if union else (hint,)


def _is_made(hint: Any) -> bool:
    """Whether only a node with a ``_target_`` becomes what is annotated."""
    if typing.get_origin(hint) is collections.abc.Callable:
        return True
    return inspect.isclass(hint) and hint not in (*_PLAIN, Any, list, dict, tuple)


def _is_mapping(hint: Any) -> bool:
    origin = typing.get_origin(hint)
    return isinstance(origin, type) and issubclass(origin, Mapping)


def _admits(hint: Any, value: Any) -> bool:
    """Whether a plain value may stand where ``hint`` is annotated; true is no number, nan neither.

    A node with a ``_target_`` may stand anywhere: what it becomes is not judged. What a class is
    annotated for, a plain value is not. Of annotations that are not known here, anything is.
    """
    if hint is Any or (isinstance(value, dict) and "_target_" in value):
        return True
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if len(kinds := _kinds(hint)) > 1:
        return any(_admits(kind, value) for kind in kinds)
    if origin is typing.Literal:
        return any(type(value) is type(allowed) and value == allowed for allowed in arguments)
    if hint is float:
        return (
            isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        )
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if origin is tuple:
        if arguments[-1] is not ... and isinstance(value, list) and len(value) == len(arguments):
            return all(map(_admits, arguments, value))
        if arguments[-1] is not ...:
            return False
    if origin is collections.abc.Callable:
        return False
    if _is_mapping(hint):
        return isinstance(value, dict) and all(_admits(arguments[1], v) for v in value.values())
    if isinstance(origin, type) and issubclass(origin, Iterable):
        return isinstance(value, list) and all(_admits(arguments[0], v) for v in value)
    if inspect.isclass(hint):
        return isinstance(value, hint) if not getattr(hint, "_is_protocol", False) else False
    return True


def _in_words(hint: Any) -> str:
    """An annotation as a person reads it: "one of mean, sum" or "float or null"."""
    if typing.get_origin(hint) is typing.Literal:
        return f"one of {', '.join(map(str, typing.get_args(hint)))}"
    words = str(hint).replace("typing.", "").replace("collections.abc.", "")
    return words.replace(" | None", " or null")
