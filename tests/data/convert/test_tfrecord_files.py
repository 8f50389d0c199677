"""The original's TFRecords become files that recap reads: every file once, whole or not at all."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from filelock import FileLock
from tf_examples import Listed, example, tfrecord

from recap.compose import compose
from recap.compose.nodes import section
from recap.data.convert import tfrecord_files
from recap.data.convert.segdense import Feature, read_segdense
from recap.data.convert.tfrecord_files import TFRecordReport, convert_tfrecords
from recap.data.files import DataError
from recap.data.layout import LayoutWriter
from recap.data.parquet import ParquetData
from recap.schema import Dense, Schema

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT.parent / "shared" / "golden"
ROWS = [
    {"feature_name": "cont", "dtype": "float_list", "length": 2},
    {"feature_name": "fav", "dtype": "int64_list", "length": 1},
    {"feature_name": "name", "dtype": "bytes_list", "length": 1},
]


def contents(*labels: int) -> bytes:
    """A TFRecord of a record per label."""
    lists = ({"fav": Listed("int64_list", [label]), "cont": CONT} for label in labels)
    return tfrecord(example(each) for each in lists)


CONT = Listed("float_list", [0.5, -1.0])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a schema and two days of files, of which two have the same name."""
    (tmp_path / "segdense.json").write_text(json.dumps({"schema": ROWS}))
    for day, name, content in (
        ("01", "part-0.tfrecord.gz", gzip.compress(contents(1, 0))),
        ("01", "part-1.tfrecord", contents(0, 0, 1)),
        ("02", "part-0.tfrecord.gz", gzip.compress(contents(1))),
    ):
        (tmp_path / "in" / day).mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / day / name).write_bytes(content)
    return tmp_path


def converted(folder: Path, inputs: str = "in/**/part-*", **settings) -> TFRecordReport:
    return convert_tfrecords(
        str(folder / inputs),
        str(folder / "out"),
        **{"seg_dense_schema": str(folder / "segdense.json"), "processes": 1, **settings},
    )


def labels(folder: Path) -> dict[str, list[int]]:
    """The labels in every written file."""
    files = sorted((folder / "out").rglob("*.parquet"))
    return {
        str(path.relative_to(folder / "out")): pq.read_table(path)["fav"].to_pylist()
        for path in files
    }


ALL = {"01/part-0.parquet": [1, 0], "01/part-1.parquet": [0, 0, 1], "02/part-0.parquet": [1]}


def short(folder: Path, lines) -> list[str]:
    return [str(line).replace(f"{folder}/", "") for line in lines]


# What becomes of the content


@pytest.fixture
def golden(tmp_path: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """A folder with the reference's file and its schema; its expected content."""
    if not GOLDEN.exists():
        pytest.skip(f"the golden numbers are not at {GOLDEN}")
    index = json.loads((GOLDEN / "index.json").read_text())["files"]["tiny.tfrecord.gz"]
    (tmp_path / "segdense.json").write_text(json.dumps(index["schema"]))
    shutil.copy(GOLDEN / "tiny.tfrecord.gz", tmp_path)
    return tmp_path, dict(np.load(GOLDEN / index["expected"]))


def test_the_references_file_becomes_batches_of_its_expected_content(golden):
    folder, expected = golden
    report = converted(folder, "*.gz")
    assert report.absent == {"emb": 1, "fav": 1}
    groups = {name: expected[name].dtype.name for name in ("cont", "bin", "disc", "emb")}
    schema = Schema(
        labels={"fav": "fav", "reply": "reply"},
        dense={
            **{
                name: Dense(column=name, length=expected[name].shape[1], dtype=dtype)
                for name, dtype in groups.items()
            },
            "user": Dense(columns=["meta.user_id"], dtype="int64"),
        },
    )
    data = ParquetData(
        inputs=str(folder / "out" / "tiny.parquet"), seg_dense_schema=schema, global_batch_size=9
    )
    [(batch, _)] = data.batches(tasks=["fav", "reply"], shuffle_seed=None, epochs=1)
    for name in groups:
        np.testing.assert_array_equal(batch.dense[name].numpy(), expected[name])
    np.testing.assert_array_equal(batch.dense["user"].numpy(), expected["meta.user_id"])
    both = np.concatenate([expected["fav"], expected["reply"]], axis=1)
    np.testing.assert_array_equal(batch.labels.numpy(), both)


def test_local_prods_schema_reads_what_is_converted_by_local_prods_segdense(folder: Path):
    schema = section(compose(), "train_data.seg_dense_schema")
    kinds = {"float32": "float_list", "int64": "int64_list"}
    dense = [Feature(d.column, kinds[d.dtype], d.length) for d in schema.dense.values()]
    features = dense + [Feature(column, "int64_list", 1) for column in schema.labels.values()]
    rows = [{"feature_name": f.name, "dtype": f.kind, "length": f.length} for f in features]
    (folder / "segdense.json").write_text(json.dumps({"schema": rows}))
    lists = {f.name: Listed(f.kind, [n % 2 for n in range(f.length)]) for f in features}
    (folder / "in" / "wide.gz").write_bytes(gzip.compress(tfrecord([example(lists)] * 3)))
    converted(folder, "in/wide.gz")
    data = ParquetData(inputs=str(folder / "out"), seg_dense_schema=schema, global_batch_size=3)
    [(batch, _)] = data.batches(tasks=list(schema.labels), shuffle_seed=None, epochs=1)
    assert batch.dense["continuous"].shape == (3, 6000)
    for name, numbers in batch.dense.items():
        assert (numbers == numbers.new_tensor([0, 1]).tile(numbers.shape[1] // 2)).all(), name
    assert batch.labels.tolist() == [[0.0] * 13] * 3


def test_features_are_chosen_and_stored_by_name_and_bytes_are_named_as_left_out(folder: Path):
    report = converted(folder)
    assert report.left_out == ["name"]
    assert "not converted, they hold bytes: name" in report.table()
    shutil.rmtree(folder / "out")
    assert converted(folder, features=["fav"], stored={"fav": "int8"}).left_out == []
    table = pq.read_table(folder / "out" / "01" / "part-0.parquet")
    assert table.schema.equals(pa.schema([pa.field("fav", pa.int8(), nullable=False)]))
    with pytest.raises(ValueError, match="features: likes not in the seg_dense_schema"):
        converted(folder, features=["fav", "likes"])
    with pytest.raises(ValueError, match="features: name hold bytes, only numbers are read"):
        converted(folder, features=["name"])


def test_a_feature_that_is_in_no_record_is_pointed_out(folder: Path):
    (folder / "segdense.json").write_text(json.dumps([{**ROWS[1], "feature_name": "favv"}]))
    assert "favv: absent, and zeros, in every record; is it misspelt?" in converted(folder).table()


def test_row_groups_and_compression_are_as_stated(folder: Path):
    converted(folder, "in/01/part-1.tfrecord", row_group_rows=2, compression="zstd")
    footer = pq.read_metadata(folder / "out" / "part-1.parquet")
    assert [footer.row_group(i).num_rows for i in range(footer.num_row_groups)] == [2, 1]
    assert footer.row_group(0).column(0).compression == "ZSTD"


# Which file becomes which


def test_files_lie_below_the_target_as_below_the_folder_before_the_first_wildcard(folder: Path):
    report = converted(folder)
    assert labels(folder) == ALL
    assert list(report.rows.values()) == [2, 3, 1]
    assert report.table().endswith("6 rows in 3 files")
    converted(folder, "in/02/part-0.tfrecord.gz")
    assert labels(folder)["part-0.parquet"] == [1]


def test_a_uri_names_the_same_files(folder: Path):
    convert_tfrecords(
        f"file://{folder}/in/**/part-*",
        str(folder / "out"),
        seg_dense_schema=str(folder / "segdense.json"),
        processes=1,
    )
    assert labels(folder) == ALL


def test_two_files_that_would_become_one_are_refused_before_anything_is_written(folder: Path):
    (folder / "in" / "01" / "part-0").write_bytes(contents(1))
    with pytest.raises(DataError) as refused:
        converted(folder)
    assert short(folder, [refused.value]) == [
        "inputs: in/01/part-0 and in/01/part-0.tfrecord.gz would both become out/01/part-0.parquet"
    ]
    assert not (folder / "out").exists()


def test_a_folder_and_a_pattern_without_files_are_refused(folder: Path):
    with pytest.raises(
        DataError, match=r"^inputs=.*in: is a folder; name its files, e\.g\. .*/in/\*\.gz"
    ):
        converted(folder, "in")
    with pytest.raises(DataError, match="no file matches"):
        converted(folder, "in/*.nothing")


def test_inputs_without_records_leave_no_file_and_a_file_of_0_bytes_is_a_fault(folder: Path):
    (folder / "in" / "01" / "part-0.tfrecord.gz").write_bytes(gzip.compress(b""))
    (folder / "in" / "01" / "part-1.tfrecord").write_bytes(b"")
    report = converted(folder)
    assert short(folder, report.without_records) == ["in/01/part-0.tfrecord.gz"]
    assert "part-0.tfrecord.gz: holds no records, no file is written" in report.table()
    assert short(folder, report.faults) == [
        "in/01/part-1.tfrecord: the file is empty (0 bytes)",
    ]
    assert labels(folder) == {"02/part-0.parquet": [1]}


# Faults, restarts, processes


def test_every_faulty_file_is_named_and_the_others_are_converted(folder: Path):
    (folder / "in" / "01" / "part-0.tfrecord.gz").write_bytes(gzip.compress(contents(1, 0))[:-9])
    wrong = bytearray(contents(0, 0, 1))
    wrong[-1] ^= 1
    (folder / "in" / "01" / "part-1.tfrecord").write_bytes(wrong)
    report = converted(folder, processes=2)
    assert short(folder, report.faults) == [
        "in/01/part-0.tfrecord.gz: record 2: the gzip stream is cut off",
        "in/01/part-1.tfrecord: record 2: the checksum of its content is wrong",
    ]
    assert labels(folder) == {"02/part-0.parquet": [1]}
    assert not list((folder / "out").rglob("*.incomplete"))


def test_two_processes_convert_as_one_does(folder: Path):
    report = converted(folder, processes=2)
    assert labels(folder) == ALL
    assert list(report.rows.values()) == [2, 3, 1]


@pytest.mark.parametrize(("processes", "started"), [(1, []), (2, [2]), (8, [3]), (None, [2])])
def test_as_many_processes_start_as_are_stated_have_a_core_or_a_file(
    processes: int | None, started: list[int], folder: Path, monkeypatch: pytest.MonkeyPatch
):
    seen = []

    def in_processes(jobs, workers):
        seen.append(workers)
        return map(tfrecord_files._converted, jobs)

    monkeypatch.setattr(tfrecord_files, "_in_processes", in_processes)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {4, 7})
    converted(folder, processes=processes)
    assert seen == started
    assert labels(folder) == ALL


def test_a_finished_file_is_not_made_again(folder: Path):
    first = converted(folder)
    (folder / "out" / "02" / "part-0.parquet").unlink()
    before = {path: path.stat().st_mtime_ns for path in (folder / "out").rglob("*.parquet")}
    second = converted(folder)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert set(second.already_there) == set(before)
    assert (second.rows, second.absent) == (first.rows, first.absent)
    assert labels(folder) == ALL


def test_a_file_of_a_changed_source_or_of_other_settings_is_a_fault_and_stays(folder: Path):
    converted(folder)
    (folder / "in" / "02" / "part-0.tfrecord.gz").write_bytes(gzip.compress(contents(0, 1, 0)))
    [fault] = short(folder, converted(folder).faults)
    assert fault.startswith("in/02/part-0.tfrecord.gz has changed since (bytes ")
    assert fault.endswith("; remove out/02/part-0.parquet to have it made again")
    faults = short(folder, converted(folder, row_group_rows=7, stored={"fav": "int8"}).faults)
    assert faults[0] == (
        "out/01/part-0.parquet was made with other stored, row_group_rows; "
        "remove out/01/part-0.parquet to have it made again"
    )
    assert len(faults) == 3
    assert labels(folder) == ALL


def test_a_file_that_something_else_has_made_is_a_fault_and_stays(folder: Path):
    (folder / "out" / "01").mkdir(parents=True)
    pq.write_table(pa.table({"fav": [9]}), folder / "out" / "01" / "part-0.parquet")
    (folder / "out" / "01" / "part-1.parquet").write_bytes(b"half a file")
    assert short(folder, converted(folder).faults) == [
        f"out/01/part-{n}.parquet is there and not made by this conversion; "
        f"remove out/01/part-{n}.parquet to have it made again"
        for n in (0, 1)
    ]
    assert pq.read_table(folder / "out" / "01" / "part-0.parquet")["fav"].to_pylist() == [9]


def script(folder: Path, patch: str, processes: int) -> subprocess.CompletedProcess:
    """Runs the conversion in a process of its own that ``patch`` is done to before."""
    (folder / "run.py").write_text(
        "import os, signal\n"
        "from recap.data.convert import tfrecord_files\n"
        "if __name__ == '__main__':\n"
        f"    {patch}\n"
        "    tfrecord_files.convert_tfrecords(\n"
        f"        'in/**/part-*', 'out', seg_dense_schema='segdense.json', processes={processes})\n"
    )
    return subprocess.run(
        [sys.executable, "run.py"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,  # ends when every process that inherited the pipe has ended
        text=True,
        timeout=120,
    )


def test_after_a_kill_9_in_the_middle_of_a_file_the_next_call_does_what_is_left(folder: Path):
    kill = (
        "tfrecord_files.LayoutWriter.describe = lambda writer, *_, rows: "
        "rows == 3 and os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = script(folder, kill, processes=1)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert labels(folder) == {"01/part-0.parquet": [1, 0]}
    assert (folder / "out" / "01" / "part-1.parquet.incomplete").exists()
    shutil.rmtree(folder / "out" / "01")  # its file was made by the patched writer
    report = converted(folder)
    assert not report.faults
    assert labels(folder) == ALL
    assert not list((folder / "out").rglob("*.incomplete"))


def test_the_workers_of_a_killed_conversion_end_with_it(folder: Path):
    kill = "tfrecord_files.as_completed = lambda _: os.kill(os.getpid(), signal.SIGKILL)"
    done = script(folder, kill, processes=2)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not converted(folder).faults
    assert labels(folder) == ALL


def end_of_this_process() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Deadly:
    """Kills the process that receives it."""

    def __reduce__(self):
        return end_of_this_process, ()


def test_a_worker_that_is_killed_is_reported_with_its_file_instead_of_waited_for():
    job = tfrecord_files._Job(Deadly(), "in/a.gz", Path("out/a.parquet"), {})  # pyright: ignore[reportArgumentType]
    [outcome] = tfrecord_files._in_processes([job], 1)
    assert outcome.fault.startswith("in/a.gz: not converted: a process of the conversion was kill")


def test_a_file_whose_footer_counts_other_rows_than_records_were_read_is_none(tmp_path: Path):
    batch = pa.record_batch({"fav": [1, 0]})

    def write(rows: int) -> None:
        with LayoutWriter(tmp_path / "a.parquet", batch.schema) as writer:
            writer.write(batch)
            writer.describe({b"key": b"value"}, rows=rows)

    with pytest.raises(DataError, match=r"a\.parquet: 3 rows were read, 2 written"):
        write(3)
    assert list(tmp_path.iterdir()) == []
    write(2)
    assert pq.read_metadata(tmp_path / "a.parquet").metadata[b"key"] == b"value"


def test_a_second_conversion_into_the_same_folder_is_refused(folder: Path):
    (folder / "out").mkdir()
    with (
        FileLock(folder / "out" / ".recap-convert.lock"),
        pytest.raises(ValueError, match=r"target=.*/out: another process is writing into this"),
    ):
        converted(folder)


def test_no_processes_are_refused(folder: Path):
    with pytest.raises(ValueError, match="processes=0 must be 1 or more, or null for one a core"):
        converted(folder, processes=0)


# segdense.json


def test_segdense_is_a_schema_in_an_object_or_a_list_and_equal_rows_count_once(tmp_path: Path):
    path = tmp_path / "segdense.json"
    expected = [Feature(row["feature_name"], row["dtype"], row["length"]) for row in ROWS]
    for content in (ROWS, {"schema": ROWS}, [*ROWS, ROWS[0]]):
        path.write_text(json.dumps(content))
        assert read_segdense(path) == expected


def test_all_faults_of_a_segdense_are_named_at_once(tmp_path: Path):
    path = tmp_path / "segdense.json"
    rows = [
        {"feature_name": "a", "dtype": "float", "length": 0},
        {"dtype": "float_list", "length": 1},
        {"feature_name": "b", "dtype": "int64_list", "length": -1},
        {"feature_name": "b", "dtype": "int64_list", "length": 2},
    ]
    path.write_text(json.dumps(rows))
    with pytest.raises(DataError) as refused:
        read_segdense(path)
    assert str(refused.value).replace(f"seg_dense_schema={path}: ", "").splitlines() == [
        "a: dtype='float' is not one of bytes_list, float_list, int64_list",
        "a: length=0 must be 1 or more, or -1 for any",
        "row 1 names no feature_name: {'dtype': 'float_list', 'length': 1}",
        "b: stands twice, as ('int64_list', -1) and as ('int64_list', 2)",
    ]


@pytest.mark.parametrize(
    ("content", "fault"), [("{", "not JSON"), ("{}", "must be"), ("[]", "must be"), ("3", "must")]
)
def test_what_is_no_segdense_is_refused(content: str, fault: str, tmp_path: Path):
    (tmp_path / "s.json").write_text(content)
    with pytest.raises(DataError, match=f"s.json: {fault}"):
        read_segdense(tmp_path / "s.json")
    with pytest.raises(DataError, match=r"seg_dense_schema=.*none\.json: no such file"):
        read_segdense(tmp_path / "none.json")


# The command


def command(folder: Path, *overrides: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "recap.data.convert", "convert=tfrecord", *overrides],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


NAMED = ["convert.seg_dense_schema=segdense.json", "convert.target=out", "convert.processes=1"]


def test_the_command_converts_prints_the_counts_and_ends_with_1_where_a_file_has_a_fault(folder):
    done = command(folder, "convert.inputs=in/**/part-*", *NAMED)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "6 rows in 3 files"
    (folder / "in" / "01" / "part-2").write_bytes(contents(1)[:-1])
    done = command(folder, "convert.inputs=in/**/part-*", *NAMED)
    assert done.returncode == 1
    assert "6 rows in 3 files" in done.stdout
    assert "part-2: record 0: the file ends in the middle of it" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_command_says_what_is_missing_and_what_cannot_be(folder: Path):
    done = command(folder, "convert.target=out")
    assert done.returncode == 1
    assert "convert.inputs: missing" in done.stderr
    assert "convert.seg_dense_schema: missing" in done.stderr
    done = command(folder, "convert.inputs=in/*", *NAMED[:2], "convert.processes=two")
    assert done.returncode == 1
    assert "convert.processes='two': must be int or null" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_command_names_the_key_of_every_setting_that_cannot_be(folder: Path):
    (folder / "text.json").write_text("no JSON")
    (folder / "file").touch()
    for schema, reason in (("gone.json", "no such file"), ("text.json", "not JSON (")):
        named = f"convert.seg_dense_schema={schema}"
        done = command(
            folder, "convert.inputs=no/*.gz", named, "convert.target=out", "convert.processes=-1"
        )
        assert done.returncode == 1
        told = [line for line in done.stderr.splitlines() if line.startswith("convert.")]
        assert told[0] == "convert.processes=-1 must be 1 or more, or null for one a core"
        assert told[1].startswith(f"{named}: {reason}")
        assert told[2:] == ["convert.inputs=no/*.gz: no file matches"]
        assert "full_key" not in done.stderr
        assert "call to target" not in done.stderr
    done = command(folder, "convert.inputs=in/**/part-*", *NAMED, "convert.features=[likes]")
    assert "\nconvert.features: likes not in the seg_dense_schema\n" in done.stderr
    done = command(folder, "convert.inputs=in/**/part-*", *NAMED, "convert.target=file/out")
    assert "\nconvert.target=file/out: cannot be written (Not a directory)" in done.stderr
