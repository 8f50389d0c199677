"""What ``test_checkpoint_ranks`` runs on two ranks; prints what a rank sees as JSON."""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from test_checkpoint import FILE, flipped
from torch import Tensor, nn
from torch.distributed._shard.metadata import ShardMetadata
from torch.distributed._shard.sharded_tensor.api import ShardedTensorBase
from torch.distributed._shard.sharded_tensor.metadata import ShardedTensorMetadata, TensorProperties
from torch.distributed._shard.sharded_tensor.shard import Shard
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.distributed.tensor import Shard as Split

from recap.checkpoint import (
    CheckpointError,
    Checkpoints,
    newest_sound,
    restore_training,
    training_state,
)

ROWS = [3, 2]  # of a table, that ranks 0 and 1 have


class Table(nn.Module):
    """A table of five rows and two columns, of which a rank has some; as torchrec shows it."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.rank = rank
        self.weight = nn.Parameter(torch.zeros(ROWS[rank], 2))
        self._register_state_dict_hook(self._show)
        self._register_load_state_dict_pre_hook(self._take)

    def _show(self, _: Any, state: dict[str, Any], prefix: str, __: Any) -> None:
        starts = [0, ROWS[0]]
        places = [
            ShardMetadata([starts[rank], 0], [ROWS[rank], 2], f"rank:{rank}/cpu") for rank in (0, 1)
        ]
        shown = ShardedTensorBase._init_from_local_shards_and_global_metadata(
            [Shard(self.weight.detach(), places[self.rank])],
            ShardedTensorMetadata(places, torch.Size([5, 2]), TensorProperties()),
        )
        shown._process_group = dist.group.WORLD  # type: ignore[attr-defined]
        state[f"{prefix}weight"] = shown

    def _take(self, state: dict[str, Any], prefix: str, *_: Any) -> None:
        state[f"{prefix}weight"] = state[f"{prefix}weight"].local_shards()[0].tensor


class Network(nn.Module):
    """A replicated weight, a DTensor and a table."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        mesh = init_device_mesh("cpu", (2,))
        self.dense = nn.Parameter(torch.zeros(4))
        self.split = nn.Parameter(distribute_tensor(torch.zeros(3, 2), mesh, [Split(0)]))
        self.table = Table(rank)


def local(tensor: Tensor) -> list:
    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).tolist()


def main() -> None:
    """Restores what one rank saved, saves it again, with a full disk and damage in between."""
    root, seen = Path(sys.argv[1]), {}
    dist.init_process_group("gloo")
    rank, group = dist.get_rank(), dist.new_group(backend="gloo")
    assert isinstance(group, dist.ProcessGroup)
    model = Network(rank)
    adam = torch.optim.Adam(model.parameters())

    one = newest_sound(root / "one", group)
    assert one is not None
    seen["position"] = restore_training(one, model, adam)
    seen["restored"] = {
        name: [local(t) for t in (weight, *adam.state[weight].values())]
        for name, weight in model.named_parameters()
    }

    def state(step: int) -> dict[str, Any]:
        adam.state[model.table.weight]["sum"] = torch.arange(5.0)[[[0, 1, 2], [3, 4]][rank]]
        return training_state(model, adam, step=step, position=9)

    checkpoints = Checkpoints(root / "two", group)
    checkpoints.prepare(state(2))
    for step in (2, 3):
        checkpoints.save(step, state(step), about={})
        with torch.no_grad():
            model.dense.add_(100)  # no part of what was saved
    checkpoints.wait()

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    if rank == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))
    try:
        checkpoints.save(4, state(4), about={})
        checkpoints.wait()
    except CheckpointError as error:
        seen["full"] = str(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    checkpoints.save(5, state(5), about={})
    checkpoints.wait()

    if rank == 1:
        flipped(root / "two/checkpoints/step-00000005" / FILE.replace("0", "1", 1))
    dist.barrier()
    sound = newest_sound(root / "two", group)
    assert sound is not None
    seen["sound"] = sound.name
    dist.barrier()
    (root / f"seen-{rank}.json").write_text(json.dumps(seen))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
