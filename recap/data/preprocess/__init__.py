"""Steps applied to decoded rows before they become batches, in the order they are written."""

from recap.data.preprocess.downcast import Downcast
from recap.data.preprocess.downsample import DownsampleNegatives
from recap.data.preprocess.extract import ExtractedFeature, ExtractFeatures
from recap.data.preprocess.rectify import RectifyLabels
from recap.data.preprocess.step import BatchStep, Step, Steps
from recap.data.preprocess.truncate import TruncateAndSlice

__all__ = [
    "BatchStep",
    "Downcast",
    "DownsampleNegatives",
    "ExtractFeatures",
    "ExtractedFeature",
    "RectifyLabels",
    "Step",
    "Steps",
    "TruncateAndSlice",
]
