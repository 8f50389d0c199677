"""Recap: Hydra-composed experiments for training multi-task rankers."""

__version__ = "0.1.0"
