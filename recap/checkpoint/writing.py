"""The tensors of a checkpoint, brought to disk by torch.distributed.checkpoint.

Its planner says which rank writes what: a shard is its owner's, of tensors that every rank has each
is written once, and these are shared out evenly. Its writer makes a file per rank. What the ranks
tell each other in between goes through ``Peers``, so that a failure on one is a failure on all.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import IO, Any

import google_crc32c
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystem, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex, StorageMeta
from torch.distributed.checkpoint.planner import SavePlan, WriteItem
from torch.distributed.checkpoint.storage import WriteResult

from recap.checkpoint.manifest import Entries
from recap.checkpoint.peers import Peers

_PIECE = 1 << 20  # bytes that are summed at once: they fit the processor's cache


@dataclass
class Plan:
    """Who writes what; stays the same as long as names and shapes do."""

    mine: SavePlan
    entries: Entries  # of the tensors that any rank has
    metadata: Metadata | None = None  # on rank 0

    def tensors(self, leaves: Mapping[str, Tensor]) -> dict[MetadataIndex, Tensor]:
        """What this rank writes, of its ``leaves``."""
        planner = _planner(leaves)
        found = {item.index: planner.resolve_data(item) for item in self.mine.items}
        return {index: tensor for index, tensor in found.items() if isinstance(tensor, Tensor)}


@dataclass
class Written:
    """What one rank has written: where each tensor lies, and every file's size and checksum."""

    results: list[WriteResult] = field(default_factory=list)
    files: dict[str, dict[str, Any]] = field(default_factory=dict)


def planned(leaves: Mapping[str, Tensor], entries: Entries, peers: Peers) -> Plan:
    """The plan of every rank for the tensors ``leaves``, which ``entries`` describe.

    Raises:
        Failed: their shards do not make whole tensors.
    """
    planner = _planner(leaves, first=peers.first)

    def share_out(
        given: list[tuple[SavePlan, Entries]],
    ) -> list[tuple[SavePlan, Entries, Metadata | None]]:
        plans, metadata = planner.create_global_plan([plan for plan, _ in given])
        plans = FileSystemWriter(".").prepare_global_plan(plans)
        described = {path: entry for _, held in given for path, entry in held.items()}
        return [(plan, described, None if i else metadata) for i, plan in enumerate(plans)]

    return Plan(*peers.exchange(lambda: (planner.create_local_plan(), entries), share_out))


def write(folder: Path, plan: Plan, buffers: Mapping[MetadataIndex, Tensor]) -> Written:
    """Writes this rank's part of ``plan`` out of ``buffers`` and brings it to disk."""
    writer = _Writer(folder)
    results = writer.write_data(plan.mine, _Buffered(buffers)).wait()
    return Written(results, writer.sums)


def finish(folder: Path, metadata: Metadata, written: list[Written]) -> dict[str, dict[str, Any]]:
    """Writes where everything lies; returns size and checksum of all files, this one included."""
    writer = _Writer(folder)
    writer.finish(metadata, [one.results for one in written])
    files: dict[str, dict[str, Any]] = {}
    for one in (*(one.files for one in written), writer.sums):
        files |= one
    return files


def _planner(leaves: Mapping[str, Tensor], *, first: bool = False) -> DefaultSavePlanner:
    planner = DefaultSavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    planner.set_up_planner(dict(leaves), StorageMeta(), first)
    return planner


class _Buffered(DefaultSavePlanner):
    """Gives the writer what was staged."""

    def __init__(self, buffers: Mapping[MetadataIndex, Tensor]) -> None:
        super().__init__()
        self._buffers = buffers

    def resolve_data(self, write_item: WriteItem) -> Tensor:
        return self._buffers[write_item.index]


class _Writer(FileSystemWriter):
    """Writes into a folder that is there; ``sums`` has what it wrote."""

    def __init__(self, folder: Path) -> None:
        # with more threads than this one, the writer would lose their errors
        super().__init__(folder, sync_files=True, thread_count=1, per_thread_copy_ahead=0)
        self.sums: dict[str, dict[str, Any]] = {}
        self.fs = _SummedFiles(self.sums)

    def storage_meta(self) -> StorageMeta:
        """Nothing: the folder's name is not the checkpoint's."""
        return StorageMeta()


class _SummedFiles(FileSystem):
    """Files whose size and checksum are known as soon as they are written."""

    def __init__(self, sums: dict[str, dict[str, Any]]) -> None:
        self._sums = sums

    @contextmanager
    def create_stream(self, path: str | PathLike, mode: str) -> Generator[Any, None, None]:
        with super().create_stream(path, mode) as file:
            summed = SummedFile(file)  # type: ignore[arg-type]
            yield summed
        name = Path(path).name.removesuffix(".tmp")
        self._sums[name] = {"bytes": summed.size, "crc32c": f"{summed.crc32c:08x}"}


class SummedFile:
    """A file that is written from its start to its end, and summed on the way."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.name = file.name
        self.size = 0
        self.crc32c = 0
        self.tell, self.flush = file.tell, file.flush
        self.fileno, self.close = file.fileno, file.close

    def write(self, data: bytes | memoryview) -> int:
        """Writes ``data``."""
        view = memoryview(data).cast("B")
        self._file.write(view)
        for start in range(0, len(view), _PIECE):
            piece = bytes(view[start : start + _PIECE])
            self.crc32c = google_crc32c.extend(self.crc32c, piece)
        self.size += len(view)
        return len(view)
