"""Several ranks of one run as real processes on this machine."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tiny import ENVIRONMENT


def environment(rank: int, world_size: int, port: int) -> dict[str, str]:
    """What torchrun tells a process."""
    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "MASTER_PORT": port}
    return {**ENVIRONMENT, "MASTER_ADDR": "127.0.0.1", **{k: str(v) for k, v in told.items()}}


def free_port() -> int:
    """A port of this machine that nobody listens to."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@contextmanager
def started(command: Sequence[str], world_size: int, cwd: Path) -> Iterator[list[subprocess.Popen]]:
    """The command on so many ranks; whoever is left at the block's end is killed."""
    port = free_port()
    ranks = [
        subprocess.Popen(
            command,
            env=environment(rank, world_size, port),
            cwd=cwd,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for rank in range(world_size)
    ]
    try:
        yield ranks
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
            assert rank.stdout is not None
            rank.stdout.close()


def outputs(ranks: Sequence[subprocess.Popen], timeout_s: float = 120) -> list[str]:
    """What each of them printed, when all have ended."""
    return [rank.communicate(timeout=timeout_s)[0] for rank in ranks]


def run(command: Sequence[str], world_size: int, cwd: Path) -> list[str]:
    """What each rank of a command that ends well printed."""
    with started(command, world_size, cwd) as ranks:
        said = outputs(ranks)
        assert [rank.returncode for rank in ranks] == [0] * world_size, "\n".join(said)
    return said
