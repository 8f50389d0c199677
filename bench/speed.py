"""Times of data alone, the step alone, whole training and evaluation, beside a plain torch step.

Recap and the plain twin have a process of their own each, which take turns of a few steps, so that
what else the machine does falls on both: compare them within one run. A part that reads opens a
stream of its own and closes it, so that nothing is read ahead while another part is measured.
What the machine can do changes from one second to the next where others use its processors, too: it
is measured before and behind the parts that train, in every repetition, and their shares are of
what it did then on average. A product's luckiest time would count good moments in and bad ones out.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from statistics import mean, median
from tempfile import TemporaryDirectory

from torch import nn

from bench.machine import Machine, measured, over_all
from bench.report import table
from bench.training import TURN, About, Plain, Recap
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
    steps = max(TURN, rows // batch_size // TURN * TURN)
    with ExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory())
        recap = stack.enter_context(Worker(Recap, overrides, batch_size, folder))
        about: About = recap("about")
        print(about.text, flush=True)
        plain = None
        if twin is not None:
            plain = stack.enter_context(Worker(Plain, overrides, batch_size, folder, twin))
        took: dict[str, list[float]] = {name: [] for name in (STEP, WHOLE, PLAIN, EVALUATION, DATA)}
        machines, beside_plain = [], []

        def machine() -> Machine:
            return measured(about.device, about.dtype, times=1)

        for _ in range(repetitions):
            around = [machine()]
            whole, alone = recap("training", steps)
            took[WHOLE].append(whole)
            took[STEP].append(alone)
            around.append(machine())
            if plain is not None:
                turns = range(steps // TURN)
                pairs = [(plain("step_alone", TURN), recap("step_alone", TURN)) for _ in turns]
                took[PLAIN].append(mean(theirs for theirs, _ in pairs))
                beside_plain.append(mean(ours for _, ours in pairs))
                around.append(machine())
            machines.append(over_all(around, mean))
            took[EVALUATION].append(recap("evaluation"))
            took[DATA].append(recap("data_alone", steps))
        memory = {WHOLE: recap("peak_memory_mb")}
        if plain is not None:
            memory[PLAIN] = plain("peak_memory_mb")
    flops = about.flops * batch_size
    floors = [machine.floor_s(flops, about.adam_bytes) for machine in machines]
    products = [flops / machine.gemm for machine in machines]
    rows_ = []
    for name, times in took.items():
        if not times:
            continue
        trains, middle = name in (STEP, WHOLE, PLAIN), median(times)
        rows_.append(
            (
                name,
                f"{1000 * middle:,.1f}",
                f"{1000 * min(times):,.1f} … {1000 * max(times):,.1f}",
                f"{batch_size / middle:,.0f}",
                _share(products, times) if trains else "",
                _share(floors, times) if trains else "",
                f"{memory[name]:,.0f}" if name in memory else "",
            )
        )
    print(f"{repetitions} repetitions of {steps} steps, taking turns\n\n{table(HEADER, rows_)}\n")
    print(
        f"floor: {1000 * median(floors):,.0f} ms ({1000 * min(floors):,.0f} … "
        f"{1000 * max(floors):,.0f}), of {flops / 1e9:,.1f} GFLOP at "
        f"{_spread([machine.gemm / 1e9 for machine in machines])} GFLOP/s and "
        f"{about.adam_bytes / 1e9:.2f} GB at "
        f"{_spread([machine.stream / 1e9 for machine in machines])} GB/s"
    )
    print(f"whole training against step alone: {_ratio(took[STEP], took[WHOLE])}")
    print(f"evaluation against whole training: {_ratio(took[WHOLE], took[EVALUATION])}")
    if twin is not None:
        print(f"recap's step against plain torch: {_ratio(took[PLAIN], beside_plain)}", flush=True)


def _share(floors: Sequence[float], times: Sequence[float]) -> str:
    """How much of the time the floor of the same repetition is: median and spread over them."""
    shares = [floor / time for floor, time in zip(floors, times, strict=True)]
    return f"{median(shares):.0%} ({min(shares):.0%} … {max(shares):.0%})"


def _spread(rates: Sequence[float]) -> str:
    return f"{median(rates):,.0f} ({min(rates):,.0f} … {max(rates):,.0f})"


def _ratio(slower: Sequence[float], faster: Sequence[float]) -> str:
    """How many times as fast the second is: median and spread over the repetitions."""
    ratios = [before / after for before, after in zip(slower, faster, strict=True)]
    return f"{median(ratios):.2f} × ({min(ratios):.2f} … {max(ratios):.2f})"
