"""Nodes of a config with a ``_target_`` as objects; what they refuse is said with its key."""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Mapping
from typing import Any

import hydra
from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from recap.compose.binding import binding_faults, completed

_SETTINGS = "_settings_"  # of a partial node, one level further down than the user wrote them


# lists reach Python as lists, and every other node without a target as a dict
instantiate = functools.partial(hydra.utils.instantiate, _convert_="object")


def section(cfg: DictConfig, place: str) -> Any:
    """The object of the node at ``place`` of a composed config, for a command that needs no more.

    Raises:
        ValueError: what keeps it from being made; every line begins with the path it is about.
    """
    name, *keys = place.split(".")
    if not OmegaConf.is_dict(cfg[name]):
        raise ValueError(f"{name}={cfg[name]}: must be a mapping, {{_target_: …}}")
    plain: Any = completed(OmegaConf.to_container(cfg[name], resolve=True))
    node = functools.reduce(lambda inner, key: inner[key], keys, plain)
    if faults := list(binding_faults(node, place)):
        raise ValueError("\n".join(faults))
    return Nodes({name: plain}).made(place)


class Nodes:
    """The nodes of a plain config; a partial one becomes a ``Build``."""

    def __init__(self, plain: Mapping[str, Any]) -> None:
        self._plain = plain
        self._placed = OmegaConf.create(_placed(plain, ""))

    def made(self, place: str) -> Any:
        """The object of the node at ``place``.

        A row of a mapping that refuses is left out and the rest tried, so that all faults are told.

        Raises:
            ValueError: it, or one that it holds, refuses its settings; every line begins with the
                path of what it is about.
        """
        lines: list[str] = []
        out: list[str] = []
        made = None
        while made is None:
            try:
                made = hydra.utils.instantiate(OmegaConf.select(self._placed, place))
            except InstantiationException as error:
                where = re.search(r"^full_key: (.+)$", str(error), re.MULTILINE)
                path = where[1] if where else place
                if any(row.startswith(f"{path}.") for row in out):
                    break  # it may refuse because of what was taken out of it
                lines += self._told(path, error.__cause__ or error)
                if not self._taken_out(path, place):
                    break
                out.append(path)
        if lines:
            raise ValueError("\n".join(lines))
        return made

    def _told(self, path: str, error: BaseException) -> list[str]:
        path = path.replace(f".{_SETTINGS}", "")
        settings = OmegaConf.select(OmegaConf.create(dict(self._plain)), path)
        return located(path, error, settings or {})

    def _taken_out(self, path: str, place: str) -> bool:
        """Takes the node at ``path`` out, if it is a row of a mapping below ``place``."""
        rows, _, row = path.rpartition(".")
        mapping = OmegaConf.select(self._placed, rows) if path != place and rows else None
        if not isinstance(mapping, DictConfig) or "_target_" in mapping or row not in mapping:
            return False
        if rows.endswith(_SETTINGS):  # the settings of a partial node, which it may need
            return False
        del mapping[row]
        return True


class Build:
    """What a node with ``_partial_: true`` becomes: ``target``, to be called with its settings."""

    def __init__(self, *, place: str, target: str, _settings_: Mapping[str, Any]) -> None:
        self.place, self.target = place, target
        self.settings = dict(_settings_)
        self._called = hydra.utils.get_object(target)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The object.

        Raises:
            ValueError: its settings are refused, or one is missing; as ``Nodes.made`` says it.
        """
        try:
            return self._called(*args, **self.settings, **kwargs)
        # of the libraries, some refuse a setting by what they stumble over
        except (ValueError, TypeError, RuntimeError, IndexError) as error:
            raise ValueError("\n".join(located(self.place, error, self.settings))) from error


def located(place: str, error: BaseException, settings: Mapping[str, Any]) -> list[str]:
    """The lines of an error, each with the path of the setting of the node at ``place`` it names.

    A line names the setting whose ``name=`` is in it, or else, in words that know no setting, the
    one whose value is. Lines that have a path already are left as they are.
    """
    missing = re.search(r"missing \d+ required .*?argument.*?: (.+)$", str(error))
    if isinstance(error, TypeError) and missing:
        names = re.findall(r"'(\w+)'", missing[1])
        return [f"{place}.{name}: missing; it has no default" for name in names]
    kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
    section = place.split(".")[0]
    lines = []
    for line in str(error).splitlines():
        if line.startswith(f"{section}."):
            lines.append(line)
        elif re.match(r"[\w.]+=", line) or line.startswith("tasks."):
            lines.append(f"{place}.{line}")
        else:
            name = _named(line, settings)
            begins = name and re.match(rf"{re.escape(name[1:])}[\w.]*: ", line)
            lines.append(f"{place}.{line}" if begins else f"{place}{name}: {kind}{line}")
    return lines


def keyed(section: str, error: BaseException, keys: Collection[Any]) -> list[str]:
    """The lines of an error; those that begin with one of the section's keys with its path."""
    lines = []
    for line in str(error).splitlines():
        key = re.match(r"(\w+)(\.[^\s:=]+)?(=| must|: )", line)
        lines.append(f"{section}.{line}" if key and key[1] in keys else line)
    return lines


def _named(line: str, settings: Mapping[str, Any]) -> str:
    """ ".setting" for the one that the line names, by itself or by its value; else ""."""
    for pattern in (r"(?<![\w.]){}=", r"(?<![\w.]){}\b"):
        for name in settings:
            if re.search(pattern.format(re.escape(name)), line):
                return f".{name}"
    for name, value in settings.items():
        for item in value if isinstance(value, list) else [value]:
            # torch: "Invalid epsilon value: -1"
            if f"{item!r}" in line if isinstance(item, str) else line.endswith(f": {item}"):
                return f".{name}"
    return ""


def _placed(node: Any, path: str) -> Any:
    """``node`` with every partial node in it as one of a ``Build`` that knows its place.

    Each says itself what ``instantiate`` would: Hydra copies the config once more for an argument.
    """
    if isinstance(node, list):
        return [_placed(item, f"{path}.{index}") for index, item in enumerate(node)]
    if not isinstance(node, dict):
        return node
    inner = {k: _placed(v, f"{path}.{k}" if path else str(k)) for k, v in node.items()}
    if inner.pop("_partial_", False) is not True or "_target_" not in inner:
        conversion = {"_convert_": "object"} if "_target_" in inner else {}
        return {**conversion, **inner, **({"_partial_": False} if "_partial_" in node else {})}
    return {
        "_target_": f"{__name__}.{Build.__qualname__}",
        "_convert_": "object",
        "place": path,
        "target": inner.pop("_target_"),
        _SETTINGS: inner,
    }
