"""The processes that train one run together: which of them this is, and what they agree on.

A process on its own is world size 1: every method answers at once, and nothing is set up.
"""

from __future__ import annotations

import os
import resource
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

from recap.distributed.launched import Launched, launched
from recap.distributed.watch import Watch

T = TypeVar("T")

__all__ = ["ALONE", "Launched", "OtherRankFailed", "Ranks", "joined", "launched"]


class OtherRankFailed(RuntimeError):
    """Another rank failed; the message says which one and why, its own log has the traceback."""


@dataclass(frozen=True)
class Ranks:
    """This process among those of its run. All ranks call every method but ``at`` and ``alive``.

    What they agree on travels by gloo between processors, so that no GPU is waited for, except for
    ``sum_`` of a tensor on a GPU.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    _watch: Watch | None = field(default=None, repr=False)

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which writes, tracks and speaks for all."""
        return self.rank == 0

    def at(self, step: int) -> None:
        """A sign of life for the others: work goes on behind ``step``."""
        if self._watch is not None:
            self._watch.at(step)

    def alive(self) -> None:
        """A sign of life where work on one step takes long."""
        if self._watch is not None:
            self._watch.alive()

    def most(self, value: int) -> int:
        """The largest of all ranks' values, 0 or more."""
        if self.world_size == 1:
            return value
        agreed = torch.tensor([value])
        dist.all_reduce(agreed, op=dist.ReduceOp.MAX)
        return int(agreed.item())

    def sum_(self, tensor: Tensor) -> Tensor:
        """The tensor itself, which then holds the sum over all ranks' ones."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean over all ranks' tensors, a new one; the same tensor when alone."""
        return tensor if self.world_size == 1 else self.sum_(tensor.clone()) / self.world_size

    def gathered(self, value: T) -> list[T]:
        """All ranks' values, in their order; anything that can be pickled."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def told(self, value: T) -> T:
        """What rank 0 gives."""
        if self.world_size == 1:
            return value
        values: list[Any] = [value if self.first else None]
        dist.broadcast_object_list(values, src=0, device=torch.device("cpu"))
        return values[0]

    def meet(self) -> None:
        """Returns when all ranks have come here."""
        self.most(0)

    @property
    def world(self) -> dist.ProcessGroup | None:
        """The group of all ranks, for the main thread; None alone."""
        return None if self.world_size == 1 else dist.group.WORLD

    def group(self) -> dist.ProcessGroup | None:
        """A further group of all ranks between processors, for a thread of its own; None alone."""
        if self.world_size == 1:
            return None
        group = dist.new_group(backend="gloo")
        assert isinstance(group, dist.ProcessGroup)
        return group

    def in_step(self, items: Iterable[T], stop: Callable[[], int] = lambda: 0) -> Iterator[T]:
        """The items, of which every rank has as many, as long as all ranks get theirs.

        They end on all of them where any rank's ``stop`` gives more than 0.

        Raises:
            Exception: what this rank's items raise.
            OtherRankFailed: another rank's items raised.
        """
        ended, failed = 1, 2
        own = iter(items)
        while True:
            item, failure, state = None, None, ended if stop() else 0
            try:
                item = next(own)
            except StopIteration:
                state = ended
            except Exception as error:  # to be told to the others, who would wait for this rank
                failure, state = error, failed
            if (state := self.most(state)) == failed:
                failures = self.gathered(None if failure is None else str(failure))
                if failure is not None:
                    raise failure
                refuse_failures(failures)
            if state == ended:
                return
            yield cast(T, item)

    @contextmanager
    def together(self) -> Iterator[None]:
        """A block that all ranks leave well, or none.

        Raises:
            OtherRankFailed: here all is well, and another rank raised.
        """
        try:
            yield
        except Exception as error:
            self.gathered(f"{type(error).__name__}: {error}")
            raise
        refuse_failures(self.gathered(None))


ALONE = Ranks()


def refuse_failures(failures: Sequence[str | None]) -> None:
    """Tells what happened elsewhere: a line for every rank whose failure is not None.

    Raises:
        OtherRankFailed: there is one.
    """
    lines = [f"rank {rank}: {text}" for rank, text in enumerate(failures) if text is not None]
    if lines:
        raise OtherRankFailed("\n".join(lines))


@contextmanager
def joined(*, meeting: Path, timeout_s: float, device: str | None = None) -> Iterator[Ranks]:
    """The ranks of this run, connected until the block's end; ``ALONE`` for a single process.

    Started by torchrun, processes find each other as it says; as tasks of a SLURM step through the
    folder ``meeting`` (of a file system that all see), where rank 0 leaves its address, unless
    MASTER_ADDR and MASTER_PORT are set. They speak nccl between GPUs and gloo between processors.

    Args:
        meeting: made where it does not exist.
        timeout_s: how long ranks wait for each other; who hangs for longer ends the job.
        device: "cpu" keeps to processors; None or another one takes this rank's GPU, if any.

    Raises:
        ValueError: the environment is incomplete.
        RuntimeError: the others did not come in time.
    """
    process = launched()
    if process.world_size == 1:
        yield ALONE
        return
    on_gpu = torch.cuda.is_available() and device != "cpu"
    if on_gpu:
        # a scheduler may show each process its own GPU alone, which is number 0 then
        torch.cuda.set_device(process.local_rank if torch.cuda.device_count() > 1 else 0)
    _open_files_as_allowed()
    # the watch ends a run that hangs, and can say where; a collective's own end comes behind it
    patience = timedelta(seconds=timeout_s + 60)
    by_folder = process.job is not None and "MASTER_ADDR" not in os.environ
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
        store=_met(meeting, process, patience) if by_folder else None,
        rank=process.rank if by_folder else -1,
        world_size=process.world_size if by_folder else -1,
        timeout=patience,
    )
    watch = _watch(process, timeout_s, patience)
    try:
        yield Ranks(process.rank, process.world_size, process.local_rank, watch)
    except BaseException:
        watch.close()
        raise  # without a goodbye to the others, who may never come to it
    watch.close()
    dist.destroy_process_group()


def _open_files_as_allowed() -> None:
    """Raises this process's limit of open files to what it may have at most.

    Each group of ranks opens two for every other rank, and 1024, a common limit, is soon reached.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # of a system that allows less than it says
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _met(meeting: Path, process: Launched, patience: timedelta) -> TCPStore:
    """A store on rank 0, whose address the others read in the folder."""
    note = meeting / f".ranks-{process.job}"
    until = time.monotonic() + patience.total_seconds()
    if process.rank == 0:
        store = _own_store(process.world_size, patience)
        meeting.mkdir(parents=True, exist_ok=True)
        aside = note.with_name(f"{note.name}.tmp")
        aside.write_text(f"{_address()} {store.port}")
        aside.replace(note)
    else:
        while not note.exists():
            if time.monotonic() > until:
                raise RuntimeError(
                    f"rank {process.rank}: rank 0 has left no address in {note}; the folder must "
                    "be on a file system that all nodes see, or MASTER_ADDR and MASTER_PORT be set"
                )
            time.sleep(0.2)
        host, port = note.read_text().split()
        store = TCPStore(host, int(port), process.world_size, False, timeout=patience)
    store.add("met", 1)
    if process.rank == 0:
        while (there := store.add("met", 0)) < process.world_size:
            if time.monotonic() > until:
                raise RuntimeError(f"only {there} of {process.world_size} ranks came to {note}")
            time.sleep(0.05)
        note.unlink()
    return store


def _watch(process: Launched, timeout_s: float, patience: timedelta) -> Watch:
    """The watch, over a store of its own whose address rank 0 tells."""
    store = _own_store(process.world_size, patience) if process.rank == 0 else None
    at: list[Any] = [None if store is None else (_address(), store.port)]
    dist.broadcast_object_list(at, src=0, device=torch.device("cpu"))
    if store is None:
        host, port = at[0]
        store = TCPStore(host, port, process.world_size, False, timeout=patience)
    return Watch(store, rank=process.rank, world_size=process.world_size, timeout_s=timeout_s)


def _own_store(world_size: int, patience: timedelta) -> TCPStore:
    """A store that this process serves, on a port that is free."""
    return TCPStore("0.0.0.0", 0, world_size, True, timeout=patience, wait_for_workers=False)


def _address() -> str:
    """How other machines call this one: torchrun's word for it, or its own name."""
    return os.environ.get("MASTER_ADDR") or socket.gethostname()
