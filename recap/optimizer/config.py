"""What optimizes a ranker: the algorithm and the learning rate of every group of parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import Parameter

from recap.nearest import nearest
from recap.optimizer.eager import Adam
from recap.optimizer.fastest import fastest
from recap.optimizer.joint import JointOptimizer
from recap.optimizer.param_groups import named_groups

LearningRate = Callable[[int], float]  # a curve of recap.schedule, or any function of the step
Algorithm = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]  # from parameter groups


@dataclass(frozen=True, kw_only=True)
class RecapAdamConfig:
    """Adam (Kingma and Ba, arXiv 1412.6980) under the reference configuration's names.

    Called with parameter groups, builds ``torch.optim.Adam`` in its fused form.

    Raises:
        ValueError: every number that is out of range.
    """

    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-7

    def __post_init__(self) -> None:
        faults = [
            f"{name}={getattr(self, name)} must lie in [0, 1)"
            for name in ("beta_1", "beta_2")
            if not 0 <= getattr(self, name) < 1
        ]
        if not (self.epsilon >= 0 and math.isfinite(self.epsilon)):
            faults.append(f"epsilon={self.epsilon} must be a finite number, 0 or more")
        _refuse(faults)

    def __call__(self, groups: Sequence[Mapping[str, Any]]) -> torch.optim.Optimizer:
        """The optimizer over ``groups``."""
        return Adam(
            [dict(group) for group in groups],
            betas=(self.beta_1, self.beta_2),
            eps=self.epsilon,
            fused=True,
        )


@dataclass(frozen=True, kw_only=True)
class MultiTaskLearningRates:
    """A rate per tower by task name, one for the backbone, and one per embedding table if wanted.

    A bare number is a constant rate. "Backbone" is every parameter outside the towers and the
    embedding tables; a table without a rate of its own follows the backbone's. Only a model without
    such parameters has no ``backbone_learning_rate``.

    Raises:
        ValueError: bare numbers that are no rates, all of them.
    """

    tower_learning_rates: Mapping[str, LearningRate | float | None]
    backbone_learning_rate: LearningRate | float | None = None
    table_learning_rates: Mapping[str, LearningRate | float | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rates = {"backbone_learning_rate": self.backbone_learning_rate}
        for key in ("tower_learning_rates", "table_learning_rates"):
            rates |= {f"{key}.{name}": rate for name, rate in getattr(self, key).items()}
        _refuse([fault for key, rate in rates.items() for fault in _rate_faults(key, rate)])

    def curve(self, group: str, kind: str) -> LearningRate:
        """The curve of a group of parameters; ``kind`` is "backbone", "tower" or "table"."""
        if kind == "tower":
            return _curve(self.tower_learning_rates[group])
        own = self.table_learning_rates.get(group) if kind == "table" else None
        return _curve(self.backbone_learning_rate if own is None else own)

    def faults(
        self, towers: Collection[str], backbone: Collection[str], tables: Collection[str]
    ) -> Iterator[str]:
        """What does not fit a model of these towers, backbone parameters and tables, by name."""
        place = "multi_task_learning_rates"
        given = [task for task, rate in self.tower_learning_rates.items() if rate is not None]
        for task in towers:
            if task not in given:
                yield (
                    f"{place}.tower_learning_rates: no rate for task {task}; "
                    f"rates are given for {', '.join(given) or 'no task'}"
                )
        for kind, existing in (("tower", towers), ("table", tables)):
            key = f"{kind}_learning_rates"
            for name in sorted(set(getattr(self, key)) - set(existing)):
                yield f"{place}.{key}.{name}: no such {kind} is trained; {nearest(name, existing)}"
        following = [name for name in tables if self.table_learning_rates.get(name) is None]
        if self.backbone_learning_rate is None and (backbone or following):
            takers = [f"{len(backbone)} parameters"] if backbone else []
            takers += [f"table {name}" for name in following]
            yield (
                f"{place}.backbone_learning_rate=null: {', '.join(takers)} take it; "
                "give a rate, 0 leaves them as they are"
            )


@dataclass(frozen=True, kw_only=True)
class RecapOptimizerConfig:
    """The whole ``optimizer`` section; called with a ranker's parameters, builds the optimizer.

    Exactly one of ``multi_task_learning_rates`` and ``single_task_learning_rate`` (one curve for
    every parameter), and exactly one of ``adam`` and ``algorithm`` (a partial of any
    ``torch.optim`` class, or any other callable from parameter groups to an optimizer). Classes of
    torch are built fused where they can be, see ``fastest``.

    Embedding tables may differ, in one of two ways. ``table_settings`` are settings of the same
    algorithm under the names of its torch class: ``{"eps": 1e-3, "weight_decay": 1e-6}``.
    ``table_algorithm`` is another algorithm, given as ``algorithm`` is, with all its own settings.

    Raises:
        ValueError: what contradicts itself, all of it.
    """

    multi_task_learning_rates: MultiTaskLearningRates | None = None
    single_task_learning_rate: LearningRate | float | None = None
    adam: RecapAdamConfig | None = None
    algorithm: Algorithm | None = None
    table_settings: Mapping[str, Any] = field(default_factory=dict)
    table_algorithm: Algorithm | None = None

    def __post_init__(self) -> None:
        faults = list(_rate_faults("single_task_learning_rate", self.single_task_learning_rate))
        if (self.multi_task_learning_rates is None) == (self.single_task_learning_rate is None):
            faults.append(
                "give exactly one of multi_task_learning_rates and single_task_learning_rate"
            )
        if (self.adam is None) == (self.algorithm is None):
            faults.append("give exactly one of adam and algorithm")
        if own := {"params", "name", "lr", "learning_rate"} & set(self.table_settings):
            faults.append(
                f"table_settings: {', '.join(sorted(own))} is no setting of the algorithm; a "
                "table's rate is an entry of multi_task_learning_rates.table_learning_rates"
            )
        if self.table_settings and self.table_algorithm is not None:
            faults.append(
                f"table_settings={dict(self.table_settings)}: table_algorithm has its own "
                "settings; write them there, or take one of the two out"
            )
        _refuse(faults)

    def __call__(
        self,
        *,
        towers: Mapping[str, Mapping[str, Parameter]],
        backbone: Mapping[str, Parameter],
        tables: Mapping[str, Mapping[str, Parameter]] | None = None,
        embeddings: Collection[str] = (),
    ) -> torch.optim.Optimizer:
        """The optimizer over named parameters: of each tower, of the backbone, of each table.

        Every parameter group carries its ``name``, its curve as ``learning_rate``, and as ``lr``
        the rate in force, which ``set_learning_rates`` writes. Weight decay, where the algorithm
        has any, leaves out biases, norms, embedding tables and the parameters that ``embeddings``
        names. It reaches tables by ``table_settings`` and ``table_algorithm``.

        Raises:
            ValueError: a tower without a rate, a rate of a tower or table that is not there,
                parameters that no rate is for, settings for tables where there are none; these all
                at once. A parameter in two groups, a table's setting that the algorithm does not
                have.
        """
        tables = tables or {}
        faults = []
        if self.multi_task_learning_rates is not None:
            faults += self.multi_task_learning_rates.faults(towers, backbone, tables)
        for key in ("table_settings", "table_algorithm"):
            if getattr(self, key) and not tables:
                faults.append(f"{key}: no embedding table is trained that it could apply to")
        _refuse(faults)
        own = None if self.table_algorithm else {"weight_decay": 0.0, **self.table_settings}
        groups = named_groups(
            towers=towers,
            backbone=backbone,
            tables=tables,
            embeddings=embeddings,
            curve=self._curve,
            table_settings=own or {},
        )
        build = self.adam or self.algorithm
        assert build is not None
        if self.table_algorithm is not None:
            dense = [group for group in groups if group["name"] not in tables]
            sparse = [group for group in groups if group["name"] in tables]
            parts = [fastest(build, dense)] if dense else []
            return JointOptimizer([*parts, fastest(self.table_algorithm, sparse)])
        optimizer = fastest(build, groups)
        if unknown := sorted(set(self.table_settings) - set(optimizer.defaults)):
            raise ValueError(
                f"table_settings: {type(optimizer).__name__} has no {', '.join(unknown)}; it has "
                f"{', '.join(optimizer.defaults)}"
            )
        return optimizer

    def _curve(self, group: str, kind: str) -> LearningRate:
        if self.multi_task_learning_rates is not None:
            return self.multi_task_learning_rates.curve(group, kind)
        return _curve(self.single_task_learning_rate)


def _curve(rate: LearningRate | float | None) -> LearningRate:
    assert rate is not None
    return rate if callable(rate) else lambda step: float(rate)


def _rate_faults(key: str, rate: object) -> Iterator[str]:
    if rate is None or callable(rate):
        return
    if not (isinstance(rate, int | float) and math.isfinite(rate) and rate >= 0):
        yield f"{key}={rate} must be a curve of recap.schedule, or a finite number, 0 or more"


def _refuse(faults: Sequence[str]) -> None:
    if faults:
        raise ValueError("\n".join(faults))
