"""Saving while training goes on: a pause for a copy, then a thread that writes."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from recap.checkpoint import folder
from recap.checkpoint.folder import CheckpointError
from recap.checkpoint.manifest import Entries, entries, flat, write_manifest
from recap.checkpoint.peers import Failed, Peers
from recap.checkpoint.staging import Staging

if TYPE_CHECKING:
    import torch.distributed as dist

    from recap.checkpoint.writing import Plan, Written

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Seconds:
    """How long a save took, this rank's own."""

    staged: float  # what training waited for
    written: float  # what went on behind it, until the checkpoint was in its place


class Checkpoints:
    """The checkpoints of a run, saved while it goes on; the newest ``max_to_keep`` are kept.

    With several ranks, ``group`` is a gloo group of theirs that nothing else uses; all of them call
    every method at the same step. A state is nested mappings of tensors and plain values: shards
    (ShardedTensor, DTensor) are written by the rank that has them, tensors that all ranks have by
    one of them, plain values are those of rank 0.

    Used as a context, it waits at the end until everything is on disk, but not behind a
    KeyboardInterrupt.
    """

    def __init__(
        self,
        save_dir: Path,
        group: dist.ProcessGroup | None = None,
        max_to_keep: int | None = None,
    ) -> None:
        self._save_dir = save_dir
        self._peers = Peers(group)
        self._max_to_keep = max_to_keep
        self._staging: Staging = Staging()
        self._entries: Entries = {}  # of this rank's tensors, that the plan is of
        self._plan: Plan | None = None
        self._thread: Thread | None = None
        self._error: CheckpointError | None = None
        self.seconds: Seconds | None = None  # of the last save that was written

    def prepare(self, state: Mapping[str, Any]) -> None:
        """Takes the memory for saving ``state``, in the background.

        The first save would take it otherwise, and new memory costs several times the copy.

        Raises:
            CheckpointError: shards do not make whole tensors.
        """
        self._join()
        tensors = _tensors(flat(state))
        try:
            listed = entries(tensors)
            plan = self._plan = self._planned(tensors, listed)
            self._entries = listed
        except (Failed, RuntimeError) as error:
            raise CheckpointError(f"the state cannot be saved: {folder.reason(error)}") from error
        self._start(lambda: self._reserve(plan.tensors(tensors)))

    def save(
        self,
        step: int,
        state: Mapping[str, Any],
        about: Mapping[str, Any],
        before: Callable[[], None] = lambda: None,
    ) -> None:
        """Takes a copy of ``state``, to be written as the checkpoint of ``step``.

        It is in place after the next ``wait`` or ``save``. ``about`` is what the manifest is to
        tell beside it: plain values. ``before`` is called in the background, too, and has returned
        when the checkpoint gets its place.

        A step that is there already is left as it is: a run goes on from its latest checkpoint, so
        it comes to a step of that number again only with the same state, and what is whole stays
        whole.

        Raises:
            CheckpointError: the disk is full or refuses, of this save or the one before; names the
                last whole checkpoint. It is raised on all ranks.
        """
        self.wait()
        started = perf_counter()
        final = folder.of_step(self._save_dir, step)
        leaves = flat(state)
        tensors = _tensors(leaves)
        listed = entries(tensors)
        try:
            there, changed = self._peers.exchange(
                lambda: self._plan is None or self._entries != listed,
                lambda any_changed: [(final.exists(), any(any_changed))] * self._peers.size,
            )
            if there:
                return
            if changed:
                self._plan = self._planned(tensors, listed)
                self._entries = listed
        except (Failed, RuntimeError) as error:
            raise self._failed(final, error) from error
        assert self._plan is not None
        failure: Exception | None = None
        try:
            self._staging.copy(self._plan.tensors(tensors))
        except Exception as error:  # the others must learn of it: they begin to write
            failure = error
        whole = {**entries(leaves), **self._plan.entries}
        manifest = {"step": step, "about": dict(about), "state": whole}
        staged = perf_counter() - started
        self._start(lambda: self._write(final, manifest, staged, failure, before))

    def wait(self) -> None:
        """Returns as soon as the last save is on disk.

        Raises:
            CheckpointError: see ``save``.
        """
        self._join()
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    @property
    def busy(self) -> bool:
        """Whether the last save is still being written."""
        return self._thread is not None and self._thread.is_alive()

    def last_good(self) -> str:
        """The name of the newest whole checkpoint, once the last save is done; or ``none``."""
        self._join()
        last = folder.latest(self._save_dir)
        return last.name if last else "none"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.wait()
        elif issubclass(kind, Exception):
            try:
                self.wait()
            except CheckpointError as also:  # must not hide what ended the run
                log.error("%s", also)

    def _planned(self, tensors: dict[str, Tensor], listed: Entries) -> Plan:
        from recap.checkpoint.writing import planned  # a second of imports that only saving needs

        return planned(tensors, listed, self._peers)

    def _reserve(self, tensors: Mapping[Any, Tensor]) -> None:
        with suppress(MemoryError, RuntimeError):  # the save will need it, and tell
            self._staging.reserve(tensors)

    def _start(self, work: Callable[[], None]) -> None:
        self._thread = Thread(target=work, name="checkpoint", daemon=True)
        self._thread.start()

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _write(
        self,
        final: Path,
        manifest: dict[str, Any],
        staged: float,
        failure: Exception | None,
        before: Callable[[], None],
    ) -> None:
        """In the thread: writes what is staged, gives it its name, prunes."""
        from recap.checkpoint.writing import finish, write

        started = perf_counter()
        peers, plan, aside = self._peers, self._plan, folder.aside(final)
        assert plan is not None

        def make_room(_: list[None]) -> list[None]:
            final.parent.mkdir(parents=True, exist_ok=True)
            folder.clear_left_overs(self._save_dir)
            aside.mkdir()
            return [None] * peers.size

        def my_part() -> Written:
            before()
            aside.mkdir(exist_ok=True)  # a shared file system may show it late
            return write(aside, plan, self._staging.buffers)

        def complete(parts: list[Written]) -> list[None]:
            assert plan.metadata is not None
            files = finish(aside, plan.metadata, parts)
            took = {"staged": round(staged, 3), "written": round(perf_counter() - started, 3)}
            also = {"world_size": peers.size, "torch": torch.__version__, "seconds": took}
            write_manifest(aside, {**manifest, **also, "files": files})
            folder.sync(aside)
            aside.rename(final)
            folder.sync(final.parent)
            return [None] * peers.size

        def raise_failure() -> None:
            if failure is not None:
                raise failure

        try:
            peers.exchange(raise_failure, make_room)
            peers.exchange(my_part, complete)
        except Exception as error:
            if peers.first:
                shutil.rmtree(aside, ignore_errors=True)  # a full disk needs the room
            self._error = self._failed(final, error)
            self._error.__cause__ = error
            return
        if self._max_to_keep is not None and peers.first:
            with suppress(OSError):  # of the folder itself, which the next save will tell
                folder.prune(self._save_dir, self._max_to_keep)
        self.seconds = Seconds(staged, perf_counter() - started)

    def _failed(self, final: Path, error: Exception) -> CheckpointError:
        last = folder.latest(self._save_dir)
        why = str(error) if isinstance(error, Failed) else folder.reason(error)
        return CheckpointError(
            f"training.save_dir: the checkpoint of step {int(final.name.removeprefix('step-'))} "
            f"could not be written to {final}: {why}; "
            f"last good checkpoint: {last.name if last else 'none'}"
        )


def _tensors(leaves: Mapping[str, Any]) -> dict[str, Tensor]:
    return {path: leaf for path, leaf in leaves.items() if isinstance(leaf, Tensor)}
