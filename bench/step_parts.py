"""``python -m bench.step_parts``: which part of a step takes how long, by torch's profiler.

    python -m bench.step_parts [directory=FOLDER] [rows=24576] [batch_sizes=128,1024,4096]
                               [part_rows=2048] [overrides of recap.train]

The training loop runs as configured, of local_prod; parts are labelled from here. A step under the
profiler takes longer than another: the shares count. Of a GPU it is its own time, but for what the
program does beside it; "waiting for data" is how much the step is starved of it.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import torch
from torch.profiler import profile, record_function

import recap.run.fit
import recap.run.update
from bench.local_prod import write_data
from bench.report import conditions, own_settings, table
from bench.training import Recap
from bench.worker import Worker
from recap.console import Progress
from recap.run.divergence import LossWindow
from recap.tracking import Run

DEFAULTS = {
    "directory": "",
    "rows": "24576",
    "batch_sizes": "128,1024,4096",
    "part_rows": "2048",
}
OPERATORS = 10  # so many are told, those that take most time
OF_THE_PROGRAM = ("waiting for data", "schedule", "logging")
PART = "part: "  # before the labels of parts, among the operators' names


class Profiled(Recap):
    """An experiment whose parts of a step are labelled for the profiler."""

    def profiled(self, steps: int) -> tuple[dict[str, float], dict[str, float], float]:
        """Seconds a step by part and by operator, and those of the whole step."""
        gpu = self.device.type == "cuda"
        with contextlib.ExitStack() as stack:
            for owner, name, part in self._parts():
                labelled = _labelled(getattr(owner, name), part)
                stack.enter_context(patch.object(owner, name, labelled))
            profiler = profile(acc_events=True)
            step_s = self.whole_training(steps, around=profiler)
        parts: dict[str, float] = {}
        operators: dict[str, float] = {}
        for event in profiler.key_averages():
            if event.key.startswith(PART):
                part = event.key.removeprefix(PART)
                of_gpu = gpu and part not in OF_THE_PROGRAM
                time = event.device_time_total if of_gpu else event.cpu_time_total
                parts[part] = time / 1e6 / steps
            else:
                time = event.self_device_time_total if gpu else event.self_cpu_time_total
                operators[event.key] = time / 1e6 / steps
        order = dict.fromkeys(part for *_, part in self._parts())
        parts = {name: parts.get(name, 0.0) for name in order}
        parts["rest"] = step_s - sum(parts.values())
        largest = sorted(operators.items(), key=lambda item: -item[1])[:OPERATORS]
        return parts, dict(largest), step_s

    def opened(self) -> Run:
        """The run that is logged to, its part of the step labelled."""
        run = super().opened()
        run.log = _labelled(run.log, "logging")
        return run

    def _parts(self) -> Iterator[tuple[Any, str, str]]:
        """Owner and name of every function that is a part of a step, and the part's name."""
        experiment, ranker = self.experiment, self.experiment.ranker
        yield recap.run.fit, "next_batches", "waiting for data"
        yield recap.run.update, "set_learning_rates", "schedule"
        for name, layer in ranker.inputs.items():
            yield layer, "forward", name.replace("_", " ")
        if ranker.backbone is not None:
            yield ranker.backbone, "forward", "backbone"
        yield ranker.towers, "forward", "towers"
        yield experiment.loss, "forward", "loss"
        yield torch.Tensor, "backward", "backward"
        yield experiment.optimizer, "step", "optimizer"
        yield experiment.optimizer, "zero_grad", "optimizer"
        yield LossWindow, "close", "logging"
        yield Progress, "report", "logging"


def _labelled(function: Callable[..., Any], part: str) -> Callable[..., Any]:
    """The function, seen by the profiler as the part."""

    @functools.wraps(function)
    def labelled(*args: Any, **kwargs: Any) -> Any:
        with record_function(PART + part):
            return function(*args, **kwargs)

    return labelled


def main() -> None:
    """Writes the data set if it is not there yet, measures, prints."""
    settings, overrides = own_settings(sys.argv[1:], DEFAULTS)
    sizes = [int(size) for size in settings["batch_sizes"].split(",")]
    print(conditions(), flush=True)
    parts: dict[str, dict[int, str]] = defaultdict(dict)
    operators: dict[str, dict[int, str]] = defaultdict(dict)
    with contextlib.ExitStack() as stack:
        folder = settings["directory"] or stack.enter_context(tempfile.TemporaryDirectory())
        run = stack.enter_context(tempfile.TemporaryDirectory())
        overrides = ["experiment=local_prod", f"data_root={folder}", *overrides]
        write_data(folder, int(settings["rows"]), overrides)
        for size in sizes:
            with Worker(Profiled, overrides, size, run) as worker:
                steps = max(2, int(settings["part_rows"]) // size)
                by_part, by_operator, step_s = worker("profiled", steps)
            for cells, times in ((parts, by_part), (operators, by_operator)):
                for name, time in {**times, "whole step": step_s}.items():
                    cells[name][size] = f"{1000 * time:,.1f} ({time / step_s:.1%})"
    for title, cells in (("part", parts), ("operator", operators)):
        cells["whole step"] = cells.pop("whole step")
        header = (title, *(f"batch {size}: ms a step" for size in sizes))
        rows = [(name, *(cell.get(size, "") for size in sizes)) for name, cell in cells.items()]
        print(f"\n{table(header, rows)}")


if __name__ == "__main__":
    main()
