"""``manifest.json``: what a checkpoint holds, for a person and for the loading of it.

``state`` has a line for every entry of the state by its path: ``{"shape", "dtype"}`` of a tensor,
which lies in the files, or ``{"value"}`` of anything else. ``files`` has size and checksum of every
other file, ``crc32c`` is that of the manifest itself.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import unquote

import google_crc32c
import torch
from torch import Tensor

from recap.checkpoint.folder import CheckpointError, reason
from recap.checkpoint.shards import data_type, whole_shape

NAME = "manifest.json"
FORMAT = 2  # of these folders; 1 was a single file state.pt

Entries: TypeAlias = dict[str, dict[str, Any]]


def flat(state: Mapping[str, Any]) -> dict[str, Any]:
    """Path → tensor or plain value of everything in nested mappings, ``a/b`` for state[a][b]."""
    return dict(_leaves(state, ""))


def nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """What ``flat`` was made of."""
    state: dict[str, Any] = {}
    for path, value in leaves.items():
        *above, last = split(path)
        at = state
        for name in above:
            at = at.setdefault(name, {})
        at[last] = value
    return state


def split(path: str) -> list[str]:
    """The names on a path of ``flat``."""
    return [unquote(name) for name in path.split("/")]


def entries(leaves: Mapping[str, Any]) -> Entries:
    """The lines of ``state`` in the manifest."""
    return {
        path: {"shape": whole_shape(leaf), "dtype": str(data_type(leaf)).removeprefix("torch.")}
        if isinstance(leaf, Tensor)
        else {"value": leaf}
        for path, leaf in leaves.items()
    }


def dtype(entry: Mapping[str, Any]) -> torch.dtype:
    """The data type of a tensor's line."""
    found = getattr(torch, entry["dtype"], None)
    if not isinstance(found, torch.dtype):
        raise ValueError(f"{entry['dtype']} is no data type")
    return found


def write_manifest(folder: Path, content: Mapping[str, Any]) -> None:
    """Writes the manifest into ``folder`` and brings it to disk."""
    whole = {"format": FORMAT, **content}
    text = json.dumps({**whole, "crc32c": _checksum(whole)}, indent=1)
    with (folder / NAME).open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def read_manifest(checkpoint: Path) -> dict[str, Any]:
    """The manifest of a checkpoint.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    try:
        return _read(checkpoint)
    except (OSError, ValueError) as error:
        raise damaged(checkpoint / NAME, reason(error)) from error


def damaged(file: Path, why: str) -> CheckpointError:
    """The error of a damaged file, with the way out."""
    return CheckpointError(
        f"{file} cannot be loaded, it is damaged ({why}); without the folder {file.parent.name} "
        "the run continues from the checkpoint before it"
    )


def _read(checkpoint: Path) -> dict[str, Any]:
    content = json.loads((checkpoint / NAME).read_text())
    if not isinstance(content, dict):
        raise ValueError("it is no mapping")
    if content.get("format") != FORMAT:
        raise ValueError(f"it is of format {content.get('format', 1)}, read is {FORMAT}")
    if content.pop("crc32c", None) != _checksum(content):
        raise ValueError("its checksum differs")
    return content


def _checksum(content: Mapping[str, Any]) -> str:
    """Of the content, whatever its layout."""
    return f"{google_crc32c.value(json.dumps(content, sort_keys=True).encode()):08x}"


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, Mapping) or (path and not value):
        yield path, value
        return
    for name, inner in value.items():
        assert isinstance(name, str), f"{path}: {name!r} is no name"
        quoted = name.replace("%", "%25").replace("/", "%2F")
        yield from _leaves(inner, f"{path}/{quoted}" if path else quoted)
