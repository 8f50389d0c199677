"""The reader of torch.distributed.checkpoint, restricted to what a checkpoint of recap holds."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint import metadata as described
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata

_FILE = ".metadata"

# what the metadata of tensors is made of; what would need code to be read is not among it
_CLASSES = {
    (described.__name__, name)
    for name in (
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    )
} | {
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch", "Size"),
    ("torch.serialization", "_get_layout"),  # looks a layout up by its name
}


def fill(checkpoint: Path, files: Mapping[str, Any], targets: dict[str, Tensor]) -> None:
    """Reads the tensors named in ``targets`` into them, from the ``files`` of a checkpoint.

    Raises:
        UnpicklingError: there is something else than tensors in a file.
        Exception: whatever a damaged file leads to.
    """
    reader = _Reader(checkpoint)
    metadata = reader.read_metadata()
    if others := {info.relative_path for info in metadata.storage_data.values()} - set(files):
        raise pickle.UnpicklingError(f"tensors in {', '.join(sorted(others))}")
    planner = DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    planner.set_up_planner(targets, metadata, is_coordinator=True)
    reader.set_up_storage_reader(metadata, is_coordinator=True)
    reader.read_data(planner.finish_plan(planner.create_local_plan()), planner).wait()


class _Reader(FileSystemReader):
    """Reads metadata without running what they say."""

    def read_metadata(self, *_: Any, **__: Any) -> Metadata:
        with (Path(self.path) / _FILE).open("rb") as file:
            metadata = _Unpickler(file).load()
        if not isinstance(metadata, Metadata):
            raise pickle.UnpicklingError(f"{_FILE} holds a {type(metadata).__name__}")
        return metadata


class _Unpickler(pickle.Unpickler):
    """Makes only the classes of the metadata, and torch's data types."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if (module, name) in _CLASSES:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{_FILE} names {module}.{name}")
