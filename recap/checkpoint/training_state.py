"""What a run goes on from, and how it is put back into a model and its optimizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from recap.checkpoint.folder import CheckpointError
from recap.checkpoint.loading import model_names, read_into
from recap.checkpoint.manifest import dtype, flat, read_manifest, split
from recap.checkpoint.shards import as_sharded, local_shape, whole_shape

_OPTIMIZER = "optimizer/"


def training_state(
    model: nn.Module, optimizer: torch.optim.Optimizer, *, step: int, position: int
) -> dict[str, Any]:
    """What a restart needs: weights, moments by name and whose, step, data position.

    Learning rates and other settings are not in it: they follow from the step and the config; nor
    are random numbers, which follow from the seed and the step.
    """
    weights, moments = model.state_dict(), optimizer.state
    held = {n: moments[p] for n, p in model.named_parameters() if p in moments}
    return {
        "model": weights,
        "optimizer": {
            name: {key: _laid_out(key, value, weights.get(name)) for key, value in own.items()}
            for name, own in held.items()
        },
        "algorithm": _algorithm(optimizer),
        "step": step,
        "position": position,
    }


def restore_training(
    checkpoint: Path, model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[int, int]:
    """Puts a ``training_state`` back that was saved; returns (step, data position).

    The tensors are read into those of the model and the optimizer, on every rank its own part. The
    optimizer's settings stay those that it was built with.

    Raises:
        CheckpointError: the model is another one; lists every difference. The optimizer is another
            one: moments of one algorithm mean nothing to another. Nothing was changed then. Or a
            file is damaged.
    """
    state = read_manifest(checkpoint)["state"]
    own = model.state_dict()
    _refuse_differences(model_names(state), own)
    saved = state["algorithm"]["value"]
    if saved != _algorithm(optimizer):
        raise CheckpointError(
            f"optimizer: the checkpoint holds moments of {saved}, configured is "
            f"{_algorithm(optimizer)}; keep the optimizer, or start a new run with "
            "training.initial_checkpoint_dir"
        )
    names: dict[Tensor, str] = {p: name for name, p in model.named_parameters()}
    trained = {names[p]: p for group in optimizer.param_groups for p in group["params"]}
    moments = _moments(state, trained, optimizer, own)
    parts = {
        name: {key: _laid_out(key, value, own.get(name)) for key, value in of_name.items()}
        for name, of_name in moments.items()
    }
    targets = flat({"model": own, "optimizer": parts})
    _refuse_other_moments(state, targets)
    read_into(checkpoint, {path: t for path, t in targets.items() if isinstance(t, Tensor)})
    model.load_state_dict(own)  # for modules that give copies of what they hold
    held = {i: moments[name] for i, name in enumerate(trained) if name in moments}
    optimizer.load_state_dict({**optimizer.state_dict(), "state": held})
    return state["step"]["value"], state["position"]["value"]


def restore_model(weights: Mapping[str, Tensor], model: nn.Module) -> None:
    """Loads ``weights`` into ``model``.

    Raises:
        CheckpointError: see ``compare``.
    """
    compare(weights, model)
    model.load_state_dict(weights)


def compare(weights: Mapping[str, Tensor], model: nn.Module) -> None:
    """Refuses weights that are not of ``model``.

    Raises:
        CheckpointError: names or shapes differ; lists every difference.
    """
    shapes = {name: whole_shape(tensor) for name, tensor in weights.items()}
    _refuse_differences(shapes, model.state_dict())


def _refuse_differences(saved: Mapping[str, Sequence[int]], own: Mapping[str, Tensor]) -> None:
    differences = [f"{name}: in the checkpoint only" for name in saved if name not in own]
    differences += [f"{name}: in the model only" for name in own if name not in saved]
    differences += [
        f"{name}: {saved[name]} in the checkpoint, {whole_shape(tensor)} in the model"
        for name, tensor in own.items()
        if name in saved and saved[name] != whole_shape(tensor)
    ]
    if differences:
        raise CheckpointError(
            "the checkpoint is of another architecture; return to it or name another folder; "
            "these differ:\n  " + "\n  ".join(differences)
        )


def _moments(
    state: Mapping[str, Mapping[str, Any]],
    parameters: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    weights: Mapping[str, Tensor],
) -> dict[str, dict[str, Any]]:
    """Name → key → the tensor to read into, or the value itself, of what was saved of them.

    Of a weight that is split, this rank's part; nothing where it has none.
    """
    moments: dict[str, dict[str, Any]] = {}
    for path, entry in state.items():
        if not path.startswith(_OPTIMIZER):
            continue
        _, name, *key = split(path)
        if name not in parameters:  # not trained any more
            continue
        weight = weights.get(name, parameters[name])
        shape = local_shape(entry.get("shape", ()), parameters[name], weight)
        if shape is None:
            continue
        of_name = moments.setdefault(name, {})
        if key and "value" in entry:
            of_name[key[0]] = entry["value"]
        elif key:
            held = optimizer.state.get(parameters[name], {}).get(key[0])
            of_name[key[0]] = _target(shape, dtype(entry), parameters[name], held)
    return moments


def _target(shape: torch.Size, kind: torch.dtype, parameter: Tensor, held: Any) -> Tensor:
    """Where a moment is read into: the one that is there, or a new one."""
    if isinstance(held, Tensor) and held.shape == shape:
        return held
    if parameter.shape == shape:
        return torch.empty_like(parameter.detach(), dtype=kind)
    return torch.empty(shape, dtype=kind)


def _laid_out(key: str, value: Any, weight: Tensor | None) -> Any:
    if weight is None or not isinstance(value, Tensor) or key == "step":
        return value
    return as_sharded(value, weight)


def _refuse_other_moments(
    state: Mapping[str, Mapping[str, Any]], targets: Mapping[str, Any]
) -> None:
    """Moments of a number for every part of a row are of one way to split rows only."""
    differences = [
        f"{path}: {state[path]['shape']} in the checkpoint, {whole_shape(target)} here"
        for path, target in targets.items()
        if isinstance(target, Tensor) and state[path].get("shape") != whole_shape(target)
    ]
    if differences:
        raise CheckpointError(
            "the checkpoint holds moments of tables whose rows were split in another way; split "
            "them as before, or start a new run with training.initial_checkpoint_dir:\n  "
            + "\n  ".join(differences)
        )


def _algorithm(optimizer: torch.optim.Optimizer) -> str:
    """The class of an optimizer, or of each of the ``parts`` that it joins, in their order."""
    parts = getattr(optimizer, "parts", (optimizer,))
    kinds = [type(getattr(part, "algorithm", part)) for part in parts]
    return ", ".join(f"{kind.__module__}.{kind.__qualname__}" for kind in kinds)
