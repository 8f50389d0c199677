"""A configuration file of the original, read as it reads it, completed and judged."""

from __future__ import annotations

import datetime
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from recap.nearest import nearest
from recap.original.fields import ORIGINAL, Many, Record, Value

# Around the name of an environment variable until a value is written: the original replaces them in
# the text, before there is any YAML.
_START, _END = "\ue000", "\ue001"
_REFERENCE = re.compile(r"\$(?:\$|\{([A-Za-z_]\w*)\}|([A-Za-z_]\w*))", re.ASCII)
_MARKED = re.compile(f"{_START}(\\w+){_END}")
DATA_ROOT = "\ue002"  # in a path of the experiment: its key data_root
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}


@dataclass
class Told:
    """What reading has to say: ``faults`` stop a conversion, ``findings`` do not."""

    faults: list[str] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)


def read(text: str, told: Told) -> dict[str, Any]:
    """The configuration in ``text`` with every field of the original, absent ones by default.

    ``null`` and an absent key are the same, as there. Strings keep references to the environment,
    see ``expanded`` and ``interpolated``. What is wrong is added to ``told``; what it concerns is
    then left out or None.
    """

    def mark(match: re.Match) -> str:
        name = match[1] or match[2]
        return f"{_START}{name}{_END}" if name else "$"

    try:
        marked = _REFERENCE.sub(mark, text)
        content = yaml.safe_load(marked)
    except yaml.YAMLError as error:
        told.faults.append(f"not YAML: {' '.join(str(error).split())}")
        return {}
    if not isinstance(content, dict):
        told.faults.append("must be a mapping with the sections model, train_data, …")
        return {}
    completed = _completed(ORIGINAL, content, "", told)
    assert isinstance(completed, dict)
    return completed


def expanded(text: str) -> str:
    """``text`` with the environment's values; a variable that is not set stays as ``${NAME}``."""
    return _MARKED.sub(lambda match: os.environ.get(match[1], f"${{{match[1]}}}"), text)


def interpolated(value: Any) -> Any:
    """``value`` for a YAML file here: references to the environment become ``${oc.env:NAME}``."""
    if isinstance(value, str):
        escaped = value.replace("${", "\\${").replace(DATA_ROOT, "${data_root}")
        return _MARKED.sub(r"${oc.env:\1}", escaped)
    return value


def unset(node: Any) -> set[str]:
    """The environment variables in the strings of ``node`` that are not set."""
    if isinstance(node, dict | list):
        items = node.values() if isinstance(node, dict) else node
        return set().union(*(unset(item) for item in items))
    return {name for name in _MARKED.findall(str(node)) if name not in os.environ}


def marked(text: str) -> Iterator[tuple[str, str]]:
    """(text before it, ``${NAME}``) of each reference to the environment; the last is without."""
    before = 0
    for match in _MARKED.finditer(text):
        yield text[before : match.start()], f"${{{match[1]}}}"
        before = match.end()
    yield text[before:], ""


def shown(value: Any) -> str:
    """``value`` for a person, references to the environment as they were written."""
    return _MARKED.sub(r"${\1}", str(value))


def _completed(spec: Any, node: Any, path: str, told: Told) -> Any:
    """``node`` with every field that ``spec`` knows."""
    if node is None:
        if spec.required:
            told.faults.append(f"{path}: missing; the original needs it")
        if not isinstance(spec, Record) or spec.default is None:
            return spec.default
        node = spec.default
    if isinstance(spec, Record):
        return _record(spec, node, path, told)
    if isinstance(spec, Many):
        return _many(spec, node, path, told)
    return _value(spec, node, path, told)


def _record(spec: Record, node: Any, path: str, told: Told) -> dict[str, Any] | None:
    if not isinstance(node, dict):
        told.faults.append(f"{path}={shown(node)}: must be a mapping")
        return None
    prefix = f"{path}." if path else ""
    for key in node:
        if key not in spec.fields:
            hint = nearest(str(key), spec.fields) if spec.fields else "it has none"
            told.findings.append(
                f"{prefix}{key}: unknown to the original, which refuses it; left out; {hint}"
            )
    for group in spec.one_of:
        given = [key for key in group if node.get(key) is not None]
        if len(given) != 1:
            told.faults.append(
                f"{path}: exactly one of {', '.join(group)} must be given, "
                f"{'and none is' if not given else 'not ' + ' and '.join(given)}"
            )
    # in the order of the file, which preprocess steps and tasks are said in, then the others
    order = [key for key in node if key in spec.fields]
    order += [key for key in spec.fields if key not in node]
    return {
        key: _completed(spec.fields[key], node.get(key), f"{prefix}{key}", told) for key in order
    }


def _many(spec: Many, node: Any, path: str, told: Told) -> Any:
    if not isinstance(node, dict if spec.by_name else list):
        shape = "a mapping" if spec.by_name else "a list"
        told.faults.append(f"{path}={shown(node)}: must be {shape}")
        return spec.default
    if isinstance(node, dict):
        rows = ((expanded(str(key)), row) for key, row in node.items())
        return {key: _item(spec, row, f"{path}.{key}", told) for key, row in rows}
    if spec.required and not node:
        told.faults.append(f"{path}=[]: must have at least one entry")
    return [_item(spec, row, f"{path}.{index}", told) for index, row in enumerate(node)]


def _item(spec: Many, row: Any, path: str, told: Told) -> Any:
    if row is None and isinstance(spec.item, Record) and not spec.item.required:
        row = {}  # a task written without anything, `name:`
    if row is None:
        told.faults.append(f"{path}: null; must be a value")
        return None
    return _completed(spec.item, row, path, told)


def _value(spec: Value, node: Any, path: str, told: Told) -> Any:
    if isinstance(node, str) and spec.kind is not str and (match := _MARKED.fullmatch(node)):
        node = yaml.safe_load(expanded(match[0])) if match[1] in os.environ else node
    if spec.kind is str and isinstance(node, datetime.date | int | float):
        node = str(node)  # a date is written without quotes
    if spec.kind is float and isinstance(node, str):
        node = next(_numbers(node), node)  # YAML 1.1 takes 1e-4 for a string, pydantic for a number
    if spec.kind is float and isinstance(node, int) and not isinstance(node, bool):
        node = float(node)
    if spec.kind is int and isinstance(node, float) and node.is_integer():
        node = int(node)
    fits = isinstance(node, spec.kind) and not (spec.kind is int and isinstance(node, bool))
    if not fits:
        word = _WORDS.get(spec.kind, "a mapping")
        told.faults.append(f"{path}={shown(node)}: must be {word}")
        return spec.default
    if isinstance(node, float) and not math.isfinite(node):
        told.faults.append(f"{path}={node}: must be finite")
    if spec.above is not None and isinstance(node, int | float) and not node > spec.above:
        told.faults.append(f"{path}={node}: must be above {spec.above:g}")
    if spec.among and node not in spec.among:
        told.faults.append(f"{path}={node}: must be one of {', '.join(spec.among)}")
    return node


def _numbers(text: str) -> Iterator[float]:
    try:
        yield float(text)
    except ValueError:
        return
