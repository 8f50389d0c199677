"""A training that its scheduler ends before it is done: saved, queued again, continued."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from recap import scheduler
from recap.compose import Refused
from recap.distributed import Ranks
from recap.run.margin import Margin
from recap.signals import Stopped, stop_signals

log = logging.getLogger(__name__)


@contextmanager
def preemptible(ranks: Ranks) -> Iterator[Margin]:
    """What the training in it is to measure; a signal that ends it has its SLURM job queued again.

    Called by all ranks. A ``Stopped`` that leaves it means success then, exit code 0, so that
    nobody is told of a failure. Outside SLURM nothing happens.

    Raises:
        Refused: what the job's environment says cannot be meant.
    """
    try:
        job = scheduler.job()
    except ValueError as error:
        raise Refused([str(error)]) from error
    if job is None:
        yield Margin(None)
        return
    delay_s = job.signal_delay_s() if ranks.first else None  # rank 0 speaks for all
    with stop_signals(patient=True):
        try:
            yield Margin(delay_s)
        except Stopped as stopped:
            fate = ranks.told(job.after(stopped.came) if ranks.first else None)
            assert fate is not None
            log.info("%s", fate.why)
            if fate.returns:
                stopped.exit_code = 0
            raise
