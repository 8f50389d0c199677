"""``python -m bench.scaling``: whole training on 1 and 2 ranks, and its way back from a kill.

    python -m bench.scaling [ranks=1,2] [steps=40] [repetitions=3] [data_root=FOLDER] [OVERRIDES]

Trains local_prod on synthetic data with as many threads a rank as cores allow, the ranks started
as torchrun does, runs of different ranks in turn. Examples/s are those that the loop reports over
the second half of the steps. Then one rank of the last run's kind is killed with SIGKILL behind a
checkpoint, and the seconds are taken until the others have ended, and until the command, started
again at once, has done its next step. Last, what one agreement of the ranks costs.
"""

from __future__ import annotations

import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing import get_context

import torch
import torch.distributed as dist

from bench.report import conditions, own_settings, table

DEFAULTS = {"ranks": "1,2", "steps": "40", "repetitions": "3", "data_root": ""}
REPORT = re.compile(r"step (\d+)/\d+: loss \S+ ([\d,]+) examples/s")
AGREEMENTS = 2000


def main() -> None:
    """Trains, kills, measures, prints three tables."""
    settings, overrides = own_settings(sys.argv[1:], DEFAULTS)
    numbers = [int(number) for number in settings["ranks"].split(",")]
    steps, repetitions = int(settings["steps"]), int(settings["repetitions"])
    print(conditions(), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        data_root = settings["data_root"] or f"{folder}/data"
        if not settings["data_root"]:
            write(data_root)
        common = [f"data_root={data_root}", "tracking=none", *overrides]
        speeds: dict[int, list[float]] = {number: [] for number in numbers}
        for repetition in range(repetitions):
            for number in numbers:
                run = f"{folder}/run-{repetition}-{number}"
                speeds[number].append(trained(common, run, number, steps))
        rows = [
            (
                str(number),
                str(threads(number)),
                f"{statistics.median(found):,.0f}",
                f"{min(found):,.0f} … {max(found):,.0f}",
            )
            for number, found in speeds.items()
        ]
        print(f"\n{table(('ranks', 'threads each', 'examples/s', 'lowest … highest'), rows)}\n")
        rows = [
            (
                str(number),
                *(f"{s:.1f}" for s in killed(common, f"{folder}/killed-{number}", number)),
            )
            for number in numbers
        ]
        header = ("ranks", "one killed: all ended, s", "start to next step, s", "together, s")
        print(f"{table(header, rows)}\n")
    rows = [(str(number), f"{agreement(number) * 1e6:.0f}") for number in numbers if number > 1]
    print(table(("ranks", "an agreement, µs"), rows))


def write(data_root: str) -> None:
    """A synthetic data set of local_prod."""
    command = [sys.executable, "-m", "recap.data.synthetic", "synthetic.rows=20000"]
    subprocess.run(
        [*command, f"synthetic.directory={data_root}"], check=True, stdout=subprocess.DEVNULL
    )


def threads(ranks: int) -> int:
    """Threads of one of so many ranks: its share of the cores."""
    return max(1, len(os.sched_getaffinity(0)) // ranks)


def started(common: Sequence[str], run: str, ranks: int, *more: str) -> list[subprocess.Popen]:
    """The training of a run on so many ranks."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    command = [sys.executable, "-m", "recap.train", *common, f"training.save_dir={run}", *more]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads(ranks)), "PYTHONUNBUFFERED": "1"}
    if ranks > 1:
        environment |= {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1"}
        environment |= {"MASTER_PORT": str(port)}
    own = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]
    return [
        subprocess.Popen(
            command,
            env={**environment, **(rank if ranks > 1 else {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in own
    ]


def trained(common: Sequence[str], run: str, ranks: int, steps: int) -> float:
    """Examples/s of the second half of a run."""
    every = steps // 2
    processes = started(
        common,
        run,
        ranks,
        f"training.num_train_steps={steps}",
        f"training.train_log_every_n={every}",
        "training.num_eval_steps=1",
        f"training.checkpoint_every_n={10 * steps}",
    )
    said = [process.communicate()[0] for process in processes]
    reports = REPORT.findall(said[0])
    if any(process.returncode for process in processes) or len(reports) < 2:
        raise SystemExit(f"{ranks} ranks failed:\n{said[0][-3000:]}")
    return float(reports[-1][1].replace(",", ""))


def killed(common: Sequence[str], run: str, ranks: int) -> tuple[float, float, float]:
    """Seconds from a kill until all have ended, from there to the next step, and both together."""
    endless = ("training.num_train_steps=1000000", "training.train_log_every_n=1")
    endless = (*endless, "training.checkpoint_every_n=5")
    processes = started(common, run, ranks, *endless)
    await_step(processes[0], 7)
    processes[-1].kill()
    began = time.monotonic()
    for process in processes:
        process.communicate()
    ended = time.monotonic()
    processes = started(common, run, ranks, *endless)
    await_step(processes[0], 1)
    back = time.monotonic()
    for process in processes:
        process.kill()
        process.communicate()
    return ended - began, back - ended, back - began


def await_step(process: subprocess.Popen, step: int) -> None:
    """Returns when a run reports the step or a later one."""
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if (report := REPORT.search(line)) and int(report[1]) >= step:
            return
    raise SystemExit(f"ended early:\n{''.join(said)[-3000:]}")


def agreement(ranks: int) -> float:
    """Seconds that ranks of this machine take to agree on one number, once a step."""
    with tempfile.TemporaryDirectory() as folder, get_context("spawn").Pool(ranks) as pool:
        return max(
            pool.starmap(_agree, [(rank, ranks, f"{folder}/store") for rank in range(ranks)], 1)
        )


def _agree(rank: int, ranks: int, store: str) -> float:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
    value = torch.tensor([0])
    dist.all_reduce(value, op=dist.ReduceOp.MAX)
    began = time.perf_counter()
    for _ in range(AGREEMENTS):
        dist.all_reduce(value, op=dist.ReduceOp.MAX)
    seconds = (time.perf_counter() - began) / AGREEMENTS
    dist.destroy_process_group()
    return seconds


if __name__ == "__main__":
    main()
