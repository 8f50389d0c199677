import gzip
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import csv

from recap.data.convert import convert
from recap.data.convert.reshape import Join
from recap.data.files import DataError
from recap.data.parquet import ParquetData
from recap.schema import Dense, Schema, Sparse

LOG = """\
user_id,video_id,date,tab,is_click
7,30,20220424,1,0
7,31,20220425,1,1
8,30,20220426,0,0
9,32,20220502,1,1
9,31,20220503,4,0
"""
USERS = """\
user_id,follow_user_num,active
9,5,full
8,12,
7,1,high
"""
VIDEOS = """\
video_id,upload_dt,tag,follow_user_num
30,2022-04-11,39,0.5
31,2022-04-12,"20,43",1.5
32,2022-04-13,,2.5
"""
SPLITS = ("train", "valid")
ROOT = Path(__file__).parents[3]
TYPES = {"upload_dt": "string", "tag": "string"}


@pytest.fixture
def download(tmp_path):
    (tmp_path / "log_standard.csv").write_text(LOG)
    (tmp_path / "users.csv").write_text(USERS)
    (tmp_path / "videos.csv").write_text(VIDEOS)
    return tmp_path


def joins(download, **changes):
    return {
        "users": Join(source=str(download / "users.csv"), key="user_id"),
        "videos": Join(
            **{
                "source": str(download / "videos.csv"),
                "key": "video_id",
                "rename": {"follow_user_num": "video_follow_user_num"},
                **changes,
            }
        ),
    }


def rows(path):
    return pq.read_table(path).to_pylist()


def test_a_log_is_joined_with_users_and_videos_and_cut_by_day(download):
    report = convert(
        str(download / "log_*.csv"),
        download / "out",
        name="train",
        types=TYPES,
        joins=joins(download),
        where={"date": [20220425, 20220502]},
    )
    assert rows(download / "out" / "train.parquet") == [
        {
            "user_id": 7,
            "video_id": 31,
            "date": 20220425,
            "tab": 1,
            "is_click": 1,
            "follow_user_num": 1,
            "active": "high",
            "upload_dt": "2022-04-12",
            "tag": "20,43",
            "video_follow_user_num": 1.5,
        },
        {
            "user_id": 8,
            "video_id": 30,
            "date": 20220426,
            "tab": 0,
            "is_click": 0,
            "follow_user_num": 12,
            "active": None,  # an empty field
            "upload_dt": "2022-04-11",
            "tag": "39",
            "video_follow_user_num": 0.5,
        },
        {
            "user_id": 9,
            "video_id": 32,
            "date": 20220502,
            "tab": 1,
            "is_click": 1,
            "follow_user_num": 5,
            "active": "full",
            "upload_dt": "2022-04-13",
            "tag": None,
            "video_follow_user_num": 2.5,
        },
    ]
    assert report.rows_read == 5
    assert report.table().splitlines() == [
        f"{download / 'out' / 'train.parquet'}: 3 rows",
        "3 rows in 1 files; 5 rows read",
    ]


def test_a_file_per_source_keeps_its_name_and_a_source_without_rows_leaves_none(download):
    (download / "log_early.csv").write_text(LOG.replace("202204", "202203").replace("2205", "2203"))
    with gzip.open(download / "log_more.csv.gz", "wt") as file:
        file.write(LOG)
    report = convert(
        [str(download / "log_*.csv"), str(download / "log_more.csv.gz")],
        download / "out",
        where={"date": [20220425, None]},
        columns=["video_id", "is_click"],
    )
    assert {path.name: count for path, count in report.rows.items()} == {
        "log_standard.parquet": 4,
        "log_more.parquet": 4,
    }
    assert rows(download / "out" / "log_more.parquet")[0] == {"video_id": 31, "is_click": 1}


def test_conditions_are_values_ranges_and_sets(download):
    def kept(**where):
        convert(str(download / "log_standard.csv"), download / "out", name="x", where=where)
        path = download / "out" / "x.parquet"
        found = [row["date"] % 10000 for row in rows(path)]
        path.unlink()
        return found

    assert kept(tab=1) == [424, 425, 502]
    assert kept(tab={"in": [0, 4]}) == [426, 503]
    assert kept(date=[None, 20220425]) == [424, 425]
    assert kept(tab=1, is_click=1) == [425, 502]
    with pytest.raises(DataError, match=r"where\.tab=\[1, 2, 3\]: write a value, \[first, last\]"):
        kept(tab=[1, 2, 3])
    with pytest.raises(DataError, match="where: there is no column 'dat'; close: date"):
        kept(dat=1)
    with pytest.raises(DataError, match=r"log_standard\.csv: where\.tab=many and a column of int"):
        kept(tab="many")


def test_columns_are_derived_by_functions_of_pyarrow(download):
    day = {"function": "cast", "of": ["date"], "target_type": "string"}
    convert(
        str(download / "log_standard.csv"),
        download / "out",
        types=TYPES,
        joins=joins(download),
        derive={
            "month": {"function": "divide", "of": ["date", 100]},
            "age_days": {
                "function": "days_between",
                "of": [
                    {
                        "function": "strptime",
                        "of": ["upload_dt"],
                        "format": "%Y-%m-%d",
                        "unit": "s",
                    },
                    {"function": "strptime", "of": [day], "format": "%Y%m%d", "unit": "s"},
                ],
            },
        },
        where={"age_days": [14, None]},
        columns=["month", "age_days"],
    )
    assert rows(download / "out" / "log_standard.parquet") == [
        {"month": 202204, "age_days": 15},
        {"month": 202205, "age_days": 19},
        {"month": 202205, "age_days": 21},
    ]


def test_an_unknown_function_is_refused_with_the_nearest(download):
    with pytest.raises(DataError, match=r"derive\.hour: write .* close: divide"):
        convert(
            str(download / "log_standard.csv"),
            download / "out",
            derive={"hour": {"function": "divid", "of": ["date", 100]}},
        )


def test_a_key_that_stands_twice_in_a_side_table_is_refused(download):
    (download / "videos.csv").write_text(VIDEOS + "31,2022-04-12,1,7.5\n")
    with pytest.raises(DataError, match=r"join videos: 1 keys stand in .* rows: video_id=31"):
        convert(str(download / "log_*.csv"), download / "out", joins=joins(download))


def test_rows_without_a_match_are_refused_or_null_or_dropped(download):
    (download / "videos.csv").write_text(VIDEOS.replace("32,", "33,"))
    with pytest.raises(DataError, match=r"join videos: 1 rows have a key .*: video_id=32"):
        convert(str(download / "log_*.csv"), download / "out", types=TYPES, joins=joins(download))
    for unmatched, tags in (("null", ["39", "20,43", "39", None, "20,43"]), ("drop", None)):
        convert(
            str(download / "log_*.csv"),
            download / "out",
            name=unmatched,
            types=TYPES,
            joins=joins(download, unmatched=unmatched),
        )
        found = [row["tag"] for row in rows(download / "out" / f"{unmatched}.parquet")]
        assert found == (tags or ["39", "20,43", "39", "20,43"])
    with pytest.raises(ValueError, match="unmatched='skip' is not one of refuse, null, drop"):
        joins(download, unmatched="skip")


def test_a_join_may_have_a_key_of_two_columns(tmp_path):
    pq.write_table(pa.table({"a": [1, 1, 2, 2], "b": ["x", "y", "x", "y"]}), tmp_path / "l.parquet")
    side = pa.table({"b": ["y", "x", "x"], "a": [2, 1, 2], "value": [22, 11, 21]})
    pq.write_table(side, tmp_path / "side.parquet")
    join = Join(source=str(tmp_path / "side.parquet"), key=["a", "b"], unmatched="null")
    convert(str(tmp_path / "l.parquet"), tmp_path / "out", joins={"side": join})
    assert pq.read_table(tmp_path / "out").column("value").to_pylist() == [11, None, 21, 22]


def test_a_missing_key_and_a_column_on_both_sides_are_refused(download):
    wrong = {"videos": Join(source=str(download / "videos.csv"), key="vidio_id")}
    with pytest.raises(DataError, match="join videos: there is no column 'vidio_id'; close: vid"):
        convert(str(download / "log_*.csv"), download / "out", joins=wrong)
    with pytest.raises(DataError, match=r"'follow_user_num' is in the rows already; rename it, e"):
        convert(str(download / "log_*.csv"), download / "out", joins=joins(download, rename={}))
    with pytest.raises(DataError, match="columns: there is no column 'clicked'; close: is_click"):
        convert(str(download / "log_*.csv"), download / "out", columns=["clicked"])


def test_a_value_that_does_not_fit_names_file_column_and_way_out(download):
    (download / "log_standard.csv").write_text(LOG.replace("0,0\n9", "0,0.5\n9"))
    with pytest.raises(
        DataError, match=r"log_standard\.csv: column 'is_click': .* e\.g\. types\.is_click=double"
    ):
        convert(str(download / "log_*.csv"), download / "out", types={"is_click": "int64"})


def test_files_whose_types_differ_are_refused(download):
    (download / "log_too.csv").write_text(LOG.replace("1,0", "1,0.5"))
    with pytest.raises(DataError, match=r"'is_click' of double .* int64; state the type, e\.g\."):
        convert(str(download / "log_*.csv"), download / "out")


def test_a_csv_with_two_columns_of_one_name_is_refused(tmp_path):
    (tmp_path / "log.csv").write_text("a,b,a\n1,2,3\n")
    with pytest.raises(DataError, match=r"log\.csv: two columns are named 'a'"):
        convert(str(tmp_path / "log.csv"), tmp_path / "out")


def test_a_kind_of_file_that_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "log.txt").write_text(LOG)
    with pytest.raises(DataError, match=r"log\.txt: the name ends in none of \.csv, \.csv\.gz"):
        convert(str(tmp_path / "log.txt"), tmp_path / "out")


def test_a_finished_file_is_kept_and_a_half_written_one_is_done_again(download):
    def run():
        return convert(str(download / "log_*.csv"), download / "out")

    (download / "log_two.csv").write_text(LOG)
    first = run()
    one, two = first.rows
    complete = two.read_bytes()
    (download / "out" / "log_two.parquet.incomplete").write_bytes(complete[:100])
    two.unlink()  # as if the process had been killed within the second file
    kept = one.stat().st_mtime_ns
    again = run()
    assert again.rows == {one: 5, two: 5}
    assert again.already_there == (one,)
    assert one.stat().st_mtime_ns == kept
    assert two.read_bytes() == complete
    assert {path.name for path in (download / "out").iterdir()} == {one.name, two.name}


def test_files_of_other_settings_are_not_mixed_with(download):
    convert(str(download / "log_*.csv"), download / "out")
    with pytest.raises(DataError, match=r"log_standard\.parquet was made of other sources or with"):
        convert(str(download / "log_*.csv"), download / "out", where={"tab": 1})


def test_rows_are_cut_into_files_of_a_target_size_and_a_restart_goes_on(download):
    def run():
        return convert(
            str(download / "log_*.csv"), download / "out", rows_per_file=4, row_group_rows=2
        )

    (download / "log_two.csv").write_text(LOG)
    first = run()
    assert [(path.name, count) for path, count in first.rows.items()] == [
        ("part-00000.parquet", 4),
        ("part-00001.parquet", 4),
        ("part-00002.parquet", 2),
    ]
    middle = download / "out" / "part-00001.parquet"
    assert [row["date"] % 10000 for row in rows(middle)] == [503, 424, 425, 426]
    middle.unlink()
    again = run()
    assert again.rows == first.rows
    assert [path.name for path in again.already_there] == [
        "part-00000.parquet",
        "part-00002.parquet",
    ]
    assert [row["date"] % 10000 for row in rows(middle)] == [503, 424, 425, 426]


def wide_table():
    return pa.table(
        {
            "lists": pa.array([[1.0, None, 3.0], [4.0, 5.0, 6.0], None], pa.list_(pa.float64())),
            "flags": pa.array([[1, 0], [0, 1], [1, 1]], pa.list_(pa.int64(), 2)),
            "age": pa.array([20, None, 40]),
            "height": pa.array([1.5, 1.75, None]),
            "ids": pa.array([[1, 2], [], None], pa.list_(pa.int64())),
            "liked": pa.array([0.0, 1.0, 0.0]),
            "note": ["a", "b", "c"],
        }
    )


WIDE = Schema(
    labels={"like": "liked"},
    dense={
        "continuous": Dense(column="lists", length=3),
        "binary": Dense(column="flags", length=2, dtype="int64"),
        "person": Dense(columns=["age", "height"]),
    },
    sparse={"ids": Sparse(column="ids", num_buckets=10)},
)


def test_packed_groups_read_as_the_lists_and_scalars_did(tmp_path):
    pq.write_table(wide_table(), tmp_path / "in.parquet")
    report = convert(
        str(tmp_path / "in.parquet"),
        tmp_path / "out",
        schema=WIDE,
        stored={"binary": "int8"},
        columns=["note"],
    )
    packed = pq.read_table(tmp_path / "out" / "in.parquet")
    assert {field.name: str(field.type) for field in packed.schema} == {
        "lists": "fixed_size_binary[12]",
        "flags": "fixed_size_binary[2]",
        "person": "fixed_size_binary[8]",
        "ids": "list<element: int64>",
        "note": "string",
        "liked": "int8",
    }
    assert np.frombuffer(packed.column("lists")[1].as_py(), "<f4").tolist() == [4.0, 5.0, 6.0]
    assert packed.column("flags").to_pylist() == [b"\x01\x00", b"\x00\x01", b"\x01\x01"]
    assert report.schema is not None
    assert report.schema.dense["person"] == Dense(column="person", length=2)

    def read(path, schema):
        data = ParquetData(inputs=str(path), seg_dense_schema=schema, global_batch_size=3)
        [(batch, _)] = data.batches(tasks=["like"], shuffle_seed=None, epochs=1)
        return batch

    before = read(tmp_path / "in.parquet", WIDE)
    after = read(tmp_path / "out", report.schema)
    for name, numbers in before.dense.items():
        np.testing.assert_array_equal(after.dense[name].numpy(), numbers.numpy())
    assert after.sparse["ids"].slots.tolist() == before.sparse["ids"].slots.tolist()
    assert after.labels.tolist() == [[0.0], [1.0], [0.0]]


def test_what_does_not_fit_the_schema_is_refused_with_file_and_row(tmp_path):
    def refused(table, message, error=DataError, **options):
        pq.write_table(table, tmp_path / "in.parquet")
        with pytest.raises(error, match=message):
            convert(str(tmp_path / "in.parquet"), tmp_path / "out", schema=WIDE, **options)
        assert list((tmp_path / "out").glob("*")) == []

    def changed(name, values):
        place = wide_table().schema.get_field_index(name)
        return wide_table().set_column(place, name, pa.array(values))

    refused(changed("lists", [[1.0], [1.0, 2.0, 3.0], None]), r"in\.parquet: .*row 0: a list of 1")
    refused(changed("liked", [0, 2, 1]), r"label column 'liked', row 1: 2 is neither 0 nor 1")
    refused(changed("age", ["20", "30", "40"]), "column 'age' of input person holds string")
    refused(wide_table().drop_columns(["height"]), "column 'height' of input person is missing")
    refused(
        changed("flags", [[1, 0], [0, 300], [1, 1]]),
        "group binary: 300 does not fit its type int8",
        stored={"binary": "int8"},
    )
    refused(
        changed("lists", [[1e6, 0.0, 0.0], None, None]),
        "group continuous: 1000000.0 does not fit its type float16",
        stored={"continuous": "float16"},
    )


def test_a_type_that_cannot_stand_for_the_groups_own_is_refused(tmp_path):
    pq.write_table(wide_table(), tmp_path / "in.parquet")
    with pytest.raises(ValueError, match=r"stored\.binary='uint8': a int64 group can be stored as"):
        convert(
            str(tmp_path / "in.parquet"), tmp_path / "o", schema=WIDE, stored={"binary": "uint8"}
        )
    with pytest.raises(ValueError, match="stored: no dense group is named 'bin'; close: binary"):
        convert(str(tmp_path / "in.parquet"), tmp_path / "o", schema=WIDE, stored={"bin": "int8"})


@pytest.fixture
def kuairand():
    path = ROOT.parent / "shared" / "data" / "kuairand"
    if not path.exists():
        pytest.skip(f"the shared KuaiRand tables are not at {path}")
    return {split: pq.read_table(path / f"{split}.parquet").slice(0, 200) for split in SPLITS}


def write_download(table, folder):
    """The CSV files that joining takes to give ``table``."""
    names = table.column_names
    starts = [names.index(name) for name in ("user_active_degree", "author_id", "counts")]
    parts = {
        "log_standard_4_22_to_5_08_pure": names[: starts[0]],
        "user_features_pure": ["user_id", *names[starts[0] : starts[1]]],
        "video_features_basic_pure": ["video_id", *names[starts[1] : starts[2]]],
        "video_features_statistic_pure": ["video_id", *names[starts[2] :]],
    }
    for part, columns in parts.items():
        piece = table.select(columns)
        if not part.startswith("log"):
            keys = piece.column(0).to_pylist()
            piece = piece.take([keys.index(key) for key in dict.fromkeys(keys)])
        own = [c.replace("video_follow_user_num", "follow_user_num") for c in piece.column_names]
        piece = piece.rename_columns(own)
        csv.write_csv(piece, folder / f"{part}.csv")


def test_the_public_download_of_kuairand_becomes_the_shared_tables(kuairand, tmp_path):
    write_download(pa.concat_tables(kuairand.values()), tmp_path)
    done = command(tmp_path, "convert=kuairand", "convert.download=.", "convert.target=out")
    assert done.returncode == 0, done.stderr
    assert "200 rows in 1 files; 400 rows read" in done.stdout
    for split, table in kuairand.items():
        made = pq.read_table(tmp_path / "out" / f"{split}.parquet")
        assert made.column_names == table.column_names
        assert made.cast(table.schema).equals(table)


def test_the_command_packs_by_the_experiments_schema_and_says_what_is_wrong(tmp_path):
    pq.write_table(wide_table(), tmp_path / "in.parquet")
    done = command(
        tmp_path, "convert.sources=in.parquet", "convert.target=out", "convert.pack=true"
    )
    assert done.returncode == 1
    assert "in.parquet: column 'home_recap_2022_cont__segdense_vals' of input cont" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_command_names_the_key_of_files_that_are_missing(tmp_path):
    side = "+convert.joins.users={source: users.csv, key: id}"
    done = command(tmp_path, "convert.sources=[nope.csv,no/*.csv]", "convert.target=out", side)
    assert done.returncode == 1
    assert [line for line in done.stderr.splitlines() if line.startswith("convert.")] == [
        "convert.sources=nope.csv: no such file or folder",
        "convert.sources=no/*.csv: no file matches",
        "convert.joins.users.source=users.csv: no such file or folder",
    ]
    done = command(tmp_path, "convert.target=out")
    assert "\nconvert.sources: missing\n" in done.stderr


def command(folder, *overrides):
    return subprocess.run(
        [sys.executable, "-m", "recap.data.convert", *overrides],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
