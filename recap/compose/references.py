"""What the references of a composed config lead to: its values, and where they were written."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

OPEN = "???"  # a setting that is left to be given
_TEMPLATES = ("task", "schedule", "train_data")
_PATH = re.compile(r"\$\{([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)\}", re.ASCII)
_DEEPEST = 50  # references behind each other: more are a circle
_MARK = "<left open>"  # OmegaConf resolves no reference to what is open


def resolved(cfg: DictConfig) -> Any:
    """The values of ``cfg``; ``OPEN`` also for those that refer to one that is left open.

    Raises:
        OmegaConfBaseException: a reference leads nowhere.
    """
    raw = OmegaConf.to_container(cfg, resolve=False)
    if OPEN not in (value for _, value in _leaves(raw, "")):
        return values(cfg)
    marked = OmegaConf.create(_replaced(raw, lambda value: _MARK if value == OPEN else value))
    plain = OmegaConf.to_container(marked, resolve=True)
    return _replaced(plain, lambda value: OPEN if _MARK in str(value) else value)


def values(cfg: DictConfig) -> Any:
    """``OmegaConf.to_container(cfg, resolve=True)``, of a whole config and twenty times as fast.

    OmegaConf parses each of a thousand references by a grammar. Nearly all name a path of mappings:
    those are looked up here, and where another one is met OmegaConf does it all.

    Raises:
        OmegaConfBaseException: a reference leads nowhere.
    """
    raw: Any = OmegaConf.to_container(cfg, resolve=False)
    try:
        return _looked_up(raw, raw, 0)
    except _Other:
        return OmegaConf.to_container(cfg, resolve=True)


def references(cfg: DictConfig) -> dict[str, str]:
    """Path of every value that a template gives → path of the template's value, its origin.

    Also of a row that has numbers of its own in the schedule, which names it.
    """
    direct = {}
    for path, value in _leaves(OmegaConf.to_container(cfg, resolve=False), ""):
        whole = re.fullmatch(r"\$\{([^${}:]+)\}", value) if isinstance(value, str) else None
        if whole and whole[1].split(".")[0] in _TEMPLATES:
            direct[path] = whole[1]
            (row, _, _), (own, _, _) = path.rpartition("."), whole[1].rpartition(".")
            if own.startswith("schedule.") and own.split(".")[-1] == row.split(".")[-1]:
                direct[row] = own
    return {path: _followed(path, direct) for path in direct}


def told_at_origin(faults: Sequence[str], origins: Mapping[str, str]) -> list[str]:
    """``faults``, each once: of a template's value where it is written, not where it is filled in.

    One that the template's own section does not tell says how many places the value fills.
    """
    places = Counter(origins.values())
    out = []
    for fault in faults:
        path = re.split(r"[=: ]", fault, maxsplit=1)[0]
        origin = origins.get(path)
        if origin is not None:
            fault = f"{origin}{fault.removeprefix(path)}"
            if fault not in faults and places[origin] > 1:
                fault = f"{fault} (it fills {places[origin]} places)"
        out.append(fault)
    return list(dict.fromkeys(out))


def _followed(path: str, direct: Mapping[str, str]) -> str:
    seen = set()
    while path in direct and path not in seen:
        seen.add(path)
        path = direct[path]
    return path


class _Other(Exception):
    """A reference that OmegaConf is to follow, or to refuse."""


def _looked_up(node: Any, raw: Any, depth: int) -> Any:
    if isinstance(node, dict):
        return {key: _looked_up(value, raw, depth) for key, value in node.items()}
    if isinstance(node, list):
        return [_looked_up(value, raw, depth) for value in node]
    if node == OPEN or not isinstance(node, str) or "$" not in node:
        return node
    if depth > _DEEPEST or "\\" in node or "$$" in node:
        raise _Other
    if whole := _PATH.fullmatch(node):
        return _value(whole, raw, depth)
    text = _PATH.sub(lambda found: _text(_value(found, raw, depth)), node)
    if "${" in _PATH.sub("", node):
        raise _Other
    return text


def _value(found: re.Match[str], raw: Any, depth: int) -> Any:
    node = raw
    for key in found[1].split("."):
        if not isinstance(node, dict) or key not in node:
            raise _Other  # by a number, below another reference, or nowhere
        node = node[key]
    if node == OPEN:
        raise _Other
    return _looked_up(node, raw, depth + 1)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _Other
    return value


def _leaves(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict | list):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, node


def _replaced(node: Any, by: Any) -> Any:
    if isinstance(node, dict):
        return {key: _replaced(value, by) for key, value in node.items()}
    if isinstance(node, list):
        return [_replaced(value, by) for value in node]
    return by(node)
