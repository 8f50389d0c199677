"""Times of data alone, the step alone, whole training and evaluation, beside a plain torch step.

Recap and the plain twin have a process of their own each, which take turns, so that what else the
machine does falls on both: compare them within one run. A part that reads opens a stream of its own
and closes it, so that nothing is read ahead while another part is measured.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from statistics import median
from tempfile import TemporaryDirectory

from torch import nn

from bench.machine import fastest_of, measured
from bench.report import table
from bench.training import About, Plain, Recap
from bench.worker import Worker
from recap.model import HeavyRanker

HEADER = (
    "part",
    "ms a step",
    "lowest … highest",
    "examples/s",
    "of the GEMM peak",
    "of the floor",
    "peak memory, MB",
)
DATA, STEP, PLAIN = "data alone", "step alone", "step of plain torch"
WHOLE, EVALUATION = "whole training", "evaluation"


def measure(
    overrides: Sequence[str],
    *,
    title: str,
    batch_sizes: Sequence[int],
    rows: int,
    repetitions: int,
    twin: Callable[[HeavyRanker], nn.Module] | None = None,
) -> None:
    """Prints a table per batch size, each part measured ``repetitions`` times on ``rows`` rows.

    With ``twin``, a function of ``bench.plain``, the plain model that it makes is measured, too.
    """
    for batch_size in batch_sizes:
        print(f"\n## {title}, batch {batch_size:,}\n", flush=True)
        _measure_at(overrides, batch_size, rows, repetitions, twin)
    print(f"\nload average at the end: {os.getloadavg()[0]:.1f}")


def _measure_at(
    overrides: Sequence[str],
    batch_size: int,
    rows: int,
    repetitions: int,
    twin: Callable[[HeavyRanker], nn.Module] | None,
) -> None:
    steps = max(2, rows // batch_size)
    with ExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory())
        recap = stack.enter_context(Worker(Recap, overrides, batch_size, folder))
        about: About = recap("about")
        print(about.text, flush=True)
        parts = {
            DATA: partial(recap, "data_alone", steps),
            STEP: partial(recap, "step_alone", steps),
            WHOLE: partial(recap, "whole_training", steps),
            EVALUATION: partial(recap, "evaluation", steps),
        }
        plain = None
        if twin is not None:
            plain = stack.enter_context(Worker(Plain, overrides, batch_size, folder, twin))
            parts[PLAIN] = partial(plain, "step_alone", steps)
        took: dict[str, list[float]] = {name: [] for name in parts}
        machines = []
        for _ in range(repetitions):
            for name, part in parts.items():
                took[name].append(part())
            machines.append(measured(about.device, about.dtype, times=1))
        memory = {WHOLE: recap("peak_memory_mb")}
        if plain is not None:
            memory[PLAIN] = plain("peak_memory_mb")
    machine = fastest_of(machines)
    floor_s = machine.floor_s(about.flops * batch_size, about.adam_bytes)
    rows_ = []
    for name, times in took.items():
        trains = name in (STEP, WHOLE, PLAIN)
        middle = median(times)
        rows_.append(
            (
                name,
                f"{1000 * middle:,.1f}",
                f"{1000 * min(times):,.1f} … {1000 * max(times):,.1f}",
                f"{batch_size / middle:,.0f}",
                f"{about.flops * batch_size / middle / machine.gemm:.0%}" if trains else "",
                f"{floor_s / middle:.0%}" if trains else "",
                f"{memory[name]:,.0f}" if name in memory else "",
            )
        )
    print(f"{repetitions} repetitions of {steps} steps, taking turns\n\n{table(HEADER, rows_)}\n")
    print(
        f"floor: {1000 * floor_s:,.0f} ms, of {about.flops * batch_size / 1e9:,.1f} GFLOP at "
        f"{machine.gemm / 1e9:,.0f} GFLOP/s and {about.adam_bytes / 1e9:.2f} GB at "
        f"{machine.stream / 1e9:.1f} GB/s, both the best of this run"
    )
    print(f"whole training against step alone: {_ratio(took[STEP], took[WHOLE])}")
    print(f"evaluation against whole training: {_ratio(took[WHOLE], took[EVALUATION])}")
    if twin is not None:
        print(f"recap's step against plain torch: {_ratio(took[PLAIN], took[STEP])}", flush=True)


def _ratio(slower: Sequence[float], faster: Sequence[float]) -> str:
    """How many times as fast the second is: median and spread over the repetitions."""
    ratios = [before / after for before, after in zip(slower, faster, strict=True)]
    return f"{median(ratios):.2f} × ({min(ratios):.2f} … {max(ratios):.2f})"
