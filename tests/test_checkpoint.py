"""Checkpoints by themselves: whole or not there, read without running code, refused by name."""

from __future__ import annotations

import json
import pickle
import resource
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import google_crc32c
import pytest
import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import BytesStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load as load_by_torch

from recap.checkpoint import (
    CheckpointError,
    Checkpoints,
    find,
    latest,
    load,
    newest_sound,
    read_manifest,
    restore_model,
    restore_training,
    training_state,
    weights,
)
from recap.checkpoint.manifest import write_manifest

SMALL = {"step": 3, "model": {"weights": torch.arange(4.0)}}
LARGE = {"model": {"weights": torch.zeros(1 << 18)}}  # 1 MiB
FILE = "__0_0.distcp"  # of rank 0


def save(
    save_dir: Path, *, step: int, state: Mapping[str, Any], max_to_keep: int | None = None
) -> Path:
    """The folder of a checkpoint that is on disk."""
    with Checkpoints(save_dir, max_to_keep=max_to_keep) as checkpoints:
        checkpoints.save(step, state, about={})
    return save_dir / f"checkpoints/step-{step:08d}"


def steps(save_dir: Path) -> list[str]:
    return sorted(path.name for path in (save_dir / "checkpoints").iterdir())


def test_a_saved_state_is_loaded_again(tmp_path: Path):
    tensors = {"a": torch.arange(4.0), "b": torch.ones(2, 3, dtype=torch.bfloat16)}
    model = {**tensors, "c": torch.tensor(7), "d/e%2F": torch.zeros(0, 2)}
    moments = {"a": {"m": torch.ones(4).double(), "n": None}, "b": {}}
    state = {"model": model, "optimizer": moments, "algorithm": "x", "step": 3, "rate": 0.1}
    folder = save(tmp_path, step=3, state=state)
    assert folder == tmp_path / "checkpoints/step-00000003"
    assert latest(tmp_path) == folder
    loaded = load(folder)
    assert list(loaded) == list(state)
    assert list(loaded["model"]) == list(model)
    for name, tensor in model.items():
        assert loaded["model"][name].dtype == tensor.dtype
        assert torch.equal(loaded["model"][name], tensor)
    assert loaded["optimizer"]["a"]["m"].tolist() == [1, 1, 1, 1]
    assert loaded["optimizer"]["a"]["n"] is None
    assert loaded["optimizer"]["b"] == {}
    assert (loaded["algorithm"], loaded["step"], loaded["rate"]) == ("x", 3, 0.1)
    assert list(weights(folder)) == list(model)


def test_torch_itself_reads_the_tensors(tmp_path: Path):
    folder = save(tmp_path, step=3, state=SMALL)
    into = {"model/weights": torch.zeros(4)}
    with pytest.warns(UserWarning, match="assuming the intent is to load in a single process"):
        load_by_torch(into, checkpoint_id=folder)
    assert into["model/weights"].tolist() == [0, 1, 2, 3]


def test_the_manifest_tells_a_person_what_a_checkpoint_holds(tmp_path: Path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, SMALL, about={"git.commit": "0123456"})
    folder = tmp_path / "checkpoints/step-00000003"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["step"] == 3
    assert manifest["about"] == {"git.commit": "0123456"}
    assert manifest["torch"] == torch.__version__
    assert manifest["world_size"] == 1
    assert manifest["state"] == {
        "step": {"value": 3},
        "model/weights": {"shape": [4], "dtype": "float32"},
    }
    assert checkpoints.seconds is not None
    assert manifest["seconds"]["staged"] == round(checkpoints.seconds.staged, 3)
    assert manifest["files"] == {
        name: {
            "bytes": len(content := (folder / name).read_bytes()),
            "crc32c": f"{google_crc32c.value(content):08x}",
        }
        for name in (FILE, ".metadata")
    }


def test_training_goes_on_while_a_copy_is_written(tmp_path: Path):
    state = {"model": {"weights": torch.zeros(1 << 20), "view": torch.zeros(9, 4)[::2]}}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.prepare(state)
        for step in (1, 2):
            for tensor in state["model"].values():
                tensor += 1
            checkpoints.save(step, state, about={})
            for tensor in state["model"].values():
                tensor += 10
    for step, value in ((1, 1), (2, 12)):
        saved = load(tmp_path / f"checkpoints/step-{step:08d}")["model"]
        assert all((tensor == value).all() for tensor in saved.values())


def test_training_does_not_wait_for_what_must_be_done_before_a_checkpoint_is_there(tmp_path: Path):
    release, folder = threading.Event(), tmp_path / "checkpoints/step-00000003"
    seen: list[bool] = []

    def before() -> None:
        assert release.wait(timeout=60)
        seen.append(folder.exists())

    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, SMALL, about={}, before=before)
        assert checkpoints.busy
        release.set()
    assert seen == [False]
    assert folder.exists()


def test_a_state_that_grows_or_shrinks_is_saved_as_it_is(tmp_path: Path):
    states: list[dict[str, Tensor]] = [
        {"a": torch.ones(2)},
        {"a": torch.ones(2), "b": torch.zeros(3)},
        {"b": torch.ones(3), "a": torch.ones(2).double()},
    ]
    with Checkpoints(tmp_path) as checkpoints:
        for step, state in enumerate(states):
            checkpoints.save(step, state, about={})
    for step, state in enumerate(states):
        loaded = load(tmp_path / f"checkpoints/step-{step:08d}")
        assert {n: (t.tolist(), t.dtype) for n, t in loaded.items()} == {
            n: (t.tolist(), t.dtype) for n, t in state.items()
        }


def test_a_run_without_checkpoints_has_no_latest(tmp_path: Path):
    assert latest(tmp_path) is None
    assert newest_sound(tmp_path) is None
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
        (tmp_path / "checkpoints" / left_over / FILE).write_bytes(b"half")
    assert latest(tmp_path) == tmp_path / "checkpoints/step-00000001"
    save(tmp_path, step=2, state=SMALL)
    assert steps(tmp_path) == ["step-00000001", "step-00000002"]


def test_a_step_that_is_there_is_not_written_again(tmp_path: Path):
    first = save(tmp_path, step=1, state=SMALL)
    written = (first / FILE).stat()
    assert save(tmp_path, step=1, state=LARGE) == first
    assert (first / FILE).stat() == written
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


def test_a_save_that_failed_is_told_once_by_what_comes_next(tmp_path: Path):
    save(tmp_path, step=1, state=SMALL)
    checkpoints = Checkpoints(tmp_path)
    with room_for(1 << 16):
        checkpoints.save(2, LARGE, about={})
        assert checkpoints.last_good() == "step-00000001"
    with pytest.raises(CheckpointError, match="the checkpoint of step 2 could not be written"):
        checkpoints.save(3, LARGE, about={})
    checkpoints.save(3, LARGE, about={})
    checkpoints.wait()
    assert steps(tmp_path) == ["step-00000001", "step-00000003"]


def test_a_save_that_failed_does_not_hide_what_ended_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    def run() -> None:
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(2, LARGE, about={})
            raise MemoryError

    with room_for(1 << 16), pytest.raises(MemoryError):
        run()
    assert "the checkpoint of step 2 could not be written" in caplog.text


class Payload:
    """Writes a file as soon as it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def forged(folder: Path, name: str, content: bytes) -> None:
    """Puts another file in a checkpoint, with a manifest that vouches for it."""
    (folder / name).write_bytes(content)
    manifest = read_manifest(folder)
    crc32c = f"{google_crc32c.value(content):08x}"
    manifest["files"][name] = {"bytes": len(content), "crc32c": crc32c}
    write_manifest(folder, manifest)


@pytest.mark.parametrize("how", ["torch", "pickle", "metadata", "bytes", "elsewhere"])
def test_a_checkpoint_that_holds_code_is_refused_and_nothing_is_run(tmp_path: Path, how: str):
    folder = save(tmp_path, step=1, state=SMALL)
    payload = Payload(str(tmp_path / "was here"))
    metadata = FileSystemReader(folder).read_metadata()
    metadata.storage_meta = None
    if how == "torch":
        (at,) = metadata.storage_data.values()
        with (folder / FILE).open("wb") as file:
            torch.save({"model": payload}, file)
            at.offset, at.length = 0, file.tell()
        forged(folder, FILE, (folder / FILE).read_bytes())
    elif how == "pickle":
        forged(folder, FILE, pickle.dumps(payload, protocol=2).ljust(9999))
    elif how == "metadata":
        metadata.planner_data = payload
    elif how == "bytes":  # which torch's own planner would unpickle
        metadata.state_dict_metadata["model/weights"] = BytesStorageMetadata()
    else:
        (at,) = metadata.storage_data.values()
        at.relative_path = "../elsewhere"
    if how != "pickle":
        forged(folder, ".metadata", pickle.dumps(metadata))
    with pytest.raises(CheckpointError, match=r"step-00000001 cannot be loaded: it holds some"):
        load(folder)
    assert not (tmp_path / "was here").exists()


def truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:100])


def flipped(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("harm", [truncated, flipped, Path.unlink])
@pytest.mark.parametrize("name", [FILE, ".metadata", "manifest.json"])
def test_a_damaged_checkpoint_is_refused_with_the_way_out(tmp_path: Path, harm: Any, name: str):
    folder = save(tmp_path, step=1, state=SMALL)
    harm(folder / name)
    message = (
        rf"step-00000001/{name} cannot be loaded, it is damaged \(.+\); without the folder "
        "step-00000001 the run continues from the checkpoint before it"
    )
    with pytest.raises(CheckpointError, match=message):
        load(folder)


def test_the_newest_sound_checkpoint_is_used_and_damaged_ones_are_kept_under_another_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    for step in (1, 2, 3):
        save(tmp_path, step=step, state=SMALL)
    flipped(tmp_path / "checkpoints/step-00000003" / FILE)
    truncated(tmp_path / "checkpoints/step-00000002/manifest.json")
    first = tmp_path / "checkpoints/step-00000001"
    assert newest_sound(tmp_path, set_aside=False) == first
    assert steps(tmp_path) == ["step-00000001", "step-00000002", "step-00000003"]
    caplog.clear()
    assert newest_sound(tmp_path) == first
    assert steps(tmp_path) == ["damaged-step-00000002", "damaged-step-00000003", "step-00000001"]
    told = caplog.text
    assert f"step-00000003/{FILE} is damaged (its checksum differs); the checkpoint" in told
    assert "step-00000002/manifest.json is damaged (" in told
    assert "step-00000003 is kept as" in told

    flipped(save(tmp_path, step=3, state=SMALL) / FILE)  # and once more
    assert newest_sound(tmp_path) == first
    assert "damaged-step-00000003-2" in steps(tmp_path)


def test_a_run_whose_checkpoints_are_all_damaged_is_refused(tmp_path: Path):
    for step in (1, 2):
        truncated(save(tmp_path, step=step, state=SMALL) / FILE)
    message = (
        r"every checkpoint is damaged, and none was changed; put back a sound one, or name another "
        r"folder as training\.save_dir to start anew:\n"
        rf"  .*step-00000002/{FILE} is damaged \(it has 100 bytes, written were \d+\)\n"
        rf"  .*step-00000001/{FILE} is damaged"
    )
    for _ in range(2):  # not less so when started again
        with pytest.raises(CheckpointError, match=message):
            newest_sound(tmp_path)


def test_a_checkpoint_of_the_format_before_is_told(tmp_path: Path):
    folder = tmp_path / "checkpoints/step-00000001"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text('{"step": 1}')
    with pytest.raises(CheckpointError, match=r"\(it is of format 1, read is 2\)"):
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


def trained(model: nn.ModuleDict) -> torch.optim.Adam:
    """An optimizer that holds moments of the model."""
    adam = torch.optim.Adam(model.parameters(), lr=0.1)
    model["last"](model["first"](torch.ones(5, 2))).sum().backward()
    adam.step()
    return adam


def test_moments_go_by_name_whatever_the_order_of_groups(tmp_path: Path):
    model = network()
    adam = trained(model)
    folder = save(tmp_path, step=1, state=training_state(model, adam, step=1, position=5))

    other = network()
    groups = [{"params": list(other[part].parameters())} for part in ("last", "first")]
    regrouped = torch.optim.Adam(groups, lr=0.2)
    assert restore_training(folder, other, regrouped) == (1, 5)
    for name, weight in model.named_parameters():
        again = dict(other.named_parameters())[name]
        assert torch.equal(again, weight)
        assert list(regrouped.state[again]) == ["step", "exp_avg", "exp_avg_sq"]
        for key, moment in adam.state[weight].items():
            assert torch.equal(regrouped.state[again][key], moment)
    assert [group["lr"] for group in regrouped.param_groups] == [0.2, 0.2]


def test_a_state_is_restored_in_place(tmp_path: Path):
    model = network()
    adam = trained(model)
    folder = save(tmp_path, step=1, state=training_state(model, adam, step=1, position=5))
    before = [p.data_ptr() for p in model.parameters()]
    moments = [adam.state[p]["exp_avg"].data_ptr() for p in model.parameters()]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
            adam.state[parameter]["exp_avg"].zero_()
    restore_training(folder, model, adam)
    assert [p.data_ptr() for p in model.parameters()] == before
    assert [adam.state[p]["exp_avg"].data_ptr() for p in model.parameters()] == moments
    assert all(adam.state[p]["exp_avg"].any() for p in model.parameters())


def test_moments_of_what_is_not_trained_any_more_are_left(tmp_path: Path):
    model = network()
    state = training_state(model, trained(model), step=1, position=5)
    folder = save(tmp_path, step=1, state=state)
    adam = torch.optim.Adam(model["last"].parameters())
    restore_training(folder, model, adam)
    assert set(adam.state) == set(model["last"].parameters())


def test_moments_of_another_algorithm_are_refused_and_nothing_is_changed(tmp_path: Path):
    model = network()
    state = training_state(model, trained(model), step=1, position=5)
    folder = save(tmp_path, step=1, state=state)
    message = (
        r"the checkpoint holds moments of torch\.optim\.adam\.Adam, configured is "
        r"torch\.optim\.sgd\.SGD; keep the optimizer, or start a new run with "
        r"training\.initial_checkpoint_dir"
    )
    other = network()
    before = [parameter.detach().clone() for parameter in other.parameters()]
    with pytest.raises(CheckpointError, match=message):
        restore_training(folder, other, torch.optim.SGD(other.parameters(), lr=0.1, momentum=0.9))
    assert all(map(torch.equal, before, other.parameters()))
