"""Tensors out of a checkpoint's files, whole or in shards; nothing in the files is ever run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from recap.checkpoint.folder import CheckpointError, reason
from recap.checkpoint.manifest import damaged, dtype, nested, read_manifest, split
from recap.checkpoint.soundness import damage

MODEL = "model/"


def load(checkpoint: Path) -> dict[str, Any]:
    """The state that was saved, whole on the CPU, whatever the number of ranks that saved it.

    Raises:
        CheckpointError: a file is damaged, or holds anything else than tensors.
    """
    return _loaded(checkpoint, "")


def weights(checkpoint: Path) -> dict[str, Tensor]:
    """The model's part of ``load``, without the optimizer's.

    Raises:
        CheckpointError: see ``load``.
    """
    return _loaded(checkpoint, MODEL).get("model", {})


def read_into(checkpoint: Path, targets: Mapping[str, Tensor]) -> None:
    """Fills ``targets``, by their paths in the state, in place; shards with their part.

    Raises:
        CheckpointError: see ``load``.
    """
    from recap.checkpoint.reading import fill  # a second of imports that only loading needs

    try:
        fill(checkpoint, read_manifest(checkpoint)["files"], dict(targets))
    except UnpicklingError as error:  # torch's own message advises to run what is in the file
        raise CheckpointError(
            f"{checkpoint} cannot be loaded: it holds something else than tensors and plain "
            "values, and none of it was run; take it only from a run of recap"
        ) from error
    except CheckpointError:
        raise
    except Exception as error:
        raise damaged(checkpoint / "manifest.json", reason(error)) from error


def _loaded(checkpoint: Path, below: str) -> dict[str, Any]:
    """What the paths that begin with ``below`` hold."""
    manifest = read_manifest(checkpoint)
    if found := damage(checkpoint, manifest["files"]):
        raise damaged(checkpoint / found[0], found[1])
    leaves: dict[str, Any] = {}
    for path, entry in manifest["state"].items():
        if path.startswith(below):
            plain = "value" in entry
            leaves[path] = (
                entry["value"] if plain else torch.empty(entry["shape"], dtype=dtype(entry))
            )
    tensors = {path: leaf for path, leaf in leaves.items() if isinstance(leaf, Tensor)}
    read_into(checkpoint, tensors)
    return nested(leaves)


def model_names(state: Mapping[str, Mapping[str, Any]]) -> dict[str, list[int]]:
    """Name → shape of every tensor of the model, out of the manifest's ``state``."""
    return {
        split(path)[1]: entry["shape"]
        for path, entry in state.items()
        if path.startswith(MODEL) and "shape" in entry
    }
