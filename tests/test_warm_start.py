"""Weights to start from that recap did not write: the original's, as files and as snapshots."""

import re
import struct
from pathlib import Path

import pytest
import torch
import yaml
from tiny import Tiny, write_data

from recap import checkpoint
from recap.compose import Refused
from recap.experiment import prepare
from recap.run.warm_start import find
from recap.weight_files import WeightFileError, load

# ours, in the tiny experiment without its embedding tables → the original's
THEIRS = (
    (r"^inputs\.featurization\.batch_norm\.", "_preprocessor._before_concat_layers.2.layer."),
    (r"^inputs\.featurization\.layer_norm\.", "_preprocessor.layer_norm.layer."),
    (r"^backbone\.", "_backbone."),
    (r"^towers\.", "_towers.recap__engagement__"),
)
ONE_STEP = ("~model.inputs.embeddings", "training.num_train_steps=1")


@pytest.fixture
def tiny(tmp_path: Path) -> Tiny:
    write_data(tmp_path)
    return Tiny(tmp_path)


@pytest.fixture
def state(tiny: Tiny) -> dict[str, torch.Tensor]:
    """Weights for the tiny experiment under the original's names, of another run."""
    tiny.train(*ONE_STEP, "training.seed=5", run="other")
    out = {}
    for name, tensor in tiny.state("other")["model"].items():
        for pattern, theirs in THEIRS:
            name = re.sub(pattern, theirs, name)
        out[f"model.{name}"] = tensor
    out["model._preprocessor._before_concat_layers.3.min_value"] = torch.tensor(-5.0)
    out["model._calibrators.recap__engagement__like.ratio"] = torch.tensor(0.5)
    return out


def write_snapshot(folder: Path, state: dict[str, torch.Tensor]) -> None:
    """As torchsnapshot lays it out: one tensor in two chunks, some in one file, the rest alone."""
    (folder / "0/model").mkdir(parents=True)
    manifest: dict = {"0/model": {"type": "OrderedDict", "keys": list(state)}}
    manifest["0/extra_state/step"] = {"type": "int", "serialized_value": "7", "replicated": False}
    batched = b""

    def entry(location: str, tensor: torch.Tensor, **more: object) -> dict:
        dtype, shape = str(tensor.dtype), list(tensor.shape)
        row = {"location": location, "serializer": "buffer_protocol", "dtype": dtype}
        return {"type": "Tensor", **row, "shape": shape, "replicated": False, **more}

    for name, tensor in state.items():
        raw = tensor.contiguous().numpy().tobytes()
        path = f"0/model/{name}"
        if tensor.ndim == 2 and len(tensor) > 2:
            chunks = []
            for offset, part in ((0, tensor[:2]), (2, tensor[2:])):
                location = f"{path}_{offset}_0"
                torch.save(part.clone(), folder / location)
                offsets = {"offsets": [offset, 0], "sizes": list(part.shape)}
                chunks.append({**offsets, "tensor": entry(location, part, serializer="torch_save")})
            row = {"dtype": str(tensor.dtype), "shape": list(tensor.shape), "replicated": False}
            manifest[path] = {"type": "ChunkedTensor", "chunks": chunks, **row}
        elif tensor.ndim == 1:
            span = [len(batched), len(batched) + len(raw)]
            batched += raw
            manifest[path] = entry("batched/one", tensor, byte_range=span)
        else:
            (folder / path).write_bytes(raw)
            manifest[path] = entry(path, tensor, byte_range=None)
    (folder / "batched").mkdir()
    (folder / "batched/one").write_bytes(batched)
    metadata = {"version": "0.1.0", "world_size": 1, "manifest": manifest}
    (folder / ".snapshot_metadata").write_text(yaml.safe_dump(metadata))


@pytest.mark.parametrize("form", ["file", "folder", "nested", "snapshot", "snapshots"])
def test_a_run_starts_from_weights_of_the_original(tiny: Tiny, state, form: str):
    at = tiny.root / "original"
    at.mkdir()
    if form == "snapshot":
        write_snapshot(at, state)
    elif form == "snapshots":
        write_snapshot(at / "9", {name: torch.zeros_like(tensor) for name, tensor in state.items()})
        write_snapshot(at / "10", state)
    else:
        torch.save({"model": state, "step": 3} if form == "nested" else state, at / "weights.pt")
    named = at / "weights.pt" if form == "file" else at
    tiny.train(*ONE_STEP, f"training.initial_checkpoint_dir={named}")
    ours, theirs = tiny.state(), tiny.state("other")
    assert ours["step"] == 1
    for name in theirs["optimizer"]:  # the first step's rate is 0
        assert torch.equal(ours["model"][name], theirs["model"][name]), name


def test_weights_of_the_original_that_do_not_fit_are_refused_before_training(tiny: Tiny, state):
    state["model._towers.recap__engagement__like.layers.0.weight"] = torch.zeros(7, 7)
    state["model._backbone._mask_blocks.0._layer_norm.bias"] = torch.zeros(3)
    del state["model._backbone.layers.0.bias"]
    torch.save(state, tiny.root / "weights.pt")
    named = f"training.initial_checkpoint_dir={tiny.root / 'weights.pt'}"
    with pytest.raises(Refused) as error:
        prepare(tiny.config(*ONE_STEP, named))
    assert all("training.initial_checkpoint_dir=" in fault for fault in error.value.faults)
    faults = "\n".join(error.value.faults)
    for part in (
        "holds weights of the original that are not of this model",
        "model._backbone._mask_blocks.0._layer_norm.bias: no such weight here",
        "backbone.layers.0.bias: [16] here, nothing there",
        "[7, 7] there, [8, 8] here (towers.like.layers.0.weight)",
    ):
        assert part in faults
    assert len(error.value.faults) >= 4


def test_files_that_hold_no_weights_are_told_apart(tmp_path: Path):
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"a": torch.zeros(1), "b": 3}, tmp_path / "mixed.pt")
    (tmp_path / "text.pt").write_text("nothing")
    with pytest.raises(WeightFileError, match="holds no state dict"):
        load(tmp_path / "list.pt")
    with pytest.raises(WeightFileError, match="holds more than tensors: b"):
        load(tmp_path / "mixed.pt")
    with pytest.raises(WeightFileError, match=r"text\.pt cannot be read as weights"):
        load(tmp_path / "text.pt")
    with pytest.raises(WeightFileError, match=r"several .*\(list\.pt, mixed\.pt, text\.pt\)"):
        find(str(tmp_path))
    with pytest.raises(checkpoint.CheckpointError, match="nor a file of weights"):
        find(str(tmp_path / "nowhere"))


def test_a_damaged_snapshot_is_refused(tmp_path: Path):
    write_snapshot(tmp_path, {"a": torch.ones(3)})
    (tmp_path / "batched/one").write_bytes(struct.pack("f", 1.0))
    with pytest.raises(WeightFileError, match="cannot be read as weights"):
        load(find(str(tmp_path)))
