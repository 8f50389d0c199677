"""A synthetic data set as files, with what the best of models reaches on it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recap.data.layout import LayoutWriter
from recap.data.synthetic.drawn import BLOCK_ROWS
from recap.data.synthetic.planted import Planted
from recap.schema import Schema

NUM_THREADS = 2
BLOCKS_AHEAD = 8  # drawn while the writer is busy: 56 MB of local_prod's rows
SCORE_BINS, LARGEST_LOGIT = 1 << 15, 16.0

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class TaskLimits:
    """What a model that knows the true probabilities reaches on the rows written."""

    rate: float  # share of positives, 0 to 1
    best_auroc: float
    best_log_loss: float  # nats per example
    constant_log_loss: float  # of predicting the rate itself


@dataclass(frozen=True)
class SyntheticReport:
    """A written data set: its files and, per task, the limits; also saved as ``synthetic.json``."""

    directory: Path
    files: tuple[str, ...]
    rows: int
    num_bytes: int
    seconds: float
    tasks: Mapping[str, TaskLimits]
    already_there: bool = False

    def table(self) -> str:
        """The limits as a text table, a line per task."""
        width = max(map(len, self.tasks))
        lines = [f"{'task':{width}}  {'rate':>7}  best AUROC  best log loss  constant's log loss"]
        lines += [
            f"{task:{width}}  {limits.rate:7.4f}  {limits.best_auroc:10.4f}  "
            f"{limits.best_log_loss:13.4f}  {limits.constant_log_loss:19.4f}"
            for task, limits in self.tasks.items()
        ]
        return "\n".join(lines)


def write_synthetic(
    schema: Schema,
    directory: str | Path,
    *,
    rows: int,
    files: int = 1,
    stream: str = "train",
    seed: int = 0,
    rates: Mapping[str, float] | None = None,
    default_rate: float = 0.1,
    informative: float = 0.1,
    kinds: Mapping[str, str] | None = None,
    row_group_rows: int = 1024,
    compression: str = "lz4",
) -> SyntheticReport:
    """``rows`` rows of ``schema`` in ``files`` Parquet files ``part-00000.parquet``, …

    Row n depends on the schema, ``seed``, ``stream`` and what the labels are made of (see
    :class:`~recap.data.synthetic.planted.Planted`), not on how many rows or files there are.
    Streams of one seed share the planted function and no rows: one each for training and for
    validation. The same call writes the same bytes, and returns at once where its files already
    lie; files of an earlier call with other arguments are replaced.

    Raises ValueError for arguments that do not fit the schema, FileExistsError if the directory
    holds Parquet files that were not written by this function.
    """
    if files < 1 or rows < files:
        raise ValueError(f"rows={rows} and files={files}: each file needs a row")
    settings = {
        "schema": dataclasses.asdict(schema),
        "rows": rows,
        "files": files,
        "stream": stream,
        "seed": seed,
        "rates": dict(rates or {}),
        "default_rate": default_rate,
        "informative": informative,
        "kinds": dict(kinds or {}),
        "row_group_rows": row_group_rows,
        "compression": compression,
        "numpy": np.__version__,
        "pyarrow": pa.__version__,
    }
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    directory = Path(directory)
    record = directory / "synthetic.json"
    if (written := _written_before(record, key)) is not None:
        return written
    started = time.perf_counter()
    planted = Planted(
        schema,
        seed=seed,
        rates=rates,
        default_rate=default_rate,
        informative=informative,
        kinds=kinds,
    )
    names = [f"part-{number:05d}.parquet" for number in range(files)]
    _make_room(directory, record, names)
    record.write_text(json.dumps({"key": key, "complete": False, "files": names}))
    scores = _Scores(planted.tasks)
    ends = [rows * number // files for number in range(files + 1)]
    with ThreadPoolExecutor(NUM_THREADS) as threads:
        for name, start, end in zip(names, ends[:-1], ends[1:], strict=True):
            with LayoutWriter(
                directory / name,
                planted.arrow_schema,
                plain=planted.dense_columns,
                row_group_rows=row_group_rows,
                compression=compression,
            ) as writer:
                numbers = range(start // BLOCK_ROWS, -(-end // BLOCK_ROWS))
                blocks = _in_order(threads, lambda n: planted.block(stream, n), numbers)
                for number, (batch, probabilities) in zip(numbers, blocks, strict=True):
                    first = max(start - number * BLOCK_ROWS, 0)
                    count = min(end - number * BLOCK_ROWS, BLOCK_ROWS) - first
                    batch = batch.slice(first, count)
                    writer.write(batch)
                    labels = [batch.column(schema.labels[task]) for task in planted.tasks]
                    scores.add(np.stack(labels, axis=1), probabilities[first : first + count])
    report = SyntheticReport(
        directory=directory,
        files=tuple(names),
        rows=rows,
        num_bytes=sum((directory / name).stat().st_size for name in names),
        seconds=time.perf_counter() - started,
        tasks=scores.limits(),
    )
    content = {"key": key, "complete": True, **dataclasses.asdict(report), "settings": settings}
    del content["directory"], content["already_there"]
    unfinished = record.with_name(record.name + ".incomplete")
    unfinished.write_text(json.dumps(content, indent=2) + "\n")
    unfinished.replace(record)
    return report


class _Scores:
    """Sums from which the limits follow: log losses, and counts per bin of the true logit."""

    def __init__(self, tasks: tuple[str, ...]):
        self._tasks = tasks
        self._rows = 0
        self._log_loss = np.zeros(len(tasks))
        self._counts = np.zeros((len(tasks), 2, SCORE_BINS), np.int64)

    def add(self, labels: np.ndarray, probabilities: np.ndarray) -> None:
        self._rows += len(labels)
        p = np.clip(probabilities, 1e-15, 1 - 1e-15)
        self._log_loss -= np.where(labels == 1, np.log(p), np.log1p(-p)).sum(axis=0)
        place = (np.log(p / (1 - p)) / LARGEST_LOGIT + 1) / 2 * SCORE_BINS
        bins = np.clip(place.astype(np.int64), 0, SCORE_BINS - 1)
        np.add.at(self._counts, (np.arange(len(self._tasks)), labels, bins), 1)

    def limits(self) -> dict[str, TaskLimits]:
        limits = {}
        for t, task in enumerate(self._tasks):
            negatives, positives = self._counts[t].astype(float)
            below = np.cumsum(negatives) - negatives
            pairs = positives.sum() * negatives.sum()
            won = float((positives * (below + negatives / 2)).sum())
            rate = float(positives.sum() / self._rows)
            sides = np.array([rate, 1 - rate])
            entropy = -float((sides * np.log(np.maximum(sides, 1e-300))).sum())
            limits[task] = TaskLimits(
                rate=rate,
                best_auroc=won / pairs if pairs else float("nan"),
                best_log_loss=float(self._log_loss[t] / self._rows),
                constant_log_loss=entropy,
            )
        return limits


def _in_order(
    threads: ThreadPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item]
) -> Iterator[Result]:
    """``function`` of each item in their order, computed a bounded number ahead."""
    waiting = deque()
    for item in items:
        waiting.append(threads.submit(function, item))
        if len(waiting) > BLOCKS_AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _written_before(record: Path, key: str) -> SyntheticReport | None:
    """The report of the same call made before, if all its files are still there."""
    if not record.exists():
        return None
    content = json.loads(record.read_text())
    paths = [record.parent / name for name in content["files"]]
    if content["key"] != key or not content["complete"] or not all(p.exists() for p in paths):
        return None
    if sum(pq.read_metadata(path).num_rows for path in paths) != content["rows"]:
        return None
    return SyntheticReport(
        directory=record.parent,
        files=tuple(content["files"]),
        rows=content["rows"],
        num_bytes=content["num_bytes"],
        seconds=content["seconds"],
        tasks={task: TaskLimits(**limits) for task, limits in content["tasks"].items()},
        already_there=True,
    )


def _make_room(directory: Path, record: Path, names: list[str]) -> None:
    """Removes the files of an earlier call and refuses to mix with anybody else's."""
    directory.mkdir(parents=True, exist_ok=True)
    earlier = set(json.loads(record.read_text())["files"]) if record.exists() else set()
    foreign = sorted(path.name for path in directory.glob("*.parquet") if path.name not in earlier)
    if foreign:
        raise FileExistsError(
            f"{directory} holds {foreign[0]}, which no synthetic.json there lists; "
            "choose another directory or move the file"
        )
    for name in earlier:
        (directory / name).unlink(missing_ok=True)
