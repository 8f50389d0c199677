"""One update of the weights from the batches that were read for it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from recap.batch import Batch
from recap.distributed import Ranks
from recap.experiment import Experiment
from recap.optimizer import set_learning_rates
from recap.run.divergence import LossWindow
from recap.run.parallel import unsynchronised
from recap.run.reading import MicroBatches
from recap.run.split import clip


def update(
    experiment: Experiment, micro_batches: MicroBatches, step: int, window: LossWindow
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """The rates by parameter group, and the gradient's norm if it is clipped.

    The losses of the batches are counted into ``window``.
    """
    rates = set_learning_rates(experiment.optimizer, step)
    _seed(experiment.training.seed, step, experiment.ranks)
    for number, (batch, _, share) in enumerate(micro_batches, start=1):
        with unsynchronised(experiment.parallel, when=number < len(micro_batches)):
            window.add(_backward(experiment, batch, share))
    norm = _clip(experiment)
    experiment.optimizer.step()
    experiment.optimizer.zero_grad(set_to_none=True)
    return rates, norm


def _seed(seed: int, step: int, ranks: Ranks) -> None:
    """Draws of an update follow from these three: no random state outlives a step, or is saved."""
    sequence = np.random.SeedSequence((seed, step, ranks.rank))
    seed = int(sequence.generate_state(1, np.uint64)[0] >> 1)
    torch.default_generator.manual_seed(seed)
    # torch.manual_seed would keep a traceback for every kind of device that may come later: 1 ms
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


def _backward(experiment: Experiment, batch: Batch, share: float) -> Tensor:
    """Adds a batch's gradients; returns [1 + T]: its loss and the loss of each task, detached."""
    training, ranks = experiment.training, experiment.ranks
    batch = batch.to(training.torch_device, non_blocking=True)
    with training.autocast():
        logits = experiment.parallel(batch)
    mean: Callable[[Tensor], Tensor] | None = ranks.mean if ranks.world_size > 1 else None
    total, per_task = experiment.loss(
        logits, batch.labels, batch.weights, share=share, mean_over_ranks=mean
    )
    (total / training.micro_batches).backward()
    return torch.cat([total.detach().reshape(1), per_task.detach()])


def _clip(experiment: Experiment) -> dict[str, Tensor]:
    """Clips the gradients if the config says so; returns their norm before that."""
    if (limit := experiment.training.gradient_clip_norm) is None:
        return {}
    ranker = experiment.ranker
    if experiment.tables:
        norm = clip(ranker, experiment.optimizer, experiment.tables, limit)
    else:
        norm = clip_grad_norm_(ranker.parameters(), limit)
    return {"gradient_norm": norm}
