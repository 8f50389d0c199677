"""Steps applied to decoded rows before they become batches, in the order they are written."""

from recap.data.preprocess.step import BatchStep, Step, Steps
from recap.data.preprocess.truncate import TruncateAndSlice

__all__ = ["BatchStep", "Step", "Steps", "TruncateAndSlice"]
