"""How long and how a ranker is trained: the settings of the loop, checked as they are made."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch

from recap.sharding import Sharding


@dataclass(frozen=True, kw_only=True)
class Training:
    """The ``training`` section; conf/training/default.yaml says what each field means and its unit.

    Raises ValueError with every value that is out of range.
    """

    num_train_steps: int
    save_dir: str
    num_eval_steps: int = 16384
    checkpoint_every_n: int = 1000
    checkpoint_max_to_keep: int | None = None
    train_log_every_n: int = 1000
    eval_log_every_n: int = 5000
    eval_timeout_in_s: float = 3600
    rank_timeout_in_s: float = 600
    initial_checkpoint_dir: str | None = None
    gradient_accumulation: int | None = None
    gradient_clip_norm: float | None = None
    loss_reduction: Literal["mean", "sum", "min", "max", "median"] = "mean"
    sampling_correction: Literal["weights", "calibration"] = "weights"
    precision: Literal["float32", "bf16"] = "float32"
    tf32: bool = False
    compile: Literal["default", "reduce-overhead", "max-autotune"] | None = None
    device: str | None = None
    seed: int = 0
    objective: str | None = None
    sharding: Sharding = field(default_factory=Sharding)

    def __post_init__(self) -> None:
        least = {
            "num_train_steps": 0,
            "checkpoint_every_n": 1,
            "checkpoint_max_to_keep": 1,
            "train_log_every_n": 1,
            "eval_log_every_n": 1,
            "gradient_accumulation": 1,
            "seed": 0,
        }
        faults = [
            f"{name}={value} must be {bound} or more"
            for name, bound in least.items()
            if (value := getattr(self, name)) is not None and value < bound
        ]
        if self.num_eval_steps == 0:
            faults.append("num_eval_steps=0 would evaluate nothing; below 0 is the whole partition")
        if not self.eval_timeout_in_s >= 0:
            faults.append(f"eval_timeout_in_s={self.eval_timeout_in_s} must be 0 or more")
        if not 0 < self.rank_timeout_in_s < math.inf:
            timeout = self.rank_timeout_in_s
            faults.append(f"rank_timeout_in_s={timeout} must be a finite number above 0")
        if self.gradient_clip_norm is not None and not self.gradient_clip_norm > 0:
            faults.append(f"gradient_clip_norm={self.gradient_clip_norm} must be above 0")
        if fault := self._device_fault():
            faults.append(f"device={self.device}: {fault}; null takes what there is")
        if faults:
            raise ValueError("\n".join(faults))

    def _device_fault(self) -> str | None:
        try:
            device = self.torch_device
        except RuntimeError:
            return "no device has this name; cpu, cuda and cuda:1 are such names"
        if device.type == "cuda" and not torch.cuda.is_available():
            return "there is no GPU here"
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            return f"there are only {torch.cuda.device_count()} GPUs here"
        return None

    @property
    def torch_device(self) -> torch.device:
        """Where the model is trained."""
        if self.device is not None:
            return torch.device(self.device)
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @property
    def micro_batches(self) -> int:
        """Batches whose gradients are averaged into one update."""
        return self.gradient_accumulation or 1

    def evaluates_at(self, step: int) -> bool:
        """Whether training evaluates after so many steps."""
        last = step >= self.num_train_steps
        return last or (step > 0 and step % self.eval_log_every_n == 0)

    def autocast(self) -> torch.autocast:
        """Context in which the forward pass runs."""
        bf16 = self.precision == "bf16"
        return torch.autocast(self.torch_device.type, torch.bfloat16, enabled=bf16)
