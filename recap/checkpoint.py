"""Checkpoints: everything a restart needs, written aside and renamed, loaded without running code.

A checkpoint is a folder ``<save_dir>/checkpoints/step-00001000`` with the tensors in ``state.pt``
and what a person wants to know in ``manifest.json``. It is written under another name, brought to
disk and renamed, so a folder of that name is always whole: whatever ends a run in the middle of a
save leaves the checkpoint before it in place.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

log = logging.getLogger(__name__)

_NAME = re.compile(r"step-(\d{8})")


class CheckpointError(ValueError):
    """A checkpoint that cannot be written, or does not fit what it is loaded into."""


def save(
    save_dir: Path, *, step: int, state: Mapping[str, Any], max_to_keep: int | None = None
) -> Path:
    """Writes ``state`` as the checkpoint of ``step``; returns its folder.

    ``state`` holds tensors, numbers, strings and containers of them. Afterwards only the newest
    ``max_to_keep`` checkpoints are left; one that cannot be removed is only warned of.

    A step that is there already is left as it is: a run goes on from its latest checkpoint, so it
    comes to a step of that number again only with the same state, and what is whole stays whole.

    Raises:
        CheckpointError: the disk is full or refuses; names the last whole checkpoint.
    """
    folder = save_dir / "checkpoints"
    final = folder / f"step-{step:08d}"
    aside = folder / f".writing-{final.name}"
    if final.exists():
        return final
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left_over in folder.glob(".*-step-*"):
            shutil.rmtree(left_over, ignore_errors=True)
        aside.mkdir()
        with (aside / "state.pt").open("wb") as file:
            torch.save(dict(state), file)
            file.flush()
            os.fsync(file.fileno())
        manifest = {"step": step, "torch": torch.__version__, "holds": sorted(state)}
        with (aside / "manifest.json").open("w") as file:
            json.dump(manifest, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        aside.rename(final)
        _sync_folder(folder)
    except (OSError, RuntimeError) as error:
        shutil.rmtree(aside, ignore_errors=True)  # a full disk needs the room
        last = latest(save_dir)
        raise CheckpointError(
            f"training.save_dir: the checkpoint of step {step} could not be written to {final}: "
            f"{_reason(error)}; last good checkpoint: {last.name if last else 'none'}"
        ) from error
    if max_to_keep is not None:
        for old in _all(save_dir)[:-max_to_keep]:
            try:
                _remove(old)
            except OSError as error:
                log.warning("%s is kept: it cannot be removed (%s)", old, error)
    return final


def latest(save_dir: Path) -> Path | None:
    """The newest whole checkpoint of a run, None where there is none."""
    return (_all(save_dir) or [None])[-1]


def by_step(save_dir: Path) -> dict[int, Path]:
    """The whole checkpoints of a run by their step, oldest first."""
    return {int(path.name.removeprefix("step-")): path for path in _all(save_dir)}


def find(path: Path) -> Path:
    """The checkpoint that ``path`` names: the folder of a checkpoint, or of a run for its newest.

    Raises:
        CheckpointError: there is none.
    """
    found = path if (path / "manifest.json").is_file() else latest(path)
    if found is None:
        raise CheckpointError(
            f"{path} is neither a checkpoint nor the folder of a run that has one"
        )
    return found


def load(checkpoint: Path) -> dict[str, Any]:
    """The state that was saved, on the CPU. Only tensors and plain values are ever loaded.

    Raises:
        CheckpointError: the file is damaged, or holds anything else.
    """
    try:
        return torch.load(checkpoint / "state.pt", map_location="cpu", weights_only=True)
    except UnpicklingError as error:  # torch's own message advises to run what is in the file
        raise CheckpointError(
            f"{checkpoint / 'state.pt'} cannot be loaded: it holds something else than tensors and "
            "plain values, and none of it was run; take it only from a run of recap"
        ) from error
    except Exception as error:
        raise CheckpointError(
            f"{checkpoint / 'state.pt'} cannot be loaded, it is damaged ({_reason(error)}); "
            f"without the folder {checkpoint.name} the run continues from the checkpoint before it"
        ) from error


def training_state(
    model: nn.Module, optimizer: torch.optim.Optimizer, *, step: int, position: int
) -> dict[str, Any]:
    """What a restart needs: weights, moments by name and whose, step, data position, random state.

    Learning rates and other settings are not in it: they follow from the step and the config.
    """
    moments = optimizer.state
    return {
        "model": model.state_dict(),
        "optimizer": {n: moments[p] for n, p in model.named_parameters() if p in moments},
        "algorithm": _algorithm(optimizer),
        "step": step,
        "position": position,
        "random": random_state(),
    }


def restore_training(
    state: Mapping[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[int, int]:
    """Puts a ``training_state`` back; returns (step, data position).

    The optimizer's settings stay those that it was built with.

    Raises:
        CheckpointError: the model is another one; lists every difference. The optimizer is another
            one: moments of one algorithm mean nothing to another.
    """
    restore_model(state["model"], model)
    if state["algorithm"] != _algorithm(optimizer):
        raise CheckpointError(
            f"optimizer: the checkpoint holds moments of {state['algorithm']}, configured is "
            f"{_algorithm(optimizer)}; keep the optimizer, or start a new run with "
            "training.initial_checkpoint_dir"
        )
    names: dict[Tensor, str] = {p: name for name, p in model.named_parameters()}
    ordered = [names[p] for group in optimizer.param_groups for p in group["params"]]
    held = {i: state["optimizer"][n] for i, n in enumerate(ordered) if n in state["optimizer"]}
    optimizer.load_state_dict({**optimizer.state_dict(), "state": held})
    set_random_state(state["random"])
    return state["step"], state["position"]


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
    own = model.state_dict()
    differences = [f"{name}: in the checkpoint only" for name in weights if name not in own]
    differences += [f"{name}: in the model only" for name in own if name not in weights]
    differences += [
        f"{name}: {list(weights[name].shape)} in the checkpoint, {list(tensor.shape)} in the model"
        for name, tensor in own.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    if differences:
        raise CheckpointError(
            "the checkpoint is of another architecture; return to it or name another folder; "
            "these differ:\n  " + "\n  ".join(differences)
        )


def random_state() -> dict[str, Any]:
    """The state of torch's generators, on the CPU and on every GPU."""
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()}


def set_random_state(state: Mapping[str, Any]) -> None:
    """Puts ``random_state`` back; GPUs that are not there any more are left out."""
    torch.set_rng_state(state["cpu"])
    for device, held in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(held, device)


def _algorithm(optimizer: torch.optim.Optimizer) -> str:
    """The class of an optimizer, or of each of the ``parts`` that it joins, in their order."""
    kinds = [type(part) for part in getattr(optimizer, "parts", (optimizer,))]
    return ", ".join(f"{kind.__module__}.{kind.__qualname__}" for kind in kinds)


def _all(save_dir: Path) -> list[Path]:
    """Whole checkpoints by step."""
    folder = save_dir / "checkpoints"
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))


def _reason(error: BaseException) -> str:
    """The first line of what went wrong: torch hides a full disk behind a complaint of its own."""
    hidden: BaseException | None = error
    while hidden is not None and not isinstance(hidden, OSError):
        hidden = hidden.__context__
    return (str(hidden or error).splitlines() or [type(error).__name__])[0]


def _remove(checkpoint: Path) -> None:
    """Renamed first, so that no half of it ever bears a checkpoint's name."""
    aside = checkpoint.with_name(f".removing-{checkpoint.name}")
    checkpoint.rename(aside)
    shutil.rmtree(aside)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
