"""Checkpoints by themselves: whole or not there, read without running code, refused by name."""

from __future__ import annotations

import json
import pickle
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn

from recap.checkpoint import (
    CheckpointError,
    find,
    latest,
    load,
    restore_model,
    restore_training,
    save,
    training_state,
)

SMALL = {"step": 3, "weights": torch.arange(4.0)}
LARGE = {"weights": torch.zeros(1 << 18)}  # 1 MiB


def steps(save_dir: Path) -> list[str]:
    return sorted(path.name for path in (save_dir / "checkpoints").iterdir())


def test_a_saved_state_is_loaded_again(tmp_path: Path):
    folder = save(tmp_path, step=3, state=SMALL)
    assert folder == tmp_path / "checkpoints/step-00000003"
    assert latest(tmp_path) == folder
    state = load(folder)
    assert state["step"] == 3
    assert state["weights"].tolist() == [0, 1, 2, 3]


def test_the_manifest_tells_a_person_what_a_checkpoint_holds(tmp_path: Path):
    manifest = json.loads((save(tmp_path, step=3, state=SMALL) / "manifest.json").read_text())
    assert manifest == {"step": 3, "torch": torch.__version__, "holds": ["step", "weights"]}


def test_a_run_without_checkpoints_has_no_latest(tmp_path: Path):
    assert latest(tmp_path) is None
    with pytest.raises(CheckpointError, match="is neither a checkpoint nor the folder of a run"):
        find(tmp_path)


def test_a_checkpoint_is_found_by_its_folder_and_by_its_runs(tmp_path: Path):
    first, second = (save(tmp_path, step=step, state=SMALL) for step in (9, 10))
    assert find(tmp_path) == second
    assert find(first) == first


def test_only_the_newest_are_kept(tmp_path: Path):
    for step in (1, 2, 3):
        save(tmp_path, step=step, state=SMALL, max_to_keep=2)
    assert steps(tmp_path) == ["step-00000002", "step-00000003"]


def test_what_a_killed_save_left_is_not_a_checkpoint_and_goes_with_the_next(tmp_path: Path):
    save(tmp_path, step=1, state=SMALL)
    for left_over in (".writing-step-00000002", ".removing-step-00000000"):
        (tmp_path / "checkpoints" / left_over).mkdir()
        (tmp_path / "checkpoints" / left_over / "state.pt").write_bytes(b"half")
    assert latest(tmp_path) == tmp_path / "checkpoints/step-00000001"
    save(tmp_path, step=2, state=SMALL)
    assert steps(tmp_path) == ["step-00000001", "step-00000002"]


def test_a_step_that_is_there_is_not_written_again(tmp_path: Path):
    first = save(tmp_path, step=1, state=SMALL)
    written = (first / "state.pt").stat()
    assert save(tmp_path, step=1, state=SMALL) == first
    assert (first / "state.pt").stat() == written
    assert steps(tmp_path) == ["step-00000001"]


def test_an_old_checkpoint_that_cannot_be_removed_does_not_fail_the_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def refuse(path: Path, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(shutil, "rmtree", refuse)
    for step in (1, 2, 3):
        save(tmp_path, step=step, state=SMALL, max_to_keep=1)
    assert latest(tmp_path) == tmp_path / "checkpoints/step-00000003"
    assert "step-00000001 is kept: it cannot be removed ([Errno 13] Permission" in caplog.text


@contextmanager
def room_for(num_bytes: int) -> Iterator[None]:
    """A disk on which no file grows beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_earlier_checkpoint_and_no_remains(tmp_path: Path):
    save(tmp_path, step=1, state=SMALL)
    message = (
        r"training\.save_dir: the checkpoint of step 2 could not be written to .*step-00000002: "
        r"\[Errno 27\] File too large; last good checkpoint: step-00000001"
    )
    with room_for(1 << 16), pytest.raises(CheckpointError, match=message):
        save(tmp_path, step=2, state=LARGE)
    assert steps(tmp_path) == ["step-00000001"]
    assert load(tmp_path / "checkpoints/step-00000001")["step"] == 3


class Payload:
    """Writes a file as soon as it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_checkpoint_that_holds_code_is_refused_and_nothing_is_run(tmp_path: Path, how: str):
    folder = save(tmp_path, step=1, state=SMALL)
    payload = {"step": 1, "model": Payload(str(tmp_path / "was here"))}
    if how == "torch":
        torch.save(payload, folder / "state.pt")
    else:
        (folder / "state.pt").write_bytes(pickle.dumps(payload, protocol=2))
    with pytest.raises(CheckpointError, match=r"state\.pt cannot be loaded: it holds something"):
        load(folder)
    assert not (tmp_path / "was here").exists()


@pytest.mark.parametrize("num_bytes", [0, 100])
def test_a_truncated_checkpoint_is_refused_with_the_way_out(tmp_path: Path, num_bytes: int):
    folder = save(tmp_path, step=1, state=SMALL)
    (folder / "state.pt").write_bytes((folder / "state.pt").read_bytes()[:num_bytes])
    message = (
        r"step-00000001/state\.pt cannot be loaded, it is damaged \(.+\); without the folder "
        "step-00000001 the run continues from the checkpoint before it"
    )
    with pytest.raises(CheckpointError, match=message):
        load(folder)


def network(width: int = 3, **more: nn.Module) -> nn.ModuleDict:
    return nn.ModuleDict({"first": nn.Linear(2, width), "last": nn.Linear(width, 1), **more})


def test_weights_of_another_architecture_are_refused_with_every_difference():
    saved = network(3, extra=nn.Linear(1, 1, bias=False)).state_dict()
    with pytest.raises(CheckpointError) as refused:
        restore_model(saved, network(4, other=nn.Linear(1, 1, bias=False)))
    assert str(refused.value).splitlines() == [
        "the checkpoint is of another architecture; return to it or name another folder; "
        "these differ:",
        "  extra.weight: in the checkpoint only",
        "  other.weight: in the model only",
        "  first.weight: [3, 2] in the checkpoint, [4, 2] in the model",
        "  first.bias: [3] in the checkpoint, [4] in the model",
        "  last.weight: [1, 3] in the checkpoint, [1, 4] in the model",
    ]


def test_moments_go_by_name_whatever_the_order_of_groups():
    model = network()
    adam = torch.optim.Adam(model.parameters(), lr=0.1)
    model["last"](model["first"](torch.ones(5, 2))).sum().backward()
    adam.step()
    state = training_state(model, adam, step=1, position=5)

    other = network()
    groups = [{"params": list(other[part].parameters())} for part in ("last", "first")]
    regrouped = torch.optim.Adam(groups, lr=0.2)
    assert restore_training(state, other, regrouped) == (1, 5)
    restored, saved = (
        optimizer.state[dict(network.named_parameters())["first.weight"]]["exp_avg"]
        for optimizer, network in ((regrouped, other), (adam, model))
    )
    assert torch.equal(restored, saved)
    assert [group["lr"] for group in regrouped.param_groups] == [0.2, 0.2]


def test_moments_of_another_algorithm_are_refused():
    model = network()
    adam = torch.optim.Adam(model.parameters())
    model["last"](model["first"](torch.ones(5, 2))).sum().backward()
    adam.step()
    state = training_state(model, adam, step=1, position=5)
    message = (
        r"the checkpoint holds moments of torch\.optim\.adam\.Adam, configured is "
        r"torch\.optim\.sgd\.SGD; keep the optimizer, or start a new run with "
        r"training\.initial_checkpoint_dir"
    )
    with pytest.raises(CheckpointError, match=message):
        restore_training(state, model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))


def test_the_random_state_is_put_back():
    model = network()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    state = training_state(model, sgd, step=0, position=0)
    drawn = torch.rand(3)
    restore_training(state, model, sgd)
    assert torch.equal(torch.rand(3), drawn)
