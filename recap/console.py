"""What a person sees of a run: its progress, and the metrics at its end."""

from __future__ import annotations

import contextlib
import logging
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Self, TextIO

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

log = logging.getLogger(__name__)

TABLE_WIDTH = 100
SHORTEST_NAME = 24


def speak_as(rank: int) -> None:
    """Rank 0 speaks for all: of another one only warnings and errors are told, with its number."""
    if rank == 0:
        return
    root = logging.getLogger()
    root.setLevel(logging.WARNING)
    for handler in root.handlers:
        handler.setFormatter(logging.Formatter(f"rank {rank}: %(message)s"))


class Progress:
    """A live bar with loss, examples/s and time left on a terminal; elsewhere a log line a report.

    Inside its ``with`` block, log lines go above the bar.

    Args:
        num_steps: updates of the whole run.
        first_step: updates done before; a resumed run starts there.
        stream: where the bar is drawn, if it is a terminal; ``None`` is stderr, of rank 0.
        clock: seconds.
    """

    def __init__(
        self,
        num_steps: int,
        *,
        first_step: int = 0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._num_steps = num_steps
        self._first_step = first_step
        self._step = first_step
        self._clock = clock
        self._started = clock()
        self._reported = self._started
        self._examples = 0
        self._aside_s = 0.0
        self._bar = None
        self._closing = contextlib.ExitStack()
        terminal = sys.stderr if stream is None else stream
        if terminal.isatty():
            # tqdm asks by itself, but draws nothing where a terminal has no size, as in a bare pty.
            columns, rows = shutil.get_terminal_size()
            self._bar = tqdm(
                total=num_steps,
                initial=first_step,
                file=terminal,
                unit="step",
                ncols=columns,
                nrows=rows,
                bar_format="{n_fmt}/{total_fmt} |{bar}| {desc} [{elapsed}, {remaining} left]",
            )
            self._closing.callback(self._bar.close)
            self._closing.enter_context(logging_redirect_tqdm())

    def advance(self, num_examples: int) -> None:
        """Count one update on so many examples."""
        self._step += 1
        self._examples += num_examples
        if self._bar is not None:
            self._bar.update()

    def report(self, loss: float) -> float:
        """Examples/s since the report before, without time spent aside; shown with the loss."""
        now = self._clock()
        seconds = now - self._reported - self._aside_s
        speed = self._examples / seconds if seconds > 0 else 0.0
        self._reported, self._examples, self._aside_s = now, 0, 0.0
        if self._bar is not None:
            self._bar.set_description_str(f"loss {loss:.5f}, {speed:,.0f} examples/s")
        else:
            done = self._step - self._first_step
            left_s = (now - self._started) / max(1, done) * (self._num_steps - self._step)
            log.info(
                "step %d/%d: loss %.5f, %s examples/s, %s left",
                self._step,
                self._num_steps,
                loss,
                f"{speed:,.0f}",
                tqdm.format_interval(left_s),
            )
        return speed

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Keep the time spent inside, on an evaluation or a save, out of examples/s."""
        started = self._clock()
        try:
            yield
        finally:
            self._aside_s += self._clock() - started

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()


def metrics_table(results: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """A table as text: a block per partition, a row per task, a column per metric.

    Names of tasks lose their middle where the table would be wider than 100 columns.

    Args:
        results: partition → task → metric → value; a task may lack a metric.
    """
    metrics = list(
        dict.fromkeys(m for tasks in results.values() for row in tasks.values() for m in row)
    )
    names = list(dict.fromkeys(task for tasks in results.values() for task in tasks))
    cells = {
        (partition, task): [_number(row[m]) if m in row else "–" for m in metrics]
        for partition, tasks in results.items()
        for task, row in tasks.items()
    }
    widths = [
        max(len(metric), *(len(row[i]) for row in cells.values()))
        for i, metric in enumerate(metrics)
    ]
    longest = max(map(len, [*names, *results]), default=0)
    name_width = min(longest, max(SHORTEST_NAME, TABLE_WIDTH - sum(widths) - 2 * len(widths)))
    shown = {task: _shorten(task, name_width) for task in names}
    if len(set(shown.values())) < len(names):  # two tasks would read alike
        name_width, shown = longest, {task: task for task in names}

    def line(name: str, columns: list[str]) -> str:
        padded = [cell.rjust(width) for cell, width in zip(columns, widths, strict=True)]
        return "  ".join([name.ljust(name_width), *padded]).rstrip()

    blocks = []
    for partition, tasks in results.items():
        rows = [line(shown[task], cells[partition, task]) for task in tasks]
        blocks.append("\n".join([line(partition, metrics), *rows]))
    return "\n\n".join(blocks)


def _number(value: float) -> str:
    """Counts in full, anything else to four decimals or, if large or tiny, four digits."""
    if isinstance(value, int):
        return f"{value:,}"
    if not math.isfinite(value):
        return str(value)
    if value != 0 and (abs(value) < 1e-3 or abs(value) >= 1e5):
        return f"{value:.3e}"
    return f"{value:.4f}"


def _shorten(name: str, width: int) -> str:
    """The name with its middle cut out where it is longer than ``width``."""
    if len(name) <= width:
        return name
    tail = (width - 1) // 2
    return f"{name[: width - 1 - tail]}…{name[len(name) - tail :]}"
