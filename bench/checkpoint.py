"""``python -m bench.checkpoint``: how long a save stops training, and how long it is written.

    python -m bench.checkpoint [millions=10,50,100,200] [ranks=1,2] [repetitions=3]
                               [directory=FOLDER]

Weights of so many million values with Adam's two moments, float32, that every rank has, as dense
weights are: each rank sees that they are numbers, copies and writes its share. ``first`` is the
pause of a save for which nothing was prepared, imports included, ``pause`` that of the later ones,
``alive`` how fast this process multiplies matrices while a checkpoint is written, in percent of its
speed at the start. Files lie in ``directory`` or a temporary folder.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import torch
import torch.distributed as dist

from bench.report import conditions, own_settings, peak_memory_mb, table
from recap.checkpoint import Checkpoints
from recap.distributed import ALONE
from recap.run.divergence import refuse_divergence

DEFAULTS = {"millions": "10,50,100,200", "ranks": "1,2", "repetitions": "3", "directory": ""}
RANK = "rank"  # the first argument of the processes that save
TENSOR = 1_000_000  # values
HEADER = (
    "values, with moments",
    "ranks",
    "MB",
    "first, s",
    "pause, s",
    "written, s",
    "MB/s",
    "alive, %",
    "peak memory of a rank, MB",
)


def main() -> None:
    """Saves every size on every number of ranks, prints the table."""
    settings, others = own_settings(sys.argv[1:], DEFAULTS)
    if others:
        raise SystemExit(f"nothing reads {' '.join(others)}; settings are {', '.join(DEFAULTS)}")
    print(conditions(), flush=True)
    rows = []
    for millions in map(int, settings["millions"].split(",")):
        for world_size in map(int, settings["ranks"].split(",")):
            with tempfile.TemporaryDirectory(dir=settings["directory"] or None) as folder:
                rows.append(_measured(folder, millions, world_size, settings["repetitions"]))
    print(table(HEADER, rows))


def _measured(folder: str, millions: int, world_size: int, repetitions: str) -> tuple[str, ...]:
    """A row of the table, as rank 0 of fresh processes saw it."""
    told = [folder, str(millions), str(world_size), repetitions]
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "bench.checkpoint", RANK, str(rank), *told],
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(world_size)
    ]
    said = [rank.communicate()[0] for rank in ranks]
    if any(rank.returncode for rank in ranks):
        raise SystemExit(f"{millions} million values on {world_size} ranks failed")
    seen = json.loads(said[0])
    size, written = 12 * millions, statistics.median(seen["written"])
    return (
        f"{millions} M",
        str(world_size),
        f"{size:,}",
        f"{seen['first']:.2f}",
        f"{statistics.median(seen['pause']):.2f}",
        f"{written:.2f}",
        f"{size / written:,.0f}",
        f"{100 * statistics.median(seen['alive']):.0f}",
        f"{seen['memory']:,.0f}",
    )


def _save(rank: int, folder: Path, millions: int, world_size: int, repetitions: int) -> None:
    """One rank: prints what it saw as JSON."""
    group = None
    if world_size > 1:
        meeting = f"file://{folder}/meeting"
        dist.init_process_group("gloo", meeting, rank=rank, world_size=world_size)
        group = dist.new_group(backend="gloo")
        assert isinstance(group, dist.ProcessGroup)
    names = [str(number) for number in range(millions)]
    weights = {name: torch.rand(TENSOR) for name in names}
    moments = {
        name: {key: torch.rand(TENSOR) for key in ("exp_avg", "exp_avg_sq")} for name in names
    }
    state = {"model": weights, "optimizer": moments}
    optimizer = torch.optim.SGD([{"name": "all", "params": [*weights.values()]}])
    checkpoints = Checkpoints(folder / "run", group, max_to_keep=1)
    seen: dict[str, list[float]] = {"pause": [], "written": [], "alive": []}
    pauses = []
    usual = _products_per_s(checkpoints, seconds=1.0)
    for step in range(repetitions + 1):
        started = perf_counter()
        refuse_divergence(optimizer, step, checkpoints, ALONE)
        checkpoints.save(step, state, about={})
        pauses.append(perf_counter() - started)
        if step:
            seen["alive"].append(_products_per_s(checkpoints) / usual)
        checkpoints.wait()
        assert checkpoints.seconds is not None
        if step:
            seen["written"].append(checkpoints.seconds.written)
    seen["pause"] = pauses[1:]
    if group is not None:
        dist.destroy_process_group()
    if rank == 0:
        print(json.dumps({**seen, "first": pauses[0], "memory": peak_memory_mb()}))


def _products_per_s(checkpoints: Checkpoints, seconds: float | None = None) -> float:
    """Products of matrices a second, for so long or until nothing is written any more."""
    one, number, started = torch.rand(256, 256), 0, perf_counter()
    while perf_counter() - started < seconds if seconds else checkpoints.busy or not number:
        torch.mm(one, one)
        number += 1
    return number / (perf_counter() - started)


if __name__ == "__main__":
    if sys.argv[1:2] == [RANK]:
        rank, folder, *numbers = sys.argv[2:]
        _save(int(rank), Path(folder), *map(int, numbers))
    else:
        main()
