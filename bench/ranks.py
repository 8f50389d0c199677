"""``python -m bench.ranks``: a data set of many files over many simulated ranks.

    python -m bench.ranks [files=1000] [row_groups=16] [row_group_rows=128] [columns=50]
                          [ranks=64] [rows_per_rank=64] [lanes=1,16,32,64,128] [directory=FOLDER]

Writes the files to a temporary folder, or to ``directory`` where they stay. Shows what it costs the
first rank to find them and the others to be told, and by number of lanes
(``interleave_num_parallel_calls``): how even an epoch's rows are over the ranks, how many row
groups each of them decodes, and how long one takes to plan and to its first batch. No rank but the
first reads a row: which ones the others would read follows from the order.
"""

from __future__ import annotations

import contextlib
import pickle
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from math import inf
from pathlib import Path
from time import perf_counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench.report import conditions, own_settings, peak_memory_mb, table
from recap.data.order import Lane, Line, shares
from recap.data.parquet import ParquetData
from recap.data.sharing import decodings
from recap.schema import Dense, Schema

DEFAULTS = {
    "files": "1000",
    "row_groups": "16",
    "row_group_rows": "128",
    "columns": "50",
    "ranks": "64",
    "rows_per_rank": "64",
    "lanes": "1,16,32,64,128",
    "directory": "",
}
BEGIN = "begin"  # the first argument of the processes that begin to read
SEED = 1


def main() -> None:
    """Writes the files, measures, prints two tables."""
    settings, others = own_settings(sys.argv[1:], DEFAULTS)
    if others:
        raise SystemExit(f"no such settings: {' '.join(others)}")
    folder = settings.pop("directory")
    lane_numbers = [int(lanes) for lanes in settings.pop("lanes").split(",")]
    numbers = {name: int(value) for name, value in settings.items()}
    ranks, batch = numbers["ranks"], numbers["ranks"] * numbers["rows_per_rank"]
    print(conditions(), flush=True)
    with contextlib.ExitStack() as stack:
        folder = folder or stack.enter_context(tempfile.TemporaryDirectory())
        write(Path(folder), **{name: numbers[name] for name in WRITTEN})
        columns = numbers["columns"]
        print(f"\n{table(('files', 'seconds'), listing_rows(folder, columns))}\n", flush=True)
        data = data_of(folder, columns, batch, 1)
        told = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "listing"
        told.write_bytes(pickle.dumps(data.listing))
        rows = []
        for lanes in lane_numbers:
            if batch % lanes:
                lanes = next(n for n in range(lanes, batch + 1) if batch % n == 0)
            first = in_fresh_process(told, columns, batch, lanes, ranks)
            rows.append((str(lanes), *balance(replaced(data, lanes), ranks), *first))
    header = ("lanes", "rows of a rank", "in a full batch", "row groups decoded by a rank")
    header = (*header, "mean decodings", "as told", "plan, s", "first batch, s", "memory, MB")
    print(table(header, rows))


WRITTEN = ("files", "row_groups", "row_group_rows", "columns")


def write(folder: Path, files: int, row_groups: int, row_group_rows: int, columns: int) -> None:
    """Files whose last row group is not full, and ends at another row in each of them."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(SEED)
    for f in range(files):
        path = folder / f"part-{f:05}.parquet"
        if path.exists():
            continue
        rows = row_groups * row_group_rows - f % row_group_rows
        numbers = random.random((columns, rows), np.float32)
        features = {f"feature_{i}": column for i, column in enumerate(numbers)}
        label = {"is_like": (numbers[0] > 0.9).astype(np.int8)}
        pq.write_table(pa.table(features | label), path, row_group_size=row_group_rows)


def data_of(folder: str, columns: int, batch: int, lanes: int) -> ParquetData:
    """The data set of the folder's files."""
    features = {"x": Dense(columns=[f"feature_{i}" for i in range(columns)])}
    return ParquetData(
        inputs=folder,
        seg_dense_schema=Schema(labels={"like": "is_like"}, dense=features),
        global_batch_size=batch,
        interleave_num_parallel_calls=lanes,
    )


def replaced(data: ParquetData, lanes: int) -> ParquetData:
    """The data set with other lanes, and its files as they were found."""
    other = replace(data, interleave_num_parallel_calls=lanes)
    other.adopt(data.listing)
    return other


def listing_rows(folder: str, columns: int) -> list[tuple[str, str]]:
    """What finding the files costs the first rank, and what the others take."""
    data = data_of(folder, columns, 1, 1)
    seconds = {}
    started = perf_counter()
    groups = sum(len(source.row_group_rows) for source in data.sources)
    found = f"{len(data.sources):,} files with {groups:,} row groups found, footers read"
    seconds[found] = perf_counter() - started
    started = perf_counter()
    told = pickle.dumps(data.listing)
    seconds[f"packed into {len(told) / 1e6:.2f} MB"] = perf_counter() - started
    started = perf_counter()
    pickle.loads(told)
    seconds["unpacked by another rank"] = perf_counter() - started
    started = perf_counter()
    assert data.faults(["like"]) == []
    seconds["columns compared with the schema"] = perf_counter() - started
    started = perf_counter()
    assert data.fingerprint
    seconds["fingerprint"] = perf_counter() - started
    return [(what, f"{s:.3f}") for what, s in seconds.items()]


def balance(data: ParquetData, ranks: int) -> Sequence[str]:
    """Over one epoch: rows of the ranks, also by batch, and the row groups that they decode."""
    batch, lanes = data.global_batch_size, data.lanes
    line = Line([source.row_group_rows for source in data.sources], seed=SEED)
    buffer = data.examples_shuffle_buffer_size
    walked = [Lane(line, index=i, lanes=lanes, buffer=buffer) for i in range(lanes)]
    rows, groups, decoded = [], [], Counter()
    fewest, most = inf, 0
    for rank in range(ranks):
        own, touched = 0, 0
        mine = shares(batch, lanes=lanes, rank=rank, world_size=ranks)
        for share in mine:
            lane = walked[share.lane]
            full, rest = divmod(lane.num_rows, share.quota)
            own += full * (share.stop - share.start)
            own += max(0, min(rest, share.stop) - share.start)
            at = 0
            while at < lane.num_rows:
                block = lane.block_at(at)
                # the first row of the rank's that does not lie before the block
                turn = at // share.quota * share.quota
                turn += share.quota if at - turn >= share.stop else 0
                if max(turn + share.start, at) < at + block.num_rows:
                    touched += len(block.pieces)
                    decoded.update((piece.source, piece.row_group) for piece in block.pieces)
                at += block.num_rows
        in_batch = sum(share.stop - share.start for share in mine)
        fewest, most = min(fewest, in_batch), max(most, in_batch)
        rows.append(own)
        groups.append(touched)
    return (
        f"{min(rows):,} … {max(rows):,}",
        f"{fewest} … {most}",
        f"{min(groups):,} … {max(groups):,}",
        f"{sum(decoded.values()) / len(decoded):.2f}",
        f"{decodings(lanes=lanes, ranks=ranks, batch=batch, block=buffer):.2f}",
    )


def in_fresh_process(told: Path, *numbers: int) -> list[str]:
    """Seconds to plan and to the first batch of rank 0, and its process' peak memory in MB."""
    command = [sys.executable, "-m", "bench.ranks", BEGIN, str(told), *map(str, numbers)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


def begin(told: Path, columns: int, batch: int, lanes: int, ranks: int) -> None:
    """Reads the first batch as rank 0."""
    data = data_of("", columns, batch, lanes)
    data.adopt(pickle.loads(told.read_bytes()))
    started = perf_counter()
    line = Line([source.row_group_rows for source in data.sources], seed=SEED)
    buffer = data.examples_shuffle_buffer_size
    walked = [Lane(line, index=i, lanes=lanes, buffer=buffer) for i in range(lanes)]
    for share in shares(batch, lanes=lanes, rank=0, world_size=ranks):
        walked[share.lane].block_at(0)
    planned = perf_counter() - started
    how = {"shuffle_seed": SEED, "epochs": None, "rank": 0, "world_size": ranks}
    started = perf_counter()
    with contextlib.closing(data.batches(tasks=["like"], **how)) as batches:
        next(batches)
        first = perf_counter() - started
    print(f"{planned:.3f} {first:.3f} {peak_memory_mb():.0f}")


if __name__ == "__main__":
    if sys.argv[1:2] == [BEGIN]:
        begin(Path(sys.argv[2]), *map(int, sys.argv[3:]))
    else:
        main()
