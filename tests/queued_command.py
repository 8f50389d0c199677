"""A command that imports little, for the launchers' tests: says where it runs, ends as told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import submitit
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from recap.compose import hydra_command
from recap.signals import stop_signals

HERE = Path(__file__).resolve().parent


CONF = HERE / "conf"


def queue(*overrides: str, cwd: Path, conf: Path = CONF) -> subprocess.CompletedProcess[str]:
    """The command line, typed in ``cwd``, to its end."""
    return subprocess.run(
        command(*overrides, conf=conf),
        cwd=cwd,
        env=environment(cwd),
        text=True,
        capture_output=True,
        timeout=120,
    )


def start(*overrides: str, cwd: Path) -> subprocess.Popen[str]:
    """The command line, typed in ``cwd``; what it prints is read from its stdout."""
    return subprocess.Popen(
        command(*overrides),
        cwd=cwd,
        env=environment(cwd),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def jobs(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """``python -m recap.jobs``, typed in ``cwd``, to its end."""
    return subprocess.run(
        [sys.executable, "-m", "recap.jobs", *arguments],
        cwd=cwd,
        env=environment(cwd),
        text=True,
        capture_output=True,
        timeout=120,
    )


def command(*overrides: str, conf: Path = CONF) -> list[str]:
    """The command line."""
    return [sys.executable, "-m", "queued_command", f"--config-dir={conf}", *overrides]


def environment(cwd: Path) -> dict[str, str]:
    """For the command; this machine's devices are those of ``cwd``, not of other tests."""
    (cwd / "tmp").mkdir(exist_ok=True)
    path = f"{HERE.parent}:{HERE}"
    around = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    return {**around, "PYTHONPATH": path, "TMPDIR": str(cwd / "tmp")}


def check(cfg: DictConfig, num_ranks: int) -> list[str]:
    """The fault that the config names."""
    return [] if cfg.refuse is None else [f"refuse={cfg.refuse}: for {num_ranks} ranks"]


@hydra_command("queued", check=check)
def main(cfg: DictConfig) -> Any:
    """Does as the config says."""
    rank = submitit.JobEnvironment().global_rank
    shown = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "SET")
    variables = {name: os.environ[name] for name in shown if name in os.environ}
    overrides = list(HydraConfig.get().overrides.task)
    print(f"rank {rank} says {cfg.say}; {variables}; {overrides}; {sys.argv[1:]}", flush=True)
    if (cfg.ends or {}).get(rank) == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if (cfg.ends or {}).get(rank) == "raise":
        raise ArithmeticError(f"rank {rank} cannot go on")
    with stop_signals(patient=True) as came:
        while cfg.ends or (cfg.wait_for and not Path(cfg.wait_for).exists()):
            time.sleep(0.05)  # for a file, or for the end that another rank brings
            if signal.SIGUSR2 in came:
                sys.exit(128 + signal.SIGUSR2)  # as a run that has saved
            if came:
                sys.exit(128 + came[0])
    return cfg.value


if __name__ == "__main__":
    main()
