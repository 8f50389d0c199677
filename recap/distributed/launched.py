"""Which process of how many this is; the only reader of a launcher's environment variables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Launched:
    """What torchrun or SLURM says of a process that it started."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0  # among the processes of this machine
    job: str | None = None  # of SLURM: another one for every job, step and restart


def launched(environment: Mapping[str, str] = os.environ) -> Launched:
    """This process among those that were started together; alone where nobody says otherwise.

    ``torchrun`` and whoever sets the variables of ``torch.distributed``'s ``env://`` come first,
    then the tasks of a SLURM step (``srun``). The shell of a batch script is no rank.

    Raises:
        ValueError: some of these variables are missing beside the others.
    """
    if "WORLD_SIZE" in environment:
        if missing := [name for name in ("RANK", "LOCAL_RANK") if name not in environment]:
            raise ValueError(
                f"WORLD_SIZE={environment['WORLD_SIZE']}: {' and '.join(missing)} must be set, "
                "too, as torchrun does; unset WORLD_SIZE for a single process"
            )
        return Launched(
            rank=int(environment["RANK"]),
            world_size=int(environment["WORLD_SIZE"]),
            local_rank=int(environment["LOCAL_RANK"]),
        )
    if not environment.get("SLURM_STEP_ID", "").isdigit() or "SLURM_PROCID" not in environment:
        return Launched()
    names = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
    return Launched(
        rank=int(environment["SLURM_PROCID"]),
        world_size=int(environment.get("SLURM_STEP_NUM_TASKS") or environment["SLURM_NTASKS"]),
        local_rank=int(environment["SLURM_LOCALID"]),
        job="-".join(environment.get(name, "0") for name in names),
    )
