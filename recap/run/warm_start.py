"""The weights that a new run starts from: another run's, or a model's of the original."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from recap import checkpoint, weight_files
from recap.model.heavy_ranker import HeavyRanker
from recap.model.original_weights import is_original, original_weights
from recap.training import Training


def find(named: str) -> Path:
    """The checkpoint, the file or the torchsnapshot that ``training.initial_checkpoint_dir`` names.

    Raises:
        CheckpointError, WeightFileError: there is none, or there are several.
    """
    path = Path(named)
    if (path / "manifest.json").is_file() or checkpoint.latest(path) is not None:
        return checkpoint.find(path)
    found = weight_files.find(path)
    if found is None:
        raise checkpoint.CheckpointError(
            f"{path} is neither a checkpoint nor the folder of a run that has one, nor a file of "
            "weights or a folder that holds one"
        )
    return found


def start_faults(training: Training, ranker: HeavyRanker) -> Iterator[str]:
    """Why a run that has no checkpoint of its own yet could not start, a line per difference."""
    initial = training.initial_checkpoint_dir
    if initial is None or checkpoint.latest(Path(training.save_dir)) is not None:
        return
    try:
        initial_weights(initial, ranker)
    except ValueError as error:
        for line in str(error).splitlines():
            yield f"training.initial_checkpoint_dir={initial}: {line.strip()}"


def initial_weights(named: str, ranker: HeavyRanker) -> dict[str, Tensor]:
    """The state dict for ``ranker`` out of what ``named`` names, joined by name.

    Weights of the original are recognised by their names.

    Raises:
        CheckpointError, WeightFileError: none, damaged, or of another architecture; lists every
            difference.
    """
    found = find(named)
    if (found / "manifest.json").is_file():
        weights = checkpoint.weights(found)
    else:
        weights = weight_files.load(found)
    if is_original(weights):
        try:
            weights = original_weights(weights, ranker)
        except ValueError as error:
            lines = "\n  ".join(str(error).splitlines())
            raise checkpoint.CheckpointError(
                f"{found} holds weights of the original that are not of this model:\n  {lines}"
            ) from error
    checkpoint.compare(weights, ranker)
    return weights
