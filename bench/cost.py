"""``python -m bench.cost``: a plot of what a step costs by width, number of tasks and batch.

    python -m bench.cost [plot=bench/cost.png] [directory=FOLDER] [rows=24576] [repetitions=3]
                         [widths=256,512,1024,2048] [tasks=1,5,10,20,40]
                         [batch_sizes=64,128,256,512,1024,2048] [batch_size=256]
                         [overrides of recap.train]

One of the three differs from local_prod at a time, at ``batch_size``. Recap and plain torch take
turns; the floor is that of ``bench.machine``, measured in the same run.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench.local_prod import write_data
from bench.machine import Machine, measured, over_all
from bench.report import conditions, own_settings, table
from bench.training import About, Plain, Recap
from bench.worker import Worker
from recap.compose import compose

DEFAULTS = {
    "plot": "bench/cost.png",
    "directory": "",
    "rows": "24576",
    "repetitions": "3",
    "widths": "256,512,1024,2048",
    "tasks": "1,5,10,20,40",
    "batch_sizes": "64,128,256,512,1024,2048",
    "batch_size": "256",
}
AXES = {"width": "width of the mask blocks", "tasks": "tasks", "batch": "batch"}


@dataclass(frozen=True)
class Cost:
    """Seconds of a step at one point of an axis: recap's, plain torch's, and the least possible."""

    axis: str
    at: int
    recap_s: float
    plain_s: float
    floor_s: float


class AtPoints:
    """Recap or its plain twin at one point after another, in one process."""

    def __init__(self, make: type[Recap | Plain]) -> None:
        self._make = make
        self._held: Any = None

    def go(self, overrides: Sequence[str], batch_size: int, folder: str) -> None:
        """Goes to the point."""
        self._held = None  # its memory first
        self._held = self._make(overrides, batch_size, folder)

    def about(self) -> About:
        """What recap trains there."""
        return self._held.about()

    def step_alone(self) -> float:
        """Seconds of an update."""
        return self._held.step_alone(1)


def main() -> None:
    """Measures, prints, draws."""
    settings, overrides = own_settings(sys.argv[1:], DEFAULTS)
    lists = ("widths", "tasks", "batch_sizes")
    numbers = {key: [int(n) for n in settings[key].split(",")] for key in lists}
    usual, repetitions = int(settings["batch_size"]), int(settings["repetitions"])
    print(conditions(), flush=True)
    with contextlib.ExitStack() as stack:
        folder = settings["directory"] or stack.enter_context(tempfile.TemporaryDirectory())
        run = stack.enter_context(tempfile.TemporaryDirectory())
        own = ["experiment=local_prod", f"data_root={folder}", *overrides, "tracking=none"]
        write_data(folder, int(settings["rows"]), own)
        points = [
            *(("width", n, _of_width(n), usual) for n in numbers["widths"]),
            *(("tasks", n, _of_tasks(n), usual) for n in numbers["tasks"]),
            *(("batch", n, [], n) for n in numbers["batch_sizes"]),
        ]
        recap = stack.enter_context(Worker(AtPoints, Recap))
        plain = stack.enter_context(Worker(AtPoints, Plain))
        found, machines = [], []
        for axis, at, more, batch_size in points:
            recap("go", [*own, *more], batch_size, run)
            plain("go", [*own, *more], batch_size, run)
            about: About = recap("about")
            pairs = [(recap("step_alone"), plain("step_alone")) for _ in range(repetitions)]
            if axis not in [axis for axis, *_ in found]:
                machines.append(measured(about.device, about.dtype, times=2))
            found.append((axis, at, about, batch_size, *map(median, zip(*pairs, strict=True))))
    machine = over_all(machines, max)
    costs = [
        Cost(axis, at, recap_s, plain_s, _floor_s(about, batch_size, machine))
        for axis, at, about, batch_size, recap_s, plain_s in found
    ]
    print(f"\n{_table(costs)}")
    save_plot(costs, usual, Path(settings["plot"]))
    print(f"\n{settings['plot']} is drawn")


def _floor_s(about: About, batch_size: int, machine: Machine) -> float:
    return machine.floor_s(about.flops * batch_size, about.adam_bytes)


def _of_width(width: int) -> list[str]:
    """Overrides that give the mask blocks the width, and the layer on top its double."""
    block = f"{{output_size: {width}, aggregation_size: {width}"
    block += ", reduction_factor: null, input_layer_norm: false}"
    blocks = ",".join([block] * 4)
    return [
        f"model.backbone.mask_blocks=[{blocks}]",
        f"model.backbone.mlp.layer_sizes=[{2 * width}]",
    ]


def _of_tasks(number: int) -> list[str]:
    """Overrides that leave so many of the tasks, or add some that have another task's label."""
    cfg = compose("experiment=local_prod")
    tasks = list(cfg.model.tasks)
    overrides = []
    for task in tasks[number:]:
        overrides += [
            f"~model.tasks.{task}",
            f"~schedule.towers.{task}",
            f"~validation_data.{task}",
        ]
    for more in range(len(tasks), number):
        column = cfg.train_data.seg_dense_schema.labels[tasks[more % len(tasks)]]
        overrides += [
            f"+model.tasks.task_{more}={{}}",
            f"+schedule.towers.task_{more}={{learning_rate: 0.0001, num_ramp_steps: 1000}}",
            f"+train_data.seg_dense_schema.labels.task_{more}={column}",
        ]
    return overrides


def _table(costs: Sequence[Cost]) -> str:
    rows = [
        (
            f"{AXES[cost.axis]} {cost.at:,}",
            *(f"{1000 * s:,.1f}" for s in (cost.recap_s, cost.plain_s, cost.floor_s)),
            f"{cost.floor_s / cost.recap_s:.0%}",
            f"{cost.plain_s / cost.recap_s:.2f} ×",
        )
        for cost in costs
    ]
    header = ("ms a step", "recap", "plain torch", "floor", "of the floor", "against plain torch")
    return table(header, rows)


def save_plot(costs: Sequence[Cost], batch_size: int, path: Path) -> None:
    """A PNG with a panel for each axis, over one logarithmic scale of milliseconds a step."""
    # Figure by itself draws without a display and without a state of its own between plots.
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    lines: Mapping[str, tuple[str, str]] = {
        "plain torch": ("plain_s", "C1"),
        "recap": ("recap_s", "C0"),
        "floor: products at peak, Adam's bytes": ("floor_s", "0.5"),
    }
    figure = Figure(figsize=(11, 4), dpi=120, layout="constrained")
    panels = figure.subplots(1, len(AXES), sharey=True)
    for axes, (axis, title) in zip(panels, AXES.items(), strict=True):
        own = [cost for cost in costs if cost.axis == axis]
        for name, (field, colour) in lines.items():
            axes.plot(
                [cost.at for cost in own],
                [1000 * getattr(cost, field) for cost in own],
                label=name,
                color=colour,
                linestyle="--" if field == "floor_s" else "-",
                marker=None if field == "floor_s" else "o",
                markersize=4,
            )
        axes.set_xscale("linear" if axis == "tasks" else "log")
        axes.set_xticks([cost.at for cost in own], [f"{cost.at:,}" for cost in own])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel(title)
        axes.set_title(
            "local_prod" if axis == "batch" else f"batch {batch_size}", fontsize="medium"
        )
        axes.grid(alpha=0.3)
    panels[0].set_yscale("log")
    panels[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panels[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    panels[0].yaxis.set_minor_formatter(NullFormatter())
    panels[0].set_ylabel("milliseconds a step")
    lines_drawn = panels[0].get_legend_handles_labels()
    figure.legend(*lines_drawn, loc="outside upper center", ncols=len(lines), frameon=False)
    figure.savefig(path, format="png")


if __name__ == "__main__":
    main()
