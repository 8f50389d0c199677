"""How many processes a launcher started for this run; the only reader of their environment."""

from __future__ import annotations

import os


def world_size() -> int:
    """Processes that torchrun (or SLURM's srun) started together; 1 for a process on its own."""
    in_step = "SLURM_STEP_ID" in os.environ  # a batch script's own shell is no rank
    return int(os.environ.get("WORLD_SIZE") or (in_step and os.environ["SLURM_NTASKS"]) or 1)
