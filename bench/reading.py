"""``python -m bench.reading``: rows per second of reading wide rows, and what limits it.

    python -m bench.reading [rows=20480] [directory=FOLDER] [layouts=binary,lists,scalars]
                            [codecs=none,lz4,zstd] [row_groups=1024,2048,4096] [repetitions=5]

Whole epochs of the rows of ``bench.wide_rows``, shuffled, as batches of 1024 unless stated. All of
a pass's threads (one that reads and decodes, one that cuts batches, the one that takes them) are
held on one core, so that a number is what one core does; processor time counts what all of them
use, and does not count waiting: by it, numbers of a busy machine can be compared. Passes take
turns. Files are in the page cache of the system: reading from a disk is not measured.

Layouts other than raw bytes are written with one codec and one size, and fewer rows.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench import wide_rows
from bench.report import conditions, own_settings, peak_memory_mb, table
from recap.data.files import READ_BUFFER_BYTES
from recap.data.layout import PAGE_BYTES
from recap.data.parquet import ParquetData

DEFAULTS = {
    "rows": "20480",
    "directory": "",
    "layouts": "binary,lists,scalars",
    "codecs": "none,lz4,zstd",
    "row_groups": "1024,2048,4096",
    "repetitions": "5",
}
MAIN = ("binary", "lz4", "1024")  # layout, codec, row group: what is read in other ways, too
OTHER_ROWS = {"lists": 8192, "scalars": 4096}
BATCH = 1024
HEADER = ("read", "rows/s", "lowest … highest", "processor µs a row", "first batch, ms")


@dataclass(frozen=True)
class Pass:
    """One epoch, measured."""

    rows: int
    seconds: float
    processor: float  # seconds of all threads
    first: float  # seconds until the first batch


def main() -> None:
    """Writes the files, reads them in turns, prints tables."""
    settings, others = own_settings(sys.argv[1:], DEFAULTS)
    if others:
        raise SystemExit(f"unknown: {' '.join(others)}; there is {', '.join(DEFAULTS)}")
    print(conditions(), flush=True)
    repetitions = int(settings["repetitions"])
    with contextlib.ExitStack() as stack:
        folder = Path(settings["directory"] or stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        files = _written(folder, settings)
        print(f"a row is {wide_rows.ROW_BYTES:,} bytes\n")
        sizes = {name: path.stat().st_size / data.num_rows for name, (path, data) in files.items()}
        print(table(("file", "bytes a row"), [(n, f"{size:,.0f}") for n, size in sizes.items()]))
        passes: dict[str, Callable[[], Pass]] = {
            name: (lambda data=data: _epoch(data)) for name, (_, data) in files.items()
        }
        if (main_file := files.get(", ".join(MAIN))) is not None:
            cache = stack.enter_context(tempfile.TemporaryDirectory(dir=folder))
            passes |= _other_ways(*main_file, cache)
        found: dict[str, list[Pass]] = {name: [] for name in passes}
        for _ in range(repetitions):
            for name, run in passes.items():
                found[name].append(run())
        print()
        print(table(HEADER, [_line(name, each) for name, each in found.items()]))
        if main_file is not None:
            print("\nalone, in memory that is not new:\n")
            floors = _floors(main_file[0], int(settings["rows"]))
            measured = {name: [run() for _ in range(repetitions)] for name, run in floors.items()}
            lines = [_line(name, each)[:4] for name, each in measured.items()]
            print(table(HEADER[:4], lines))
        print(f"\npeak memory of the process {peak_memory_mb():.0f} MB")
        print(f"load average at the end: {os.getloadavg()[0]:.1f}")


def _written(folder: Path, settings: Mapping[str, str]) -> dict[str, tuple[Path, ParquetData]]:
    """The files that are asked for, by layout, codec and row group, as data sets."""
    chosen = [(layout, MAIN[1], MAIN[2]) for layout in settings["layouts"].split(",")]
    if "binary" in settings["layouts"]:
        codecs, sizes = settings["codecs"].split(","), settings["row_groups"].split(",")
        chosen = [("binary", codec, size) for codec in codecs for size in sizes] + chosen
    files = {}
    for layout, codec, row_group in dict.fromkeys(chosen):
        rows = min(int(settings["rows"]), OTHER_ROWS.get(layout, sys.maxsize))
        path = folder / f"{layout}-{codec}-{row_group}-{rows}.parquet"
        if not path.exists():
            wide_rows.write(
                path, layout=layout, codec=codec, rows=rows, row_group_rows=int(row_group)
            )
        data = ParquetData(
            inputs=str(path),
            seg_dense_schema=wide_rows.schema(layout),
            global_batch_size=BATCH,
            examples_shuffle_buffer_size=BATCH,
        )
        files[f"{layout}, {codec}, {row_group}"] = (path, data)
    return files


def _other_ways(path: Path, data: ParquetData, cache: str) -> dict[str, Callable[[], Pass]]:
    """The main file with other settings, and by way of the cache."""
    kept, used = replace(data, cache=cache), wide_rows.READ_BY_LOCAL_PROD
    threads = replace(data, map_num_parallel_calls=2)

    def first_epoch() -> Pass:
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            return _epoch(replace(data, cache=folder))

    _epoch(kept)
    _epoch(kept, inputs=used)
    name = ", ".join(MAIN)
    return {
        f"{name}: batch 128": lambda: _epoch(replace(data, global_batch_size=128)),
        f"{name}: columns that local_prod reads": lambda: _epoch(data, inputs=used),
        f"{name}: two threads, all cores": lambda: _epoch(threads, cores=os.cpu_count() or 1),
        "cache: the epoch that writes it": first_epoch,
        "cache: a later epoch": lambda: _epoch(kept),
        "cache: a later epoch, batch 128": lambda: _epoch(replace(kept, global_batch_size=128)),
        "cache: columns that local_prod reads": lambda: _epoch(kept, inputs=used),
    }


def _epoch(data: ParquetData, *, inputs: list[str] | None = None, cores: int = 1) -> Pass:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(sorted(allowed)[:cores]))  # threads that start from here on, too
    try:
        started, used, rows, first = time.perf_counter(), time.process_time(), 0, 0.0
        stream = data.batches(tasks=wide_rows.LABELS, inputs=inputs, shuffle_seed=0, epochs=1)
        with closing(stream) as batches:
            for batch, _ in batches:
                first = first or time.perf_counter() - started
                rows += len(batch)
        seconds = time.perf_counter() - started
        return Pass(rows, seconds, time.process_time() - used, first)
    finally:
        os.sched_setaffinity(0, allowed)


def _floors(path: Path, rows: int) -> dict[str, Callable[[], Pass]]:
    """What a reader of the main file cannot do without, each by itself."""
    part = next(wide_rows.drawn(rows))
    numbers = {name: array for name, array in part.items() if name in wide_rows.STORED}
    n = len(next(iter(numbers.values())))
    codec = pa.Codec("lz4_raw")
    pages: list[tuple[pa.Buffer, int]] = []
    for array in numbers.values():
        plain = array.tobytes()
        for start in range(0, len(plain), PAGE_BYTES):
            page = plain[start : start + PAGE_BYTES]
            pages.append((codec.compress(page), len(page)))
    places = np.random.default_rng(0).permutation(n)
    to = {name: np.zeros_like(array) for name, array in numbers.items()}

    def decompress() -> None:
        for page, size in pages:
            codec.decompress(page, size)

    def copy() -> None:
        for name, array in numbers.items():
            np.copyto(to[name], array)

    def shuffle() -> None:
        for name, array in numbers.items():
            to[name][places] = array

    def arrow() -> None:
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=READ_BUFFER_BYTES) as file:
            for _ in file.iter_batches(BATCH // 2, use_threads=False):
                pass

    return {
        "lz4 decompression": lambda: _alone(decompress, n),
        "a copy": lambda: _alone(copy, n),
        "a copy of each row to its shuffled place": lambda: _alone(shuffle, n),
        "Arrow's reading of the file, rows let go as they come": lambda: _alone(arrow, rows),
    }


def _alone(run: Callable[[], None], rows: int) -> Pass:
    run()
    started, used = time.perf_counter(), time.process_time()
    run()
    return Pass(rows, time.perf_counter() - started, time.process_time() - used, 0.0)


def _line(name: str, passes: list[Pass]) -> tuple[str, ...]:
    speeds = [each.rows / each.seconds for each in passes]
    return (
        name,
        f"{median(speeds):,.0f}",
        f"{min(speeds):,.0f} … {max(speeds):,.0f}",
        f"{median(1e6 * each.processor / each.rows for each in passes):.2f}",
        f"{1000 * median(each.first for each in passes):.0f}",
    )


if __name__ == "__main__":
    main()
