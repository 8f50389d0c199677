"""What a user can get wrong, and what is said about it before the first update, or at it."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tiny import Tiny, rows, write

from recap.compose import Refused
from recap.data.files import DataError
from recap.data.order import Lane, Line
from recap.experiment import prepare

SCHEMA = "train_data.seg_dense_schema"
PART_0, PART_1 = "train/part-0.parquet", "train/part-1.parquet"


def faults(tiny: Tiny, *overrides: str) -> list[str]:
    """What refuses the configuration, with the folder of the data cut out; nothing is trained."""
    with pytest.raises(Refused) as refused:
        prepare(tiny.config(*overrides))
    assert tiny.steps() == []
    return [fault.replace(f"{tiny.root}/", "") for fault in refused.value.faults]


def fault(tiny: Tiny, *overrides: str) -> str:
    """The only one."""
    (only,) = faults(tiny, *overrides)
    return only


def test_the_tiny_experiment_has_no_fault(tiny: Tiny):
    assert prepare(tiny.config()).ranker.tasks == ("like", "follow", "reply")


def test_batches_that_do_not_divide_over_the_ranks_are_refused(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
):
    for name, number in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "3"}.items():
        monkeypatch.setenv(name, number)
    sizes = ("train_data.global_batch_size=16", "validation_data.valid.global_batch_size=2")
    assert faults(tiny, *sizes) == [
        "train_data.global_batch_size=16 does not divide over 3 ranks; 15 and 18 do",
        "validation_data.valid.global_batch_size=2 does not divide over 3 ranks; 3 does",
    ]


# Files: one of two is not what the schema says.


def test_a_missing_column_is_named_with_the_nearest_one(tiny: Tiny):
    assert faults(tiny, f"{SCHEMA}.dense.continuous.column=cc") == [
        f"{SCHEMA}: {PART_0} and 1 more files: column 'cc' of input continuous is missing; "
        "close: c",
        "validation_data.valid.seg_dense_schema: valid/part-0.parquet: "
        "column 'cc' of input continuous is missing; close: c",
    ]


def test_a_missing_label_column_is_named_with_the_nearest_one(tiny: Tiny):
    columns = rows(48, seed=1)
    columns["is_liked"] = columns.pop("is_like")
    write(tiny.root / PART_1, columns)
    assert fault(tiny) == (
        f"{SCHEMA}: {PART_1}: label column 'is_like' of task like is missing; close: is_liked"
    )


def test_a_column_of_another_width_is_refused(tiny: Tiny):
    three = pa.FixedSizeListArray.from_arrays(pa.array([0.0] * 144, pa.float32()), 3)
    write(tiny.root / PART_1, {**rows(48, seed=1), "c": three})
    assert fault(tiny) == (
        f"{SCHEMA}: {PART_1}: column 'c' of input continuous holds lists of 3; "
        "the schema says 4 × float32"
    )


def test_a_column_of_another_type_is_refused(tiny: Tiny):
    words = pa.array(["a"] * 48)
    write(tiny.root / PART_1, {**rows(48, seed=1), "c": words, "is_reply": words})
    assert faults(tiny) == [
        f"{SCHEMA}: {PART_1}: column 'c' of input continuous holds string; "
        "the schema says 4 × float32",
        f"{SCHEMA}: {PART_1}: label column 'is_reply' of task reply holds string, "
        "not numbers of 0 and 1",
    ]


def test_truncated_and_empty_files_are_refused_together(tiny: Tiny):
    whole = (tiny.root / PART_0).read_bytes()
    (tiny.root / PART_0).write_bytes(whole[:1000])
    (tiny.root / PART_1).write_bytes(b"")
    truncated, empty = faults(tiny)
    assert truncated.startswith(
        f"train_data.inputs: {PART_0}: not a whole Parquet file, truncated or damaged ("
    )
    assert empty == f"train_data.inputs: {PART_1}: the file is empty (0 bytes)"


def test_a_file_without_rows_is_refused(tiny: Tiny):
    write(tiny.root / PART_1, {name: column[:0] for name, column in rows(1, seed=1).items()})
    assert fault(tiny) == f"train_data.inputs: {PART_1}: the file holds no rows"


def test_a_pattern_that_matches_nothing_is_refused(tiny: Tiny):
    assert fault(tiny, "validation_data.valid.inputs=${data_root}/test/*.parquet") == (
        "validation_data.valid.inputs: test/*.parquet: no file matches"
    )


def test_an_empty_list_of_inputs_is_refused(tiny: Tiny):
    message = "validation_data.valid.inputs=[] names no file"
    assert fault(tiny, "validation_data.valid.inputs=[]") == message


def test_files_named_by_date_beside_inputs_are_refused_with_the_way_out(tiny: Tiny):
    by_date = "{data_root: x, end_date: 2023-01-31, days: 7}"
    assert fault(tiny, f"train_data.explicit_date_inputs={by_date}") == (
        "train_data.inputs='train/*.parquet': explicit_date_inputs given too; exactly one of "
        "inputs, explicit_date_inputs, explicit_datetime_inputs names the files: "
        "write null for the others, as inputs=null"
    )
    assert fault(tiny, "validation_data.valid.inputs=null") == (
        "validation_data.valid.inputs=null: exactly one of inputs, explicit_date_inputs, "
        "explicit_datetime_inputs must name the files"
    )


def test_what_is_wrong_with_dates_is_told_by_their_key(tiny: Tiny):
    key = "train_data.explicit_date_inputs"
    by_date = "{data_root: ${data_root}, end_date: 31.1.2023, days: 0}"
    assert faults(tiny, "train_data.inputs=null", f"{key}={by_date}") == [
        f"{key}.days=0 must be 1 or more",
        f"{key}.end_date=31.1.2023: write a day as 2023-01-31",
    ]
    by_date = "{data_root: ${data_root}, end_date: 2023-01-31, days: 2}"
    assert fault(tiny, "train_data.inputs=null", f"{key}={by_date}") == (
        f"{key}: 2 of 2 days have no *.parquet below {tiny.root}: 2023/01/30, 2023/01/31; "
        "num_missing_days_tol=0 allows fewer"
    )
    by_date = "{data_root: ${data_root}, end_date: 2023-01-31, day: 2}"
    assert faults(tiny, "train_data.inputs=null", f"{key}={by_date}") == [
        f"{key}.day: recap.data.dates.ExplicitDateInputs takes no such key; close: days",
        f"{key}.days: missing; recap.data.dates.ExplicitDateInputs needs it",
    ]


def test_a_cache_that_cannot_be_written_is_refused(tiny: Tiny):
    (tiny.root / "file").touch()
    for section in ("train_data", "validation_data.valid"):
        assert fault(tiny, f"{section}.cache={tiny.root}/file/cache") == (
            f"{section}.cache=file/cache: cannot be written (Not a directory); name a folder that "
            "can"
        )
    assert faults(tiny, "train_data.cache=true")[0].startswith("train_data.cache=True: must be str")


def test_a_vocabulary_that_cannot_be_read_is_refused(tiny: Tiny):
    place = f"{SCHEMA}.sparse.video"
    found = faults(tiny, f"{place}.vocabulary=nowhere.parquet")
    assert found[0].startswith(f"{place}: vocabulary nowhere.parquet")


def test_a_batch_larger_than_the_data_is_refused(tiny: Tiny):
    assert fault(tiny, "train_data.global_batch_size=98") == (
        "train_data.global_batch_size=98: the files hold only 96 rows"
    )


# Sections that do not fit each other.


def test_a_task_without_a_label_column_is_refused(tiny: Tiny):
    assert faults(tiny, "+model.tasks.replied={}")[0] == (
        f"{SCHEMA}.labels: no label column for task replied; close: reply"
    )


def test_a_rate_for_no_task_is_refused(tiny: Tiny):
    rates = "optimizer.multi_task_learning_rates.tower_learning_rates"
    assert fault(tiny, f"+{rates}.shared=0.1") == (
        f"{rates}.shared: a rate for no tower; towers are like, follow, reply"
    )


def test_a_task_without_a_rate_is_refused(tiny: Tiny):
    config = tiny.config()  # a schedule gives every task a rate, so this one comes from Python
    del config.optimizer.multi_task_learning_rates.tower_learning_rates.reply
    with pytest.raises(Refused) as refused:
        prepare(config)
    assert refused.value.faults == [
        "optimizer.multi_task_learning_rates.tower_learning_rates: no rate for task reply; "
        "towers are like, follow, reply"
    ]


def test_own_numbers_for_no_task_are_refused(tiny: Tiny):
    assert fault(tiny, "+schedule.towers.shared={learning_rate: 0.1}") == (
        "schedule.towers.shared: no such task; tasks are like, follow, reply"
    )


def test_no_evaluation_task_at_all_is_refused(tiny: Tiny):
    assert fault(tiny, "validation_data.valid.evaluation_tasks=[]") == (
        "validation_data.valid.evaluation_tasks=[] must name at least one task, or be null for all"
    )


def test_an_unknown_evaluation_task_is_refused(tiny: Tiny):
    assert fault(tiny, "validation_data.valid.evaluation_tasks=[like,share]") == (
        "validation_data.valid.evaluation_tasks: share is no task of the model; "
        "tasks are like, follow, reply"
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "+preprocess.cut={_target_: recap.data.preprocess.TruncateAndSlice, "
            "continuous_feature_truncation: 3}",
            "input continuous: width 3; the model is built for train_data: width 4",
        ),
        (
            "seg_dense_schema.sparse.video.vocabulary=[1,0]",
            "input video: vocabulary=(1, 0), 3 slots; "
            "the model is built for train_data: vocabulary=20, 21 slots",
        ),
    ],
)
def test_a_partition_that_is_not_what_the_model_was_built_for_is_refused(
    tiny: Tiny, override: str, message: str
):
    where = "validation_data.valid"
    plus = "+" if override.startswith("+") else ""
    found = fault(tiny, f"{plus}{where}.{override.removeprefix('+')}")
    assert found == f"{where}: {message}"


def test_a_partition_may_differ_in_what_the_model_does_not_read(tiny: Tiny):
    video = "validation_data.valid.seg_dense_schema.sparse.video"
    prepare(tiny.config(f"{video}.vocabulary=[1,0]", "~model.inputs.embeddings"))


def test_missing_files_of_data_and_of_a_mask_are_refused_together(tiny: Tiny):
    cut = "{_target_: recap.data.preprocess.TruncateAndSlice, binary_feature_mask_path: no.npy}"
    found = faults(tiny, "train_data.inputs=nowhere", f"+train_data.preprocess.cut={cut}")
    assert sorted(line.split(": ")[0] for line in found) == [
        "train_data.inputs",
        "train_data.preprocess.cut.binary_feature_mask_path=no.npy",
    ]  # and not once more for the partition that refers to them


def test_a_column_that_neither_model_nor_steps_read_need_not_be_in_the_files(tiny: Tiny):
    absent = "{_target_: recap.schema.Dense, column: nowhere, length: 1, dtype: int64}"
    given = f"+train_data.seg_dense_schema.dense.served={absent}"
    prepare(tiny.config(given))
    step = (
        "{_target_: recap.data.preprocess.RectifyLabels, served_timestamp_field: served, "
        "impressed_timestamp_field: served, label_to_engaged_timestamp_field: {like: served}}"
    )
    found = faults(tiny, given, f"+train_data.preprocess.rectify_labels={step}")
    assert found
    assert all("column 'nowhere' of input served is missing" in line for line in found)


def test_a_fault_that_partitions_only_repeat_is_told_once_and_their_own_as_well(tiny: Tiny):
    assert faults(tiny, "train_data.ignored_rows_limit=2") == [
        "train_data.ignored_rows_limit=2 must be a share of the rows, 0 to 1"
    ]
    other = "validation_data.valid.ignored_rows_limit=3"
    assert [
        line.split("=")[0] for line in faults(tiny, "train_data.ignored_rows_limit=2", other)
    ] == [
        "train_data.ignored_rows_limit",
        "validation_data.valid.ignored_rows_limit",
    ]
    assert fault(tiny, other).startswith(f"{other} must be a share")


def test_what_is_wrong_with_a_step_is_told_with_its_key(tiny: Tiny):
    steps = [
        "downcast={_target_: recap.data.preprocess.Downcast, features: {binry: bool}}",
        "downsample={_target_: recap.data.preprocess.DownsampleNegatives, batch_multiplier: 0, "
        "engagements_list: [like]}",
    ]
    assert faults(tiny, f"+train_data.preprocess.{steps[0]}")[0] == (
        "train_data.preprocess.downcast.features.binry: there is no such dense input; close: binary"
    )
    no_step = "{_target_: recap.schema.Sparse, column: x, num_buckets: 1}"
    for given, key in (
        ("downcast.features.binary=bool", "downcast._target_: missing"),
        (f"x={no_step}", "x="),
        ("x=3", "x="),
    ):
        found = faults(tiny, f"+train_data.preprocess.{given}")[0]
        assert found.startswith(f"train_data.preprocess.{key}")
        assert "no step; one has a _target_" in found
    assert faults(tiny, f"+train_data.preprocess.{steps[1]}")[0] == (
        "train_data.preprocess.downsample.batch_multiplier=0 must be 1 or more"
    )


@pytest.mark.parametrize("where", ["train_data", "validation_data.valid"])
def test_sampling_rates_that_cannot_be_are_refused(tiny: Tiny, where: str):
    row = "{pos_downsampling_rate: 2.0, neg_downsampling_rate: 0.0}"
    assert faults(tiny, f"+{where}.tasks.like={row}") == [
        f"{where}.tasks.like.pos_downsampling_rate=2.0 is not a fraction above 0 and at most 1",
        f"{where}.tasks.like.neg_downsampling_rate=0.0 is not a fraction above 0 and at most 1",
    ]
    both = [f"+{where}.tasks.{task}.neg_downsampling_rate=0.0" for task in ("like", "reply")]
    assert [line.split("=")[0] for line in faults(tiny, *both)] == [
        f"{where}.tasks.{task}.neg_downsampling_rate" for task in ("like", "reply")
    ]
    assert fault(tiny, f"+{where}.tasks.lik.neg_downsampling_rate=0.1") == (
        f"{where}.tasks.lik: rates of a task that seg_dense_schema.labels does not name; "
        "close: like"
    )
    wrong = fault(tiny, f"+{where}.tasks.like.neg_downsampling=0.1")
    assert wrong.startswith(f"{where}.tasks.like.neg_downsampling: ")
    assert wrong.endswith("close: neg_downsampling_rate")


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        ("auroc", "must be <partition>/<task or mean>/<metric>"),
        ("test/like/auroc", "no partition test; there is valid"),
        (
            "valid/share/auroc",
            "partition valid does not measure task share; "
            "it measures like, follow, reply, and mean",
        ),
        ("valid/like/auc", "no metric auc; there is auroc, auroc_error_bound, log_loss, rce, "),
    ],
)
def test_an_objective_that_names_nothing_is_refused(tiny: Tiny, objective: str, message: str):
    found = fault(tiny, f"training.objective={objective}")
    assert found.startswith(f"training.objective={objective}: {message}")


# Keys and values.


def test_unknown_overrides_are_refused_together_with_the_nearest_names(tiny: Tiny):
    assert faults(tiny, "training.num_train_step=3", "optimizer.adam.beta1=0.9") == [
        "training.num_train_step: there is no such key; close: training.num_train_steps; "
        "a new one takes a + before",
        "optimizer.adam.beta1: there is no such key; close: optimizer.adam.beta_1; "
        "a new one takes a + before",
    ]


def test_an_unknown_choice_is_refused_with_the_nearest(tiny: Tiny):
    assert fault(tiny, "optimizer=adagard") == (
        "optimizer=adagard: there is no such choice; close: adagrad"
    )


def test_a_new_key_that_nobody_reads_is_refused(tiny: Tiny):
    assert fault(tiny, "+training.num_train_stps=3") == (
        "training.num_train_stps: recap.training.Training takes no such key; close: num_train_steps"
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.num_train_steps=abc", "training.num_train_steps='abc': must be int"),
        ("training.num_train_steps=1.5", "training.num_train_steps=1.5: must be int"),
        ("training.precision=fp16", "training.precision='fp16': must be one of float32, bf16"),
        ("training.gradient_clip_norm=a", "training.gradient_clip_norm='a': must be float or null"),
        ("training.num_train_steps=-1", "training.num_train_steps=-1 must be 0 or more"),
        ("training.num_eval_steps=0", "training.num_eval_steps=0 would evaluate nothing; "),
        ("training.eval_timeout_in_s=-1", "training.eval_timeout_in_s=-1 must be 0 or more"),
        ("training.eval_timeout_in_s=nan", "training.eval_timeout_in_s=nan: must be a finite"),
        ("training.gradient_clip_norm=0", "training.gradient_clip_norm=0 must be above 0"),
        ("training.device=gpu7", "training.device=gpu7: no device has this name; "),
        ("optimizer.adam.beta_1=2", "optimizer.adam.beta_1=2 must lie in [0, 1)"),
        ("model.backbone.dropout=2", "model.backbone.dropout=2 must be a fraction between 0 and"),
        ("data_root=???", "train_data.inputs: missing; "),
    ],
)
def test_a_value_of_the_wrong_type_or_out_of_range_is_refused(
    tiny: Tiny, override: str, message: str
):
    assert fault(tiny, override).startswith(message)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "adagrad"])
def test_every_optimizer_of_the_group_is_accepted(tiny: Tiny, optimizer: str):
    prepare(tiny.config(f"optimizer={optimizer}"))


def test_a_run_directory_that_cannot_be_made_is_refused(tiny: Tiny):
    (tiny.root / "run").write_text("a file in the way")
    assert fault(tiny) == (
        f"training.save_dir={tiny.root}/run: cannot be written (Not a directory); "
        "name a folder that can"
    ).replace(f"{tiny.root}/", "")


def test_all_faults_of_a_config_come_in_one_message(tiny: Tiny):
    (tiny.root / PART_1).write_bytes(b"")
    found = faults(
        tiny,
        "training.num_train_steps=abc",
        "training.objective=valid/like/auc",
        "optimizer.adam.beta_1=2",
        "validation_data.valid.global_batch_size=0",
        "+schedule.towers.shared={learning_rate: 0.1}",
        "model.backbone.dropout=2",
    )
    places = [re.split(r"[=:]", line)[0] for line in found]
    assert sorted(places) == [
        "model.backbone.dropout",
        "optimizer.adam.beta_1",
        "schedule.towers.shared",
        "train_data.inputs",
        "training.num_train_steps",
        "training.objective",
        "validation_data.valid.global_batch_size",
    ]


def test_a_refusal_is_printed_without_a_trace_and_ends_with_1(tiny: Tiny):
    ended = tiny.train_elsewhere("training.num_train_steps=-1", "training.objective=auroc")
    assert ended.returncode == 1
    assert "training.num_train_steps=-1 must be 0 or more\ntraining.objective=auroc" in ended.stderr
    assert "Traceback" not in ended.stderr


# What only shows while reading.


def test_a_label_that_is_neither_0_nor_1_stops_the_run_behind_a_checkpoint(tiny: Tiny):
    columns = rows(48, seed=1)
    columns["is_like"] = pa.array([0] * 40 + [2] + [0] * 7)  # row 8 of row group 2
    write(tiny.root / PART_1, columns)
    ended = tiny.train_elsewhere("training.num_train_steps=1000")
    assert ended.returncode == 1
    assert f"{tiny.root / PART_1}, row group 2: " in ended.stderr
    assert "is_like" in ended.stderr
    assert "Traceback" not in ended.stderr
    (last,) = tiny.steps()
    assert max(tiny.logged()["loss"]) == last
    assert f"step {last} is saved in {tiny.root / 'run'}" in ended.stderr + ended.stdout


def damage(path: Path, row_group: int) -> None:
    """Overwrites the pages of a row group's first column; the footer stays whole."""
    chunk = pq.read_metadata(path).row_group(row_group).column(0)
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    with path.open("r+b") as file:
        file.seek(start)
        file.write(b"\xff" * chunk.total_compressed_size)


def test_a_damaged_row_group_stops_the_run_and_the_repaired_file_continues_it(tiny: Tiny):
    # An update takes 24 rows, a row group holds 16: the third one begins within the second update.
    settings = (
        "training.gradient_accumulation=3",
        "train_data.interleave_num_parallel_calls=1",
        "train_data.examples_shuffle_buffer_size=16",
    )
    line = Line([[16, 16, 16], [16, 16, 16]], seed=0)
    lane = Lane(line, index=0, lanes=1, buffer=16)
    (third,) = lane.block_at(32).pieces
    tiny.train(*settings, run="undisturbed")
    path = tiny.root / f"train/part-{third.source}.parquet"
    whole = path.read_bytes()
    damage(path, third.row_group)
    message = re.escape(f"{path}, row group {third.row_group}: ")
    with pytest.raises(DataError, match=message):
        tiny.train(*settings)
    assert tiny.steps() == [1]
    path.write_bytes(whole)
    tiny.train(*settings)
    assert tiny.logged()["loss"] == tiny.logged("undisturbed")["loss"]
    undisturbed = tiny.state("undisturbed")["model"]
    assert all(torch.equal(undisturbed[k], v) for k, v in tiny.state()["model"].items())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["+model.inputs.embeddings.tables_to_log=[vidio]"],
            "model.inputs.embeddings.tables_to_log: no table is called 'vidio'; close: video",
        ),
        (
            [
                "model/inputs=position_debias",
                "model.inputs.position_debias.position_feature_index=0",
                "model.inputs.position_debias.feature_name=binry",
            ],
            "model.inputs.position_debias.feature_name: dense input 'binry' is not in the schema; "
            "close: binary",
        ),
        (
            [
                "model/inputs=small_embeddings",
                "model.inputs.small_embeddings.feature_name=binary",
                "+model.inputs.small_embeddings.tables.country="
                "{num_embeddings: -300, embedding_dim: 2, index: 0}",
            ],
            "model.inputs.small_embeddings.tables.country.num_embeddings=-300 must be 1 or more",
        ),
        (
            ["model.inputs.embeddings.tables.video.embedding_dim=0"],
            "model.inputs.embeddings.tables.video.embedding_dim=0 must be 1 or more",
        ),
    ],
)
def test_the_key_at_fault_is_told_once(tiny: Tiny, overrides: list[str], message: str):
    assert faults(tiny, *overrides)[0] == message


def test_a_plain_value_for_a_row_is_refused_with_the_fields_of_the_row(tiny: Tiny):
    assert faults(tiny, "+train_data.tasks.like=0.5")[0] == (
        "train_data.tasks.like=0.5: must be a mapping "
        "{pos_downsampling_rate: …, neg_downsampling_rate: …}"
    )


def test_a_setting_left_open_is_missing(tiny: Tiny):
    chosen = ["model/inputs=position_debias", "preprocess=rectify_labels"]
    step = "train_data.preprocess.rectify_labels"
    assert faults(tiny, *chosen) == [
        f"{step}.served_timestamp_field: missing; recap.data.preprocess.RectifyLabels needs it",
        f"{step}.impressed_timestamp_field: missing; recap.data.preprocess.RectifyLabels needs it",
        "model.inputs.position_debias.position_feature_index: missing; "
        "recap.model.position_debias.PositionDebias needs it",
    ]  # and not once more for the partition that refers to them


def test_a_value_of_a_template_is_told_where_it_is_written(tiny: Tiny):
    of_two = fault(tiny, "task.tower.dropout=2")  # the task follow states its own
    assert of_two.startswith("task.tower.dropout=2 ")
    assert of_two.endswith(" (it fills 2 places)")
    assert fault(tiny, "schedule.curve.num_ramp_steps=-1").startswith(
        "schedule.curve.num_ramp_steps=-1 "
    )
    own = "model.tasks.like.tower.dropout=2"
    assert fault(tiny, own).startswith(own)


@pytest.mark.parametrize("rate", [".learning_rate=0.01", "=0.01"])
def test_a_schedule_for_a_table_that_is_not_there_is_refused_with_the_nearest(
    tiny: Tiny, rate: str
):
    assert fault(tiny, f"+schedule.tables.vidio{rate}") == (
        "schedule.tables.vidio: no such table is trained; close: video"
    )
