"""``python -m bench.memory``: peak memory of reading does not grow with the data set.

    python -m bench.memory [small_gb=0.4] [large_gb=1.6] [directory=FOLDER] [batch_size=1024]
                           [overrides of recap.train]

Two synthetic data sets of local_prod's wide rows are written to a temporary folder, or to
``directory`` where they stay. Each is read once, shuffled and preprocessed as in training, by a
fresh process of its own that reports its resident set's peak; so does a process that reads nothing.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from contextlib import closing
from time import perf_counter

from bench.report import conditions, own_settings, peak_memory_mb, table
from recap.compose import compose
from recap.compose.nodes import section
from recap.data.parquet import ParquetData
from recap.data.synthetic import write_synthetic

DEFAULTS = {"small_gb": "0.4", "large_gb": "1.6", "directory": "", "batch_size": "1024"}
ROW_BYTES = 21_200  # of a written row on disk
FILE_ROWS = 8192  # eight full row groups, so that both data sets differ in their number only
READ = "read"  # the first argument of the processes that read


def main() -> None:
    """Writes both data sets, has each of them read, prints the peaks."""
    settings, overrides = own_settings(sys.argv[1:], DEFAULTS)
    overrides = [*overrides, f"train_data.global_batch_size={settings['batch_size']}"]
    print(conditions(), flush=True)
    rows = []
    with contextlib.ExitStack() as stack:
        folder = settings["directory"] or stack.enter_context(tempfile.TemporaryDirectory())
        for size in (settings["small_gb"], settings["large_gb"]):
            root = f"{folder}/{size}"
            schema = section(compose(*overrides), "train_data.seg_dense_schema")
            num_rows = int(float(size) * 1e9 / ROW_BYTES)
            files = max(1, num_rows // FILE_ROWS)
            report = write_synthetic(schema, f"{root}/train", rows=num_rows, files=files)
            what = (f"{report.num_bytes / 1e9:.2f} GB", f"{report.rows:,}")
            rows.append((*what, *_in_fresh_process([*overrides, f"data_root={root}"], epochs=1)))
        rows.insert(0, ("nothing", "0", *_in_fresh_process(overrides, epochs=0)))
    print(table(("data set", "rows", "peak memory, MB", "rows/s"), rows))


def _in_fresh_process(overrides: list[str], *, epochs: int) -> tuple[str, str]:
    """Peak memory in MB and rows/s of a process that reads the data set ``epochs`` times."""
    command = [sys.executable, "-m", "bench.memory", READ, str(epochs), *overrides]
    peak, speed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return peak, speed


def _read(epochs: int, overrides: list[str]) -> None:
    cfg = compose(*overrides)
    data: ParquetData = section(cfg, "train_data")
    started, rows = perf_counter(), 0
    if epochs:
        stream = data.batches(tasks=list(cfg.model.tasks), shuffle_seed=0, epochs=epochs)
        with closing(stream) as batches:
            rows = sum(len(batch) for batch, _ in batches)
    print(f"{peak_memory_mb():.0f} {rows / (perf_counter() - started):,.0f}")


if __name__ == "__main__":
    if sys.argv[1:2] == [READ]:
        _read(int(sys.argv[2]), sys.argv[3:])
    else:
        main()
