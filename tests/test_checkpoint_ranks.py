"""Checkpoints of several ranks: 1 → 2 → 1, and what happens to one rank all of them know."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from ranks import run
from test_checkpoint import save, steps
from tiny import HERE
from torch import nn

from recap.checkpoint import load, read_manifest, restore_training, training_state


class Network(nn.Module):
    """What that of ``two_ranks_save`` is on one rank."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Parameter(torch.arange(4.0))
        self.split = nn.Parameter(torch.arange(6.0).view(3, 2))
        self.table = nn.Embedding.from_pretrained(torch.arange(10.0).view(5, 2), freeze=False)


def moments(model: Network, *, grown: bool) -> torch.optim.Adam:
    """An optimizer whose moments of a weight are ten times it; ``grown``: with one for a row."""
    adam = torch.optim.Adam(model.parameters())
    for weight in model.parameters():
        adam.state[weight] = {"step": torch.tensor(7.0), "exp_avg": 10 * weight.detach()}
    if grown:
        adam.state[model.table.weight]["sum"] = torch.arange(5.0)
    return adam


def test_one_rank_saves_two_go_on_and_one_goes_on_again(tmp_path: Path):
    model = Network()
    state = training_state(model, moments(model, grown=False), step=1, position=9)
    save(tmp_path / "one", step=1, state=state)
    run([sys.executable, str(HERE / "two_ranks_save.py"), str(tmp_path)], 2, tmp_path)
    first, second = (json.loads((tmp_path / f"seen-{rank}.json").read_text()) for rank in (0, 1))

    assert first["position"] == second["position"] == [1, 9]
    dense = [[0, 1, 2, 3], 7, [0, 10, 20, 30]]
    assert first["restored"] == {
        "dense": dense,
        "split": [[[0, 1], [2, 3]], 7, [[0, 10], [20, 30]]],
        "table.weight": [[[0, 1], [2, 3], [4, 5]], 7, [[0, 10], [20, 30], [40, 50]]],
    }
    assert second["restored"] == {
        "dense": dense,
        "split": [[[4, 5]], 7, [[40, 50]]],
        "table.weight": [[[6, 7], [8, 9]], 7, [[60, 70], [80, 90]]],
    }

    folder = tmp_path / "two/checkpoints"
    assert first["full"] == second["full"]
    assert first["full"] == (
        f"training.save_dir: the checkpoint of step 4 could not be written to {folder}/"
        "step-00000004: rank 1: [Errno 27] File too large; last good checkpoint: step-00000003"
    )
    assert first["sound"] == second["sound"] == "step-00000003"
    there = ["damaged-step-00000005", "step-00000002", "step-00000003"]
    assert steps(tmp_path / "two") == there

    folder = folder / "step-00000002"
    manifest = read_manifest(folder)
    assert manifest["world_size"] == 2
    assert manifest["state"]["model/table.weight"] == {"shape": [5, 2], "dtype": "float32"}
    sizes = [manifest["files"][f"__{rank}_0.distcp"]["bytes"] for rank in (0, 1)]
    assert 0.5 < sizes[0] / sizes[1] < 2  # what both ranks have is written once, by either
    again = load(folder)
    for name, weight in model.state_dict().items():
        assert torch.equal(again["model"][name], weight), name
        assert torch.equal(again["optimizer"][name]["exp_avg"], 10 * weight), name
    assert again["optimizer"]["table.weight"]["sum"].tolist() == [0, 1, 2, 3, 4]

    alone = Network()
    with torch.no_grad():
        for weight in alone.parameters():
            weight.zero_()
    adam = moments(alone, grown=True)
    assert restore_training(folder, alone, adam) == (2, 9)
    for (name, weight), before in zip(alone.named_parameters(), model.parameters(), strict=True):
        assert torch.equal(weight, before), name
        assert torch.equal(adam.state[weight]["exp_avg"], 10 * before), name
    saved = load(tmp_path / "two/checkpoints/step-00000003")["model"]["dense"]
    assert saved.tolist() == [100, 101, 102, 103]
