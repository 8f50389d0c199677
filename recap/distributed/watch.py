"""A watch over the ranks: when one stands still, every process says which one and ends."""

from __future__ import annotations

import faulthandler
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable

from torch.distributed import Store  # pyright: ignore[reportPrivateImportUsage]

log = logging.getLogger(__name__)

EXIT_CODE = 75  # of sysexits.h: a temporary failure, trying again may help


class Watch:
    """Ends this process when its step has stood still for ``timeout_s`` seconds.

    A rank that hangs makes all others wait for it in their next collective, on a GPU without an
    error of their own. So each tells the ``store`` how far it is, and who has waited too long tells
    the others' last steps and exits with code 75, so that a launcher ends or restarts the job.

    Args:
        store: that all ranks reach; of this watch alone, as a waiting client locks it.
        rank: of this process.
        world_size: how many there are.
        timeout_s: seconds without a step, an evaluated batch or any other sign of life.
        leave: ends the process.
    """

    def __init__(
        self,
        store: Store,
        *,
        rank: int,
        world_size: int,
        timeout_s: float,
        leave: Callable[[int], object] = os._exit,
    ) -> None:
        self._store, self._rank, self._world_size = store, rank, world_size
        self._timeout_s, self._leave = timeout_s, leave
        self._step = 0
        self._moved = time.monotonic()
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def at(self, step: int) -> None:
        """A sign of life: this rank works on what follows ``step``. The first one starts it."""
        self._step = step
        self.alive()
        if self._thread is None:
            self._tell()
            self._thread = threading.Thread(target=self._work, name="recap-watch", daemon=True)
            self._thread.start()

    def alive(self) -> None:
        """A further sign of life of the same step."""
        self._moved = time.monotonic()

    def close(self) -> None:
        """Ends the watch, not the process."""
        self._done.set()
        if self._thread is not None:
            self._thread.join(timeout=5)

    def _work(self) -> None:
        every_s = min(5.0, self._timeout_s / 10)
        while not self._done.wait(every_s):
            stood_s = time.monotonic() - self._moved
            self._tell()
            if stood_s > self._timeout_s:
                log.error("%s", self._said(stood_s))
                assert sys.__stderr__ is not None
                faulthandler.dump_traceback(file=sys.__stderr__)  # where it waits
                self._leave(EXIT_CODE)
                return

    def _tell(self) -> None:
        try:
            self._store.set(f"rank {self._rank}", f"{self._step} {time.time()} {_host()}")
        except Exception:  # rank 0, which holds the store, is gone: its end is told elsewhere
            self._done.wait(1)

    def _said(self, stood_s: float) -> str:
        """Which ranks are behind, with their hosts, and since when nothing was heard of them."""
        told = {}
        try:
            for rank in range(self._world_size):
                if self._store.check([key := f"rank {rank}"]):
                    step, at_s, host = self._store.get(key).decode().split(" ", 2)
                    told[rank] = (int(step), time.time() - float(at_s), host)
        except Exception as error:  # as above
            return (
                f"rank {self._rank} has stood still for {stood_s:.0f} s after step {self._step}, "
                f"and rank 0, which knows of the others, does not answer ({error})"
            )
        lines = [
            f"rank {rank} on {host}: last step {step}, last heard of {ago_s:.0f} s ago"
            for rank, (step, ago_s, host) in told.items()
        ]
        lines += [f"rank {r}: never heard of" for r in range(self._world_size) if r not in told]
        return (
            f"no step was done for {stood_s:.0f} s, more than "
            f"training.rank_timeout_in_s={self._timeout_s:g}; leaving with exit code {EXIT_CODE}. "
            "The ranks are at:\n  " + "\n  ".join(lines)
        )


def _host() -> str:
    return socket.gethostname()
