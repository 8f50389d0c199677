import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from threadpoolctl import threadpool_limits

from recap.compose import Refused, compose
from recap.data.parquet import ParquetData
from recap.data.synthetic import write_synthetic
from recap.data.synthetic.command import write_splits
from recap.data.synthetic.planted import Planted
from recap.schema import Dense, Schema, Sparse

SMALL = Schema(
    labels={"click": "is_click", "like": "is_like"},
    dense={
        "continuous": Dense(column="c", length=40),
        "binary": Dense(column="b", length=10, dtype="int64"),
        "user_embedding": Dense(column="e", length=8),
    },
)


def table(directory):
    return pq.read_table(sorted(directory.glob("*.parquet")))


def raw(table, column, dtype):
    return np.frombuffer(b"".join(table.column(column).to_pylist()), dtype).reshape(len(table), -1)


def test_the_same_seed_writes_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        write_synthetic(SMALL, tmp_path / name, rows=700, files=2, seed=3)
    for part in ("part-00000.parquet", "part-00001.parquet"):
        assert (tmp_path / "one" / part).read_bytes() == (tmp_path / "two" / part).read_bytes()


def test_rows_do_not_depend_on_the_number_of_files_or_of_rows(tmp_path):
    write_synthetic(SMALL, tmp_path / "one", rows=700, files=1)
    write_synthetic(SMALL, tmp_path / "three", rows=600, files=3, row_group_rows=50)
    assert table(tmp_path / "three").equals(table(tmp_path / "one").slice(0, 600))


def test_another_seed_and_another_stream_are_other_rows(tmp_path):
    write_synthetic(SMALL, tmp_path / "a", rows=10)
    write_synthetic(SMALL, tmp_path / "b", rows=10, seed=1)
    write_synthetic(SMALL, tmp_path / "c", rows=10, stream="validation")
    a, b, c = (raw(table(tmp_path / name), "c", "<f4") for name in "abc")
    assert (a != b).mean() > 0.5
    assert (a != c).mean() > 0.5


def test_dense_groups_are_raw_bytes_and_integers_are_narrow(tmp_path):
    write_synthetic(SMALL, tmp_path, rows=100, row_group_rows=64)
    file = pq.ParquetFile(tmp_path / "part-00000.parquet")
    widths = {field.name: str(field.type) for field in file.schema_arrow}
    assert widths == {
        "c": "fixed_size_binary[160]",
        "b": "fixed_size_binary[10]",
        "e": "fixed_size_binary[32]",
        "is_click": "int8",
        "is_like": "int8",
    }
    assert file.schema_arrow.field("c").metadata[b"dtype"] == b"float32"
    assert [file.metadata.row_group(n).num_rows for n in range(2)] == [64, 36]
    column = file.metadata.row_group(0).column(0)
    assert (column.compression, column.has_dictionary_page, column.statistics) == (
        "LZ4",
        False,
        None,
    )


def test_values_look_like_engagement_features(tmp_path):
    write_synthetic(SMALL, tmp_path, rows=2000)
    continuous = raw(table(tmp_path), "c", "<f4")
    assert 0.2 < (continuous == 0).mean() < 0.7
    assert np.abs(continuous).max() > 1000  # heavy tails: the log transform matters
    assert set(np.unique(raw(table(tmp_path), "b", "i1"))) == {0, 1}
    assert abs(raw(table(tmp_path), "e", "<f4").std() - 1) < 0.1


def test_rates_are_the_stated_ones_within_chance(tmp_path):
    rows = 8000
    report = write_synthetic(SMALL, tmp_path, rows=rows, rates={"like": 0.02}, default_rate=0.4)
    for task, rate in {"click": 0.4, "like": 0.02}.items():
        assert abs(report.tasks[task].rate - rate) < 4 * np.sqrt(rate * (1 - rate) / rows)


def test_the_limits_are_those_of_the_true_probabilities(tmp_path):
    report = write_synthetic(SMALL, tmp_path, rows=512, rates={"click": 0.3})
    planted = Planted(SMALL, rates={"click": 0.3})
    probabilities = np.concatenate([planted.block("train", n)[1] for n in (0, 1)])
    for t, task in enumerate(("click", "like")):
        labels = table(tmp_path).column(SMALL.labels[task]).to_numpy()
        limits = report.tasks[task]
        assert limits.rate == labels.mean()
        assert limits.best_auroc == pytest.approx(
            roc_auc_score(labels, probabilities[:, t]), abs=1e-3
        )
        assert limits.best_log_loss == pytest.approx(log_loss(labels, probabilities[:, t]))
        constant = np.full(len(labels), labels.mean())
        assert limits.constant_log_loss == pytest.approx(log_loss(labels, constant))
        assert limits.best_auroc > 0.6


def test_models_get_part_of_the_way_and_a_nonlinear_one_further(tmp_path):
    report = write_synthetic(SMALL, tmp_path, rows=12_000, rates={"click": 0.3})
    data = table(tmp_path)
    continuous = raw(data, "c", "<f4")
    features = np.sign(continuous) * np.log1p(np.abs(continuous))
    labels = data.column("is_click").to_numpy()
    train, valid = slice(0, 9000), slice(9000, None)
    auroc = {}
    for model in (
        LogisticRegression(max_iter=200),
        HistGradientBoostingClassifier(max_iter=50, random_state=0),
    ):
        with threadpool_limits(1):
            model.fit(features[train], labels[train])
        auroc[type(model).__name__] = roc_auc_score(
            labels[valid], model.predict_proba(features[valid])[:, 1]
        )
    linear, boosted = auroc.values()
    assert 0.6 < linear < boosted < report.tasks["click"].best_auroc


def test_every_form_of_the_schema_is_obeyed_and_read_back(tmp_path):
    dtypes = ("float16", "float32", "float64", "int8", "uint8", "int16", "int32", "int64", "bool")
    schema = Schema(
        labels={"click": "is_click"},
        dense={
            **{f"raw_{dtype}": Dense(column=dtype, length=9, dtype=dtype) for dtype in dtypes},
            **{
                f"scalar_{dtype}": Dense(columns=[f"{dtype}_0", f"{dtype}_1"], dtype=dtype)
                for dtype in dtypes
            },
            "again": Dense(columns=["float32_1", "own"]),
        },
        sparse={
            "hashed": Sparse(column="hashed", num_buckets=100),
            "named": Sparse(column="named", num_buckets=100),
            "known": Sparse(column="known", vocabulary=7),
            "listed": Sparse(column="listed", vocabulary=[10, 20, 30]),
            "words": Sparse(column="words", vocabulary=["a", "b"]),
            "tags": Sparse(column="tags", num_buckets=50, separator=","),
            "videos": Sparse(column="videos", vocabulary=9),
            "words_again": Sparse(column="words", num_buckets=5),
        },
    )
    kinds = {"named": "string", "videos": "integer_list"}
    write_synthetic(schema, tmp_path, rows=600, kinds=kinds)

    written = table(tmp_path)
    assert str(written.schema.field("videos").type) == "list<element: int64>"
    assert str(written.schema.field("named").type) == "string"
    assert "," in "".join(tags or "" for tags in written.column("tags").to_pylist())
    assert written.column("float32_0").null_count > 0
    assert np.isnan(written.column("float32_0").drop_null().to_numpy()).any()
    assert 0 < written.column("hashed").null_count < 60
    assert max(written.column("known").drop_null().to_pylist()) > 6  # out of vocabulary

    data = ParquetData(inputs=str(tmp_path), seg_dense_schema=schema, global_batch_size=600)
    assert data.faults(["click"]) == []
    [(batch, _)] = data.batches(tasks=["click"], shuffle_seed=None, epochs=1)
    assert {name: tensor.shape[1] for name, tensor in batch.dense.items()} == {
        name: dense.width for name, dense in schema.dense.items()
    }
    assert batch.sparse["videos"].offsets[-1] > 600
    assert 0 < (batch.sparse["listed"].slots == 0).sum() < 100


def test_labels_may_depend_on_ids_alone(tmp_path):
    schema = Schema(
        labels={"like": "is_like"}, sparse={"user": Sparse(column="user", num_buckets=1000)}
    )
    report = write_synthetic(schema, tmp_path, rows=2000)
    assert report.tasks["like"].best_auroc > 0.6


def test_the_report_lies_beside_the_files_and_prints_a_line_per_task(tmp_path):
    report = write_synthetic(SMALL, tmp_path, rows=300)
    saved = json.loads((tmp_path / "synthetic.json").read_text())
    assert saved["complete"]
    assert saved["rows"] == 300
    assert saved["tasks"]["like"]["best_auroc"] == report.tasks["like"].best_auroc
    lines = report.table().splitlines()
    assert lines[0].split() == [
        *("task", "rate", "best", "AUROC", "best", "log", "loss", "constant's", "log", "loss")
    ]
    assert [line.split()[0] for line in lines[1:]] == ["click", "like"]


def test_the_same_call_again_writes_nothing_and_another_replaces_its_files(tmp_path):
    first = write_synthetic(SMALL, tmp_path, rows=300, files=3)
    again = write_synthetic(SMALL, tmp_path, rows=300, files=3)
    assert not first.already_there
    assert again.already_there
    assert again.tasks == first.tasks
    write_synthetic(SMALL, tmp_path, rows=200, files=1)
    assert [path.name for path in tmp_path.glob("*.parquet")] == ["part-00000.parquet"]


def test_a_call_that_was_cut_short_is_done_again(tmp_path):
    write_synthetic(SMALL, tmp_path, rows=300, files=3)
    (tmp_path / "part-00001.parquet").unlink()
    assert not write_synthetic(SMALL, tmp_path, rows=300, files=3).already_there
    assert len(table(tmp_path)) == 300


def test_files_of_somebody_else_are_not_mixed_with(tmp_path):
    (tmp_path / "log.parquet").write_bytes(b"")
    with pytest.raises(FileExistsError, match=r"holds log\.parquet, which no synthetic\.json"):
        write_synthetic(SMALL, tmp_path, rows=10)


def test_all_faults_come_at_once(tmp_path):
    with pytest.raises(ValueError, match="rates") as refused:
        write_synthetic(
            SMALL,
            tmp_path,
            rows=10,
            rates={"clik": 0.1, "like": 1.0},
            informative=0.0,
            kinds={"binary": "string", "continous": "count"},
        )
    assert str(refused.value).splitlines() == [
        "rates: no task is named 'clik'; close: click",
        "rates.like=1.0: a share of positives lies between 0 and 1",
        "informative=0.0: the share of columns is above 0 and at most 1",
        "kinds.binary='string' is not one of heavy_tailed, normal, count, binary, id",
        "kinds: no input is named 'continous'; close: continuous",
    ]


def test_a_label_that_is_also_an_input_is_refused(tmp_path):
    schema = Schema(labels={"click": "c"}, dense={"continuous": Dense(column="c", length=3)})
    with pytest.raises(ValueError, match="column 'c' is a label and an input"):
        write_synthetic(schema, tmp_path, rows=10)


def test_a_kind_that_the_ids_cannot_be_is_refused(tmp_path):
    words = Sparse(column="words", vocabulary=["a", "b"])
    schema = Schema(labels={"click": "is_click"}, sparse={"words": words})
    with pytest.raises(ValueError, match="column 'words': its ids are strings, not integer_list"):
        write_synthetic(schema, tmp_path, rows=10, kinds={"words": "integer_list"})
    tags = Sparse(column="tags", num_buckets=9, separator=",")
    schema = Schema(labels={"click": "is_click"}, sparse={"tags": tags})
    with pytest.raises(ValueError, match="column 'tags': a separator stands in strings, not lists"):
        write_synthetic(schema, tmp_path, rows=10, kinds={"tags": "string_list"})


def test_more_files_than_rows_are_refused(tmp_path):
    with pytest.raises(ValueError, match="rows=2 and files=3: each file needs a row"):
        write_synthetic(SMALL, tmp_path, rows=2, files=3)


def test_an_unknown_compression_is_refused(tmp_path):
    with pytest.raises(ValueError, match="compression='lz5' is not one of lz4, zstd, none"):
        write_synthetic(SMALL, tmp_path, rows=2, compression="lz5")


def test_labels_do_not_depend_on_a_dense_group_of_ids(tmp_path):
    dense = {"continuous": Dense(column="c", length=8)}
    ids = {"user_id": Dense(column="u", length=1, dtype="int64")}
    for name, groups in (("without", dense), ("with", dense | ids)):
        write_synthetic(Schema(labels={"a": "y"}, dense=groups), tmp_path / name, rows=300)
    without, with_ids = (
        pq.read_table(tmp_path / name / "part-00000.parquet") for name in ("without", "with")
    )
    assert with_ids.select(["c", "y"]).equals(without.select(["c", "y"]))
    numbers = np.frombuffer(with_ids["u"].combine_chunks().buffers()[1], np.int64)
    assert len(set(numbers.tolist())) > 280


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("synthetic.rows=-5", r"^synthetic\.rows=-5 must be a number of 1 or more$"),
        ("synthetic.rows=ten", r"^synthetic\.rows=ten must be a number of 1 or more$"),
        ("synthetic.files=0", r"^synthetic\.files=0 must be a number of 1 or more$"),
        (
            "synthetic.rows=2",
            r"^synthetic\.rows=2 must be more: splits\.validation=0\.2 of them is 0, and files=1 n",
        ),
        ("synthetic.splits.train=0.9", r"^synthetic\.splits=.*: the shares must be above 0"),
        ("synthetic.compression=lz5", r"^synthetic\.compression='lz5' is not one of lz4"),
        ("+synthetic.rates.lik=0.5", r"^synthetic\.rates\b"),
    ],
)
def test_the_command_names_the_key_of_what_it_refuses(tmp_path, override, message):
    cfg = compose(f"synthetic.directory={tmp_path}", override, config_name="synthetic")
    with pytest.raises(Refused, match=message):
        write_splits(cfg)
