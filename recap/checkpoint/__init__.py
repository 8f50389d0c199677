"""Checkpoints: everything a restart needs, written aside and renamed, loaded without running code.

A checkpoint is a folder ``<save_dir>/checkpoints/step-00001000``: the tensors in the files of
torch.distributed.checkpoint, of every rank its own, and ``manifest.json`` with all that is no
tensor, names and shapes, and the size and checksum of every file. It is written under another
name, brought to disk and renamed, so a folder of that name is always whole: whatever ends a run in
the middle of a save leaves the checkpoint before it in place.
"""

from recap.checkpoint.folder import CheckpointError, by_step, find, latest
from recap.checkpoint.loading import load, weights
from recap.checkpoint.manifest import read_manifest
from recap.checkpoint.saving import Checkpoints, Seconds
from recap.checkpoint.soundness import newest_sound
from recap.checkpoint.training_state import (
    compare,
    restore_model,
    restore_training,
    training_state,
)

__all__ = [
    "CheckpointError",
    "Checkpoints",
    "Seconds",
    "by_step",
    "compare",
    "find",
    "latest",
    "load",
    "newest_sound",
    "read_manifest",
    "restore_model",
    "restore_training",
    "training_state",
    "weights",
]
