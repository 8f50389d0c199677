"""Names out of a configuration as keys of ``nn.ModuleDict``."""

from __future__ import annotations

from torch import nn


def module_key(name: str) -> str:
    """``name`` as a key of nn.ModuleDict, with ``_`` behind it where a module has that attribute.

    KuaiRand has a task called ``forward``; its tower is ``towers.forward_`` in the state dict.

    Raises ValueError for an empty name, one with a dot, and one that reads like such a key.
    """
    if not name or "." in name:
        raise ValueError(f"name {name!r} must not be empty nor hold a dot; write '_' for it")
    if name.endswith("_") and hasattr(_AN_EMPTY_DICT, name[:-1]):
        raise ValueError(f"name {name!r} is taken by {name[:-1]!r}; choose another")
    return f"{name}_" if hasattr(_AN_EMPTY_DICT, name) else name


_AN_EMPTY_DICT = nn.ModuleDict()
