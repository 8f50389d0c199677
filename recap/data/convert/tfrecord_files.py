"""The original's TFRecords of tf.train.Example → Parquet files that recap reads, in parallel.

python -m recap.data.convert convert=tfrecord 'convert.inputs=in/**/*.gz' \
    convert.seg_dense_schema=segdense.json convert.target=out
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import threading
from collections import Counter
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout
from pyarrow import fs
from tqdm import tqdm

from recap.data.convert.segdense import Feature, read_segdense
from recap.data.convert.tf_example import ExampleDecoder
from recap.data.convert.tfrecord import read_blocks
from recap.data.files import DataError, matching_paths
from recap.data.layout import LayoutWriter
from recap.data.prefetch import prefetched

KEY = b"recap.tfrecord"  # of a file's metadata: what it was made of and how, its counts
# Threads for the three stages of a file: inflating and writing leave Python's lock to decoding.
BLOCKS_AHEAD, BATCHES_AHEAD = 2, 2
_ENDING = re.compile(r"(\.tfrecords?)?(\.gz|\.gzip)?$")


@dataclass(frozen=True)
class TFRecordReport:
    """What became of every file; rows are counted in the files' footers.

    Attributes:
        rows: written file → its rows.
        already_there: those of them that an earlier call has made.
        without_records: inputs that hold none, for which no file is written.
        absent: feature → in how many records it was not, and is zeros.
        left_out: features of the schema that are bytes, which are not converted.
        faults: what is wrong, a line or more for every input without a file.
    """

    rows: Mapping[Path, int]
    already_there: Collection[Path]
    without_records: Sequence[str]
    absent: Mapping[str, int]
    left_out: Sequence[str]
    faults: Sequence[str]

    def table(self) -> str:
        """The counts as text, a line per file."""
        lines = [
            f"{path}: {rows} rows{' (already there)' if path in self.already_there else ''}"
            for path, rows in self.rows.items()
        ]
        lines += [f"{path}: holds no records, no file is written" for path in self.without_records]
        total = sum(self.rows.values())
        for name, count in self.absent.items():
            where = "every record; is it misspelt?" if count == total else f"{count} records"
            lines.append(f"{name}: absent, and zeros, in {where}")
        if self.left_out:
            lines.append(f"not converted, they hold bytes: {', '.join(self.left_out)}")
        return "\n".join([*lines, f"{total} rows in {len(self.rows)} files"])


def convert_tfrecords(
    inputs: str | Sequence[str],
    target: str,
    *,
    seg_dense_schema: str,
    features: Sequence[str] | None = None,
    stored: Mapping[str, str] | None = None,
    processes: int | None = None,
    row_group_rows: int = 1024,
    compression: str = "lz4",
) -> TFRecordReport:
    """A Parquet file for every TFRecord file, below ``target`` as that lies below its folder.

    The folder is the file's own, or the pattern's up to its first wildcard: of ``in/**/*.gz`` the
    file ``in/2023/01/31/part-0.tfrecord.gz`` becomes ``target/2023/01/31/part-0.parquet``. A file
    takes its name when it is complete and its rows are as many as the records; a call that is made
    again does the others. A fault keeps its own file from being written, no other. Inputs without
    records leave no file.

    Args:
        inputs: paths or globs, local or URIs; each file is gzip or plain, whatever its name.
        seg_dense_schema: path of the original's segdense.json. Each feature becomes a column of
            its name: a number, raw bytes of ``length`` numbers, or a list where the length is -1.
        features: names of those to convert, None for all that hold numbers.
        stored: feature → the type it is stored in, e.g. int8 for int64 values that are small.
        processes: files at a time, None for as many as there are cores.

    Raises:
        DataError: the schema, or inputs that no file matches or that would become the same file.
        ValueError: a setting that cannot be; all of both that do not hang together.
    """
    described: list[Feature] = []
    chosen: list[Feature] = []
    found: list[tuple[fs.FileSystem, str, Path]] = []
    errors: list[ValueError] = []
    if processes is not None and processes < 1:
        fault = f"processes={processes} must be 1 or more, or null for one a core"
        errors.append(ValueError(fault))
    try:
        described = read_segdense(seg_dense_schema)
        chosen = _chosen(described, features)
        ExampleDecoder(chosen, stored or {})  # refuses types that cannot be, before a file is read
    except ValueError as error:
        errors.append(error)
    try:
        found = _targets(inputs, Path(target))
    except ValueError as error:
        errors.append(error)
    if errors:
        raise errors[0] if len(errors) == 1 else DataError("\n".join(map(str, errors)))
    writing = {
        "features": [[each.name, each.kind, each.length] for each in chosen],
        "stored": dict(sorted((stored or {}).items())),
        "row_group_rows": row_group_rows,
        "compression": compression,
    }
    Path(target).mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(Path(target) / ".recap-convert.lock", timeout=0):
            outcomes = _all_of([_Job(*each, writing) for each in found], processes)
    except Timeout:
        raise ValueError(f"target={target}: another process is writing into this folder") from None
    return _report(outcomes, [] if features else [f for f in described if f.kind == "bytes_list"])


@dataclass(frozen=True)
class _Job:
    """One file to convert."""

    filesystem: fs.FileSystem
    source: str
    target: Path
    writing: Mapping[str, Any]

    def made_of(self) -> dict[str, Any]:
        """What the written file follows from."""
        info = self.filesystem.get_file_info(self.source)
        return {"source": {"bytes": info.size, "mtime_ns": info.mtime_ns}, **self.writing}


@dataclass(frozen=True)
class _Outcome:
    """What became of it; ``rows`` 0 without a fault: it holds no records."""

    job: _Job
    rows: int = 0
    absent: Mapping[str, int] | None = None
    already_there: bool = False
    fault: str = ""


def _chosen(described: Sequence[Feature], names: Sequence[str] | None) -> list[Feature]:
    by_name = {each.name: each for each in described}
    if names is None:
        return [each for each in described if each.kind != "bytes_list"]
    if unknown := [name for name in names if name not in by_name]:
        raise ValueError(f"features: {', '.join(unknown)} not in the seg_dense_schema")
    if holds_bytes := [name for name in names if by_name[name].kind == "bytes_list"]:
        raise ValueError(f"features: {', '.join(holds_bytes)} hold bytes, only numbers are read")
    return [by_name[name] for name in dict.fromkeys(names)]


def _targets(inputs: str | Sequence[str], target: Path) -> list[tuple[fs.FileSystem, str, Path]]:
    """(file system, source, target) of every input, once each."""
    found: dict[Path, tuple[fs.FileSystem, str, Path]] = {}
    faults = []
    for pattern in [inputs] if isinstance(inputs, str) else inputs:
        try:
            folder = _folder(pattern)
            matching = matching_paths(pattern)
        except DataError as error:
            faults.append(f"inputs={error}")
            continue
        for filesystem, path in matching:
            below = path.removeprefix(folder).lstrip("/")
            file = target / (_ENDING.sub("", below) + ".parquet")
            before = found.setdefault(file, (filesystem, path, file))
            if before[1] != path or before[0] != filesystem:
                faults.append(f"inputs: {before[1]} and {path} would both become {file}")
    if faults:
        raise DataError("\n".join(faults))
    return list(found.values())


def _folder(pattern: str) -> str:
    """The path of the folder before the first wildcard."""
    folder = re.split(r"[*?\[]", pattern)[0].rpartition("/")[0]
    if re.match(r"^[a-z][a-z0-9+.-]*://", pattern):
        return fs.FileSystem.from_uri(folder)[1]
    if Path(pattern).expanduser().is_dir():
        raise DataError(f"{pattern}: is a folder; name its files, e.g. {pattern}/*.gz")
    start = folder or ("/" if pattern.startswith("/") else ".")
    return os.path.abspath(os.path.expanduser(start))


def _all_of(jobs: Sequence[_Job], processes: int | None) -> list[_Outcome]:
    """The outcome of every job, in their order."""
    outcomes = {job.target: there for job in jobs if (there := _already_there(job)) is not None}
    waiting = [job for job in jobs if job.target not in outcomes]
    workers = min(processes or len(os.sched_getaffinity(0)), len(waiting))
    for outcome in tqdm(
        _in_processes(waiting, workers) if workers > 1 else map(_converted, waiting),
        total=len(waiting),
        unit="file",
        disable=None,
    ):
        outcomes[outcome.job.target] = outcome
    return [outcomes[job.target] for job in jobs]


def _in_processes(jobs: Sequence[_Job], workers: int) -> Iterator[_Outcome]:
    context = multiprocessing.get_context("spawn")  # a fork would copy Arrow's threads' locks
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_as_worker) as pool:
        waiting = {pool.submit(_converted, job): job for job in jobs}
        try:
            for done in as_completed(waiting):
                yield _result(done, waiting[done])
        except BaseException:  # Ctrl-C, of which the workers have ended too
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _result(done: Future[_Outcome], job: _Job) -> _Outcome:
    try:
        return done.result()
    except BrokenProcessPool:
        text = "not converted: a process of the conversion was killed, as when memory runs out"
        return _Outcome(job, fault=f"{job.source}: {text}; start again, with fewer processes")


def _as_worker() -> None:
    """A worker ends with the command: by Ctrl-C at once, and also where the command was killed."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _already_there(job: _Job) -> _Outcome | None:
    """The outcome of an earlier call, or a fault if its file is not what this call would write."""
    if not job.target.exists():
        return None
    try:
        footer = pq.read_metadata(job.target)
        rows, held = footer.num_rows, json.loads((footer.metadata or {}).get(KEY, b"{}"))
    except (OSError, pa.ArrowInvalid, ValueError):
        rows, held = 0, {}
    out = f"; remove {job.target} to have it made again"
    if "made_of" not in held:
        return _Outcome(job, fault=f"{job.target} is there and not made by this conversion{out}")
    now = job.made_of()
    if held["made_of"]["source"] != now["source"]:
        changes = ", ".join(
            f"{key} {held['made_of']['source'][key]} → {now['source'][key]}"
            for key in now["source"]
            if held["made_of"]["source"][key] != now["source"][key]
        )
        return _Outcome(job, fault=f"{job.source} has changed since ({changes}){out}")
    if differ := [key for key in now if held["made_of"].get(key) != now[key]]:
        return _Outcome(job, fault=f"{job.target} was made with other {', '.join(differ)}{out}")
    return _Outcome(job, rows, held["absent"], already_there=True)


def _converted(job: _Job) -> _Outcome:
    try:
        return _write(job)
    except (DataError, OSError, pa.ArrowException) as error:
        lines = [f"{job.source}: {line}" for line in str(error).splitlines() or [repr(error)]]
        return _Outcome(job, fault="\n".join(lines))


def _write(job: _Job) -> _Outcome:
    made_of = job.made_of()  # before it is read: a later change is then seen
    decode = ExampleDecoder(
        [Feature(*each) for each in job.writing["features"]], job.writing["stored"]
    )
    num_records = 0
    with closing(prefetched(_decoded(job, decode), depth=BATCHES_AHEAD)) as batches:
        first = next(batches, None)
        if first is None:
            return _Outcome(job)
        job.target.parent.mkdir(parents=True, exist_ok=True)
        with LayoutWriter(
            job.target,
            decode.schema,
            row_group_rows=job.writing["row_group_rows"],
            compression=job.writing["compression"],
        ) as writer:
            for batch in chain((first,), batches):
                writer.write(batch)
                num_records += batch.num_rows
            content = json.dumps({"made_of": made_of, "absent": decode.absent})
            writer.describe({KEY: content.encode()}, rows=num_records)
    return _Outcome(job, pq.read_metadata(job.target).num_rows, decode.absent)


def _decoded(job: _Job, decode: ExampleDecoder) -> Generator[pa.RecordBatch]:
    with (
        job.filesystem.open_input_file(job.source) as file,
        closing(prefetched(read_blocks(file), depth=BLOCKS_AHEAD)) as blocks,
    ):
        for block in blocks:
            yield decode(block)


def _report(outcomes: Sequence[_Outcome], left_out: Sequence[Feature]) -> TFRecordReport:
    absent: Counter[str] = Counter()
    for outcome in outcomes:
        absent.update(outcome.absent or {})
    done = [outcome for outcome in outcomes if not outcome.fault]
    return TFRecordReport(
        rows={outcome.job.target: outcome.rows for outcome in done if outcome.rows},
        already_there=[outcome.job.target for outcome in done if outcome.already_there],
        without_records=[outcome.job.source for outcome in done if not outcome.rows],
        absent={name: count for name, count in absent.items() if count},
        left_out=[each.name for each in left_out],
        faults=[line for outcome in outcomes for line in outcome.fault.splitlines()],
    )
