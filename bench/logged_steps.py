"""``python -m bench.logged_steps``: what it costs to track the metrics of every step.

    python -m bench.logged_steps [data_root=FOLDER] [batch_size=128] [steps=60] [repetitions=5]
                                 [overrides of recap.train]

The whole training loop with its configured tracker, by default an sqlite file, takes turns at
``training.train_log_every_n=1`` and at no logging. Beside the time of a step stands its processor
time, of all threads until everything is stored: it shows what the wall hides behind an idle core.
``tracking.uri=http://…`` measures a server, without the server's own time. Without ``data_root`` a
synthetic data set of local_prod is written to a temporary folder.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from dataclasses import replace
from statistics import median
from time import process_time

from bench.local_prod import write_data
from bench.report import conditions, own_settings, table
from bench.training import NEVER, Recap

DEFAULTS = {"data_root": "", "batch_size": "128", "steps": "60", "repetitions": "5"}
ROWS = 12288  # of the data set that is written
NAMES = {NEVER: "not logged", 1: "every step logged"}
HEADER = ("training", "ms a step", "lowest … highest", "processor ms a step")


def main() -> None:
    """Measures and prints."""
    settings, overrides = own_settings(sys.argv[1:], DEFAULTS)
    steps = int(settings["steps"])
    print(conditions(), flush=True)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        data_root = settings["data_root"] or f"{folder}/data"
        overrides = [f"data_root={data_root}", *overrides]
        if not settings["data_root"]:
            write_data(data_root, ROWS, overrides)
        recap = Recap(overrides, int(settings["batch_size"]), folder)
        wall: dict[int, list[float]] = {every: [] for every in NAMES}
        processor: dict[int, list[float]] = {every: [] for every in NAMES}
        for _ in range(int(settings["repetitions"])):
            for every in NAMES:
                training = replace(recap.experiment.training, train_log_every_n=every)
                recap.experiment = replace(recap.experiment, training=training)
                started = process_time()
                wall[every].append(recap.whole_training(steps))
                processor[every].append((process_time() - started) / steps)
    rows = [
        (
            name,
            f"{1000 * median(wall[every]):.2f}",
            f"{1000 * min(wall[every]):.2f} … {1000 * max(wall[every]):.2f}",
            f"{1000 * median(processor[every]):.2f}",
        )
        for every, name in NAMES.items()
    ]
    print(f"\n{table(HEADER, rows)}\n")
    for what, took in (("wall", wall), ("processor", processor)):
        more = [one / none - 1 for none, one in zip(took[NEVER], took[1], strict=True)]
        print(
            f"logging every step adds {median(more):.1%} to the {what} time "
            f"({min(more):.1%} … {max(more):.1%}, repetition by repetition)"
        )


if __name__ == "__main__":
    main()
