"""The training loss: weighted binary cross entropy of every task, reduced over the tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

# A median over an even number of tasks is torch's, the lower of the two in the middle: like min and
# max it is the loss of one task, so that the gradient is one task's and not a mixture.
REDUCTIONS = {
    "mean": torch.mean,
    "sum": torch.sum,
    "min": torch.min,
    "max": torch.max,
    "median": torch.median,
}


class MultiTaskLoss(nn.Module):
    """The loss to minimise and, beside it, the loss of each task.

    Per task: mean over the batch of ``weights`` · cross entropy, where a positive's cross entropy
    counts ``pos_weight`` times. Total: ``reduction`` over the tasks of ``task_weights`` · task
    loss, so the mean divides by the number of tasks and not by the sum of their weights.

    ``pos_weight`` and ``task_weights`` go by task name; a task that is not named has 1.
    ``reduction`` is mean, sum, min, max or median (of an even number of tasks: the lower of the
    middle two).

    Raises ValueError for an unknown task, a negative weight or an unknown reduction, all at once.
    """

    pos_weight: Tensor  # [T] float64
    task_weights: Tensor  # [T] float64

    def __init__(
        self,
        tasks: Sequence[str],
        *,
        pos_weight: Mapping[str, float] | None = None,
        task_weights: Mapping[str, float] | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        self.tasks = tuple(tasks)
        self.reduction = reduction
        by_name = {"pos_weight": pos_weight or {}, "task_weights": task_weights or {}}
        faults = [
            f"{name}: no task {task!r}; tasks are {', '.join(self.tasks)}"
            for name, values in by_name.items()
            for task in values
            if task not in self.tasks
        ] + [
            f"{name}.{task}={value} is not a finite number of 0 or more"
            for name, values in by_name.items()
            for task, value in values.items()
            if not 0 <= value < float("inf")
        ]
        if reduction not in REDUCTIONS:
            faults.append(f"reduction={reduction!r} is not one of {', '.join(REDUCTIONS)}")
        if faults:
            raise ValueError("\n".join(faults))
        for name, values in by_name.items():
            # Not persistent: a checkpoint must not bring back weights that the config has changed.
            numbers = [values.get(task, 1.0) for task in self.tasks]
            column = torch.tensor(numbers, dtype=torch.float64)
            self.register_buffer(name, column, persistent=False)

    def forward(
        self,
        logits: Tensor,
        labels: Tensor,
        weights: Tensor | None = None,
        *,
        share: float = 1.0,
        mean_over_ranks: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Total [] and per-task loss [T] of logits, labels and weights [B, T], in float32 or wider.

        The per-task losses leave ``task_weights`` out: they stay comparable between runs.

        Of a batch that ranks share each gives its rows, so that the mean of all ranks' losses and
        gradients are the batch's: ``share`` is its number of rows over the mean number of a rank's
        (no rows: 0), and a ``reduction`` that chooses a task goes by ``mean_over_ranks``.
        """
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        pos_weight = self.pos_weight.to(logits.dtype)
        each = binary_cross_entropy_with_logits(
            logits, labels.to(logits.dtype), weights, pos_weight=pos_weight, reduction="none"
        )
        per_task = each.mean(dim=0)
        if share != 1.0:
            # the mean over no rows is not a number; their sum is 0, and its gradients are
            per_task = per_task * share if share else logits.sum(0)
        if mean_over_ranks is not None and self.reduction not in ("mean", "sum"):
            own = per_task.detach()
            per_task = per_task + (mean_over_ranks(own) - own)
        task_weights = self.task_weights.to(per_task.dtype)
        return REDUCTIONS[self.reduction](per_task * task_weights), per_task
