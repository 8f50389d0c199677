"""Weights that other programs wrote: files of torch.save, and folders of torchsnapshot."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

_METADATA = ".snapshot_metadata"
_ENDINGS = (".pt", ".pth", ".bin")


class WeightFileError(ValueError):
    """Weights that cannot be told apart or read."""


def find(path: Path) -> Path | None:
    """The file of weights or the torchsnapshot that ``path`` names; None where it names none.

    ``path`` is a file of torch.save, a folder that holds one, a torchsnapshot, or the folder in
    which the original puts one per step, of which the last is taken.

    Raises:
        WeightFileError: the folder holds several files.
    """
    if path.is_file() or (path / _METADATA).is_file():
        return path
    if not path.is_dir():
        return None
    steps = [at for at in path.iterdir() if at.name.isdigit() and (at / _METADATA).is_file()]
    if steps:
        return max(steps, key=lambda at: int(at.name))
    files = sorted(at for at in path.iterdir() if at.suffix in _ENDINGS and at.is_file())
    if len(files) > 1:
        names = ", ".join(at.name for at in files)
        raise WeightFileError(f"{path} holds several files of weights ({names}); name one of them")
    return files[0] if files else None


def load(found: Path) -> dict[str, Tensor]:
    """The tensors by name, on the CPU, of what ``find`` found. No code in a file is ever run.

    Of a file that holds more than a state dict, its ``model`` or ``state_dict`` is taken.

    Raises:
        WeightFileError: damaged, or it holds no named tensors.
    """
    try:
        if found.is_dir():
            held: Any = dict(_snapshot(found))
        else:
            held = torch.load(found, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, yaml and the file system each have their own
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightFileError(f"{found} cannot be read as weights: {reason}") from error
    for key in ("model", "state_dict"):
        if isinstance(held, Mapping) and isinstance(held.get(key), Mapping):
            held = held[key]
    if not isinstance(held, Mapping) or not held:
        raise WeightFileError(f"{found} holds no state dict, which maps names to tensors")
    if others := [str(name) for name, value in held.items() if not isinstance(value, Tensor)]:
        raise WeightFileError(f"{found} holds more than tensors: {', '.join(others[:5])}")
    return dict(held)


def _snapshot(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Name and tensor of everything that the key ``model`` of a torchsnapshot holds.

    Its metadata map ``rank/model/name`` to an entry: a tensor in a file, or one cut into pieces
    (chunks of a rank, or shards over ranks), each with its place in the whole.
    """
    manifest = yaml.safe_load((folder / _METADATA).read_text())["manifest"]
    pieces: dict[str, list[dict[str, Any]]] = {}
    for path, entry in manifest.items():
        _, key, name = [*path.split("/", 2), "", ""][:3]
        if key == "model" and entry["type"] == "Tensor":
            whole = {"offsets": [0] * len(entry["shape"]), "sizes": entry["shape"], "tensor": entry}
            pieces.setdefault(name, []).append(whole)
        elif key == "model" and entry["type"] in ("ChunkedTensor", "ShardedTensor"):
            pieces.setdefault(name, []).extend(entry.get("chunks") or entry["shards"])
    for name, parts in pieces.items():
        ends = [
            [offset + size for offset, size in zip(part["offsets"], part["sizes"], strict=True)]
            for part in parts
        ]
        tensors = [_stored(folder, part["tensor"]) for part in parts]
        whole = torch.empty(
            [max(along) for along in zip(*ends, strict=True)], dtype=tensors[0].dtype
        )
        for part, end, tensor in zip(parts, ends, tensors, strict=True):
            at = tuple(slice(*span) for span in zip(part["offsets"], end, strict=True))
            whole[at] = tensor
        yield name, whole


def _stored(folder: Path, entry: Mapping[str, Any]) -> Tensor:
    """A tensor as one entry of the metadata describes it."""
    data = (folder / entry["location"]).read_bytes()
    start, end = entry.get("byte_range") or (0, len(data))
    if entry["serializer"] == "torch_save":
        return torch.load(io.BytesIO(data[start:end]), map_location="cpu", weights_only=True)
    if entry["serializer"] != "buffer_protocol":
        raise ValueError(f"{entry['location']} is stored as {entry['serializer']}")
    dtype = getattr(torch, entry["dtype"].removeprefix("torch."))
    number = math.prod(entry["shape"])
    flat = torch.frombuffer(bytearray(data[start:end]), dtype=dtype) if number else torch.empty(0)
    return flat.reshape(entry["shape"])
