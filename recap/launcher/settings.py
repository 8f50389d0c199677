"""What ``hydra/launcher=slurm`` and ``hydra/launcher=submitit_local`` may be told."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

LONGEST_SIGNAL_DELAY_S = 65535  # of sbatch --signal
# sbatch's options that a field of SlurmSettings is for, and those that recap needs as they are
FIELD_OF_OPTION = {
    **{name: name for name in ("partition", "account", "qos", "constraint", "gres", "nodes")},
    "ntasks-per-node": "tasks_per_node",
    "ntasks": "tasks_per_node",
    "gpus-per-node": "gpus_per_node",
    "cpus-per-task": "cpus_per_task",
    "mem": "memory",
    "time": "time_min",
    "signal": "signal_delay_s",
    "requeue": "requeue",
    "no-requeue": "requeue",
    "array": "array_parallelism",
}
OWN_OPTIONS = ("output", "error", "open-mode", "job-name", "wrap", "chdir")


@dataclass(frozen=True, kw_only=True)
class JobSettings:
    """What a job may be told wherever it is queued.

    Raises:
        ValueError: values out of range; a line for each, ``key=value: what it must be``.
    """

    tasks_per_node: int = 1
    gpus_per_node: int | None = None
    cpus_per_task: int | None = None
    time_min: int | None = None
    signal_delay_s: int = 120
    requeue: int = 0
    setup: Sequence[str] = ()
    array_parallelism: int | None = None
    detach: bool = False
    snapshot: bool = False
    preview: bool = False
    check: bool = True

    @property
    def num_tasks(self) -> int:
        """Ranks of a job."""
        return self.tasks_per_node

    def __post_init__(self) -> None:
        if faults := list(self._faults()):
            raise ValueError("\n".join(faults))

    def _faults(self) -> Iterator[str]:
        least = {
            "tasks_per_node": 1,
            "gpus_per_node": 0,
            "cpus_per_task": 1,
            "time_min": 1,
            "signal_delay_s": 1,
            "requeue": 0,
            "array_parallelism": 1,
        }
        for name, lowest in least.items():
            value = getattr(self, name)
            if value is not None and value < lowest:
                yield f"{name}={value}: must be {lowest} or more"
        if self.signal_delay_s > LONGEST_SIGNAL_DELAY_S:
            yield f"signal_delay_s={self.signal_delay_s}: must be at most {LONGEST_SIGNAL_DELAY_S}"
        if self.time_min is not None and self.signal_delay_s >= self.time_min * 60 >= 60:
            yield (
                f"signal_delay_s={self.signal_delay_s}: must be less than time_min="
                f"{self.time_min}, {self.time_min * 60} s: the signal would come at the start"
            )


@dataclass(frozen=True, kw_only=True)
class SlurmSettings(JobSettings):
    """Of a job on SLURM; see conf/hydra/launcher/slurm.yaml."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gres: str | None = None
    nodes: int = 1
    memory: str | None = None
    sbatch: Mapping[str, str | int | bool] = field(default_factory=dict)
    srun: Sequence[str] = ()

    @property
    def num_tasks(self) -> int:
        """Ranks of a job."""
        return self.nodes * self.tasks_per_node

    def _faults(self) -> Iterator[str]:
        yield from super()._faults()
        if self.nodes < 1:
            yield f"nodes={self.nodes}: must be 1 or more"
        if self.memory is not None and not re.fullmatch(r"\d+[KMGT]", self.memory):
            yield f"memory={self.memory}: must be a whole number and a unit, 64G or 800M, per node"
        for option in self.sbatch:
            name = option.lstrip("-").replace("_", "-")
            if name in FIELD_OF_OPTION:
                yield f"sbatch.{option}: has a key of its own, {FIELD_OF_OPTION[name]}"
            elif name in OWN_OPTIONS:
                yield f"sbatch.{option}: recap sets this option itself"
            elif name != option:
                yield f"sbatch.{option}: is written without dashes before it, {name}"


@dataclass(frozen=True, kw_only=True)
class LocalSettings(JobSettings):
    """Of a job on this machine; see conf/hydra/launcher/submitit_local.yaml."""

    gpus: Sequence[int | str] | None = None
    cpus: int | None = None

    def _faults(self) -> Iterator[str]:
        yield from super()._faults()
        if self.cpus is not None and self.cpus < 1:
            yield f"cpus={self.cpus}: must be 1 or more"
