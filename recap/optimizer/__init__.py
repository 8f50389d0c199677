"""Optimizers: one learning rate per tower, for the backbone and for embedding tables."""

from recap.optimizer.config import MultiTaskLearningRates, RecapAdamConfig, RecapOptimizerConfig
from recap.optimizer.fused import FusedAdagrad, FusedAdam, FusedRowWiseAdagrad, FusedSGD
from recap.optimizer.param_groups import set_learning_rates

__all__ = [
    "FusedAdagrad",
    "FusedAdam",
    "FusedRowWiseAdagrad",
    "FusedSGD",
    "MultiTaskLearningRates",
    "RecapAdamConfig",
    "RecapOptimizerConfig",
    "set_learning_rates",
]
