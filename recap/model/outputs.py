"""What a ranker says of a batch, as whoever serves or studies it reads it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Outputs:
    """Predictions of a batch; columns are in the order of the ranker's tasks.

    With r the ratio of the sampling rates of negatives and positives, a calibrated probability is
    p·r / (1 − p + p·r): what p would be on data that was not sampled. Where sample weights correct
    for the sampling, or nothing was sampled, r is 1 and the two are equal.
    """

    logits: Tensor  # [B, T] float32
    probabilities: Tensor  # [B, T] float32, 0 to 1
    calibrated_probabilities: Tensor  # [B, T] float32, 0 to 1
    score: Tensor  # [B] float32, the sum over tasks of score_weight · calibrated probability
    backbone: Tensor | None  # [B, D], what the shared network says; None unless asked for
