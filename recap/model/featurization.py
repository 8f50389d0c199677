"""Continuous and binary columns as the numbers that a network reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from recap.batch import Batch
from recap.model.dense import DenseInputs
from recap.model.norm import BatchNorm, LayerNorm
from recap.schema import Schema


class Log1pAbs(nn.Module):
    """sign(x)·log(1 + abs(x)) of the continuous columns, then ``feature_names_to_concat``.

    Non-finite → 0. ``num_slots`` is not read: every input of a ranker is built by the same call.
    """

    def __init__(
        self,
        schema: Schema,
        num_slots: Mapping[str, int] | None = None,
        *,
        continuous_feature_names: Sequence[str] = ("continuous",),
        feature_names_to_concat: Sequence[str] = ("binary",),
    ) -> None:
        super().__init__()
        check_names(continuous_feature_names, feature_names_to_concat)
        self.continuous = DenseInputs(schema, continuous_feature_names)
        self.unchanged = DenseInputs(schema, feature_names_to_concat)
        self.out_features = self.continuous.out_features + self.unchanged.out_features

    def forward(self, batch: Batch) -> Tensor:
        """The features, [B, out_features]."""
        return torch.cat([log1p_abs(self.continuous(batch)), self.unchanged(batch)], dim=1)


class ClipLog1pAbs(Log1pAbs):
    """As ``Log1pAbs``, the continuous columns clamped to ±``clip_magnitude`` on the log scale."""

    def __init__(
        self,
        schema: Schema,
        num_slots: Mapping[str, int] | None = None,
        *,
        continuous_feature_names: Sequence[str] = ("continuous",),
        feature_names_to_concat: Sequence[str] = ("binary",),
        clip_magnitude: float = 5.0,
    ) -> None:
        super().__init__(
            schema,
            continuous_feature_names=continuous_feature_names,
            feature_names_to_concat=feature_names_to_concat,
        )
        check_clip_magnitude(clip_magnitude)
        self.clip_magnitude = clip_magnitude

    def forward(self, batch: Batch) -> Tensor:
        """The features, [B, out_features]."""
        logs = log1p_abs(self.continuous(batch))
        clipped = logs.clamp(-self.clip_magnitude, self.clip_magnitude)
        return torch.cat([clipped, self.unchanged(batch)], dim=1)


class DoubleNormLog(nn.Module):
    """Continuous columns on a normalised, clamped log scale and others as they are, layer-normed.

    Non-finite → 0; x → sign(x)·log(1 + abs(x)); batch norm; clamp to ±``clip_magnitude``;
    concatenate ``feature_names_to_concat``; layer norm. ``num_slots`` is not read: every input of a
    ranker is built by the same call.
    """

    def __init__(
        self,
        schema: Schema,
        num_slots: Mapping[str, int] | None = None,
        *,
        continuous_feature_names: Sequence[str] = ("continuous",),
        feature_names_to_concat: Sequence[str] = ("binary",),
        batch_norm_config: BatchNorm | None = BatchNorm(affine=True, momentum=0.01),  # noqa: B008
        clip_magnitude: float = 5.0,
        layer_norm_config: LayerNorm | None = LayerNorm(epsilon=0.0),  # noqa: B008
    ) -> None:
        super().__init__()
        check_names(continuous_feature_names, feature_names_to_concat)
        check_clip_magnitude(clip_magnitude)
        self.clip_magnitude = clip_magnitude
        self.continuous = DenseInputs(schema, continuous_feature_names)
        self.unchanged = DenseInputs(schema, feature_names_to_concat)
        width = self.continuous.out_features
        self.out_features = width + self.unchanged.out_features
        self.batch_norm = batch_norm_config.over(width) if batch_norm_config else nn.Identity()
        self.layer_norm = (
            layer_norm_config.over(self.out_features) if layer_norm_config else nn.Identity()
        )

    def forward(self, batch: Batch) -> Tensor:
        """The features, [B, out_features]."""
        logs = self.batch_norm(log1p_abs(self.continuous(batch)))
        clipped = logs.clamp(-self.clip_magnitude, self.clip_magnitude)
        return self.layer_norm(torch.cat([clipped, self.unchanged(batch)], dim=1))


def log1p_abs(values: Tensor) -> Tensor:
    """sign(x)·log(1 + abs(x)), elementwise: close to x around 0, logarithmic in the tails."""
    return values.abs().log1p_().copysign_(values)


def check_clip_magnitude(clip_magnitude: float) -> None:
    """Refuses a bound that leaves nothing (ValueError)."""
    if not clip_magnitude > 0.0:
        raise ValueError(f"clip_magnitude={clip_magnitude} must be above 0, e.g. 5.0")


def check_names(continuous: Sequence[str], unchanged: Sequence[str]) -> None:
    """Refuses no continuous input, and one that is also left as it is (ValueError)."""
    if not continuous:
        raise ValueError(
            "continuous_feature_names=[] must name at least one dense input; "
            "a model without one leaves the featurization out of its inputs"
        )
    if both := [name for name in continuous if name in unchanged]:
        raise ValueError(
            f"{', '.join(both)} in both continuous_feature_names and feature_names_to_concat; "
            "name each input in one of them"
        )
