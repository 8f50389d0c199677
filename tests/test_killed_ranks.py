"""Ranks that are killed at random moments, again and again: the run ends as if nothing had been."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
from collections.abc import Sequence
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from ranks import environment, free_port
from test_resume import assert_same_runs
from tiny import Tiny

KILLS = 20
WITHIN_S = 30  # after a rank was killed, the others have ended; mostly it takes a moment
SETTINGS = ("training.num_train_steps=100", "training.checkpoint_every_n=1")

# Processes that start from one which has imported everything: each of the many starts is quick.
forked = multiprocessing.get_context("forkserver")
forked.set_forkserver_preload(["recap.trainer", "torchrec.distributed.planner"])


def train(command: Sequence[str], environ: dict[str, str], output: Path) -> None:
    """One rank: what ``python -m recap.train`` does."""
    log = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.update(environ)
    sys.argv = list(command)
    from recap.train import main

    main()


def start(tiny: Tiny, run: str) -> list[BaseProcess]:
    """Two ranks of a run."""
    port = free_port()
    command = tiny.command(*SETTINGS, "training.checkpoint_max_to_keep=2", run=run)[2:]
    ranks: list[BaseProcess] = []
    for rank in range(2):
        arguments = (command, environment(rank, 2, port), tiny.root / f"{run}-{rank}.log")
        ranks.append(forked.Process(target=train, args=arguments))
        ranks[-1].start()
    return ranks


def log(tiny: Tiny, run: str) -> str:
    return "\n".join(path.read_text()[-3000:] for path in sorted(tiny.root.glob(f"{run}-*.log")))


def checkpoints(tiny: Tiny) -> list[str]:
    folder = tiny.root / "killed/checkpoints"
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def saving(tiny: Tiny) -> bool:
    return any(name.startswith(".writing") for name in checkpoints(tiny))


def ended(ranks: Sequence[BaseProcess], within_s: float) -> bool:
    """Whether one of them ends within the time."""
    return bool(connection.wait([rank.sentinel for rank in ranks], within_s))


def reach(tiny: Tiny, ranks: Sequence[BaseProcess], moment: random.Random) -> None:
    """Returns at a random moment behind the next whole checkpoint, every other time in a save."""
    before, steps = tiny.steps("killed"), []
    while not ended(ranks, 0.01) and len(steps) < moment.randrange(1, 10):
        steps = [step for step in tiny.steps("killed") if step not in before]
    in_a_save = moment.random() < 0.5
    while in_a_save and not saving(tiny) and not ended(ranks, 0.001):
        pass


def test_kills_at_random_moments_and_inside_saves_change_nothing(tiny: Tiny):
    moment, ended_early = random.Random(0), 0
    for _ in range(KILLS):
        ranks = start(tiny, "killed")
        reach(tiny, ranks, moment)
        killed = moment.choice(ranks)
        if killed.exitcode is None:
            assert killed.pid is not None
            os.kill(killed.pid, signal.SIGKILL)
        for rank in ranks:
            rank.join(WITHIN_S)
        assert [rank.exitcode is None for rank in ranks] == [False, False], log(tiny, "killed")
        ended_early += killed.exitcode == -signal.SIGKILL
        assert any(rank.exitcode != 0 for rank in ranks) or tiny.steps("killed")[-1] == 100
    assert ended_early == KILLS, log(tiny, "killed")
    for run in ("killed", "undisturbed"):
        ranks = start(tiny, run)
        for rank in ranks:
            rank.join(300)
        assert [rank.exitcode for rank in ranks] == [0, 0], log(tiny, run)
    assert_same_runs(tiny, "killed", "undisturbed")
