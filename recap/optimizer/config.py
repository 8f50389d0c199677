"""What optimizes a ranker: the algorithm and the learning rate of every group of parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import Parameter

from recap.optimizer.param_groups import named_groups

LearningRate = Callable[[int], float]  # a curve of recap.schedule, or any function of the step


@dataclass(frozen=True, kw_only=True)
class RecapAdamConfig:
    """Adam (Kingma and Ba, arXiv 1412.6980) under the reference configuration's names.

    Called with parameter groups, builds ``torch.optim.Adam`` in its fused form.
    """

    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-7

    def __post_init__(self) -> None:
        for name in ("beta_1", "beta_2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must lie in [0, 1)")
        if not self.epsilon >= 0:
            raise ValueError(f"epsilon={self.epsilon} must be 0 or more")

    def __call__(self, groups: Sequence[Mapping[str, Any]]) -> torch.optim.Optimizer:
        """The optimizer over ``groups``."""
        return torch.optim.Adam(
            [dict(group) for group in groups],
            betas=(self.beta_1, self.beta_2),
            eps=self.epsilon,
            fused=True,
        )


@dataclass(frozen=True, kw_only=True)
class MultiTaskLearningRates:
    """A rate per tower by task name, one for the backbone, and one per embedding table if wanted.

    A bare number is a constant rate. "Backbone" is every parameter outside the towers and the
    embedding tables; a table without a rate of its own follows the backbone's.
    """

    tower_learning_rates: Mapping[str, LearningRate | float]
    backbone_learning_rate: LearningRate | float
    table_learning_rates: Mapping[str, LearningRate | float] = field(default_factory=dict)

    def curve(self, group: str, kind: str) -> LearningRate:
        """The curve of a group of parameters; ``kind`` is "backbone", "tower" or "table".

        Raises:
            ValueError: a tower has no rate.
        """
        if kind == "tower":
            if group not in self.tower_learning_rates:
                raise ValueError(
                    f"multi_task_learning_rates.tower_learning_rates: no rate for task {group}; "
                    f"rates are given for {', '.join(self.tower_learning_rates) or 'no task'}"
                )
            return _curve(self.tower_learning_rates[group])
        if kind == "table" and group in self.table_learning_rates:
            return _curve(self.table_learning_rates[group])
        return _curve(self.backbone_learning_rate)


@dataclass(frozen=True, kw_only=True)
class RecapOptimizerConfig:
    """The whole ``optimizer`` section; called with a ranker's parameters, builds the optimizer.

    Exactly one of ``multi_task_learning_rates`` and ``single_task_learning_rate`` (one curve for
    every parameter), and exactly one of ``adam`` and ``algorithm`` (a partial of any
    ``torch.optim`` class, or any other callable from parameter groups to an optimizer).
    ``table_settings`` are the algorithm's settings for embedding tables where they differ, under
    the names of its torch class: ``{"eps": 1e-3, "weight_decay": 1e-6}``.
    """

    multi_task_learning_rates: MultiTaskLearningRates | None = None
    single_task_learning_rate: LearningRate | float | None = None
    adam: RecapAdamConfig | None = None
    algorithm: Callable[[list[dict[str, Any]]], torch.optim.Optimizer] | None = None
    table_settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.multi_task_learning_rates is None) == (self.single_task_learning_rate is None):
            raise ValueError(
                "give exactly one of multi_task_learning_rates and single_task_learning_rate"
            )
        if (self.adam is None) == (self.algorithm is None):
            raise ValueError("give exactly one of adam and algorithm")
        if own := {"params", "name", "lr", "learning_rate"} & set(self.table_settings):
            raise ValueError(
                f"table_settings: {', '.join(sorted(own))} is no setting of the algorithm; a "
                "table's rate is an entry of multi_task_learning_rates.table_learning_rates"
            )

    def __call__(
        self,
        *,
        towers: Mapping[str, Mapping[str, Parameter]],
        backbone: Mapping[str, Parameter],
        tables: Mapping[str, Mapping[str, Parameter]] | None = None,
    ) -> torch.optim.Optimizer:
        """The optimizer over named parameters: of each tower, of the backbone, of each table.

        Every parameter group carries its ``name``, its curve as ``learning_rate``, and as ``lr``
        the rate in force, which ``set_learning_rates`` writes. Weight decay, where the algorithm
        has any, leaves out biases, norms and embedding tables.

        Raises:
            ValueError: a tower without a rate, a rate that no parameter takes, a parameter in two
                groups, a table's setting that the algorithm does not have.
        """
        if rates := self.multi_task_learning_rates:
            for key, given, existing in (
                ("tower_learning_rates", rates.tower_learning_rates, towers),
                ("table_learning_rates", rates.table_learning_rates, tables or {}),
            ):
                if surplus := sorted(set(given) - set(existing)):
                    raise ValueError(
                        f"multi_task_learning_rates.{key}: a rate for {', '.join(surplus)}, but "
                        f"the model has only {', '.join(existing) or 'none'}"
                    )
        if self.table_settings and not tables:
            raise ValueError("table_settings: the model has no embedding table to apply them to")
        groups = named_groups(
            towers=towers,
            backbone=backbone,
            tables=tables or {},
            curve=self._curve,
            table_settings=self.table_settings,
        )
        build = self.adam or self.algorithm
        assert build is not None
        optimizer = build(groups)
        if unknown := sorted(set(self.table_settings) - set(optimizer.defaults)):
            raise ValueError(
                f"table_settings: {type(optimizer).__name__} has no {', '.join(unknown)}; it has "
                f"{', '.join(optimizer.defaults)}"
            )
        return optimizer

    def _curve(self, group: str, kind: str) -> LearningRate:
        if self.multi_task_learning_rates is not None:
            return self.multi_task_learning_rates.curve(group, kind)
        assert self.single_task_learning_rate is not None
        return _curve(self.single_task_learning_rate)


def _curve(rate: LearningRate | float) -> LearningRate:
    return rate if callable(rate) else lambda step: float(rate)
