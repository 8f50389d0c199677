"""Configurations of the original as experiments here: the same numbers, and what was wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from omegaconf import OmegaConf

from recap import checkpoint
from recap.batch import Batch
from recap.compose import compose
from recap.compose.binding import binding_faults, completed
from recap.compose.nodes import instantiate
from recap.convert_config import main
from recap.model.original import from_original
from recap.model.original_weights import original_weights, task_name
from recap.optimizer import set_learning_rates
from recap.original.data import parquet_name
from recap.trainer import train

LOCAL_PROD = Path(__file__).parent / "original/local_prod.yaml"
EVERYTHING = Path(__file__).parent / "original/everything.yaml"
GOLDEN = Path(__file__).parents[2] / "shared/golden"


def composed(folder: Path, *overrides: str) -> dict[str, Any]:
    """The experiment ``mine`` in ``folder/experiment``, every ``_target_`` told."""
    cfg = compose(f"hydra.searchpath=[file://{folder}]", "experiment=mine", *overrides)
    plain = OmegaConf.to_container(cfg, resolve=True)
    plain = completed(plain)
    assert list(binding_faults(plain, "")) == []
    return plain


def convert(folder: Path, original: Any, *options: str) -> int:
    """The command on a configuration as plain dicts."""
    source = folder / "original.yaml"
    source.write_text(
        original if isinstance(original, str) else yaml.safe_dump(original, sort_keys=False)
    )
    return main([str(source), "-o", str(folder / "experiment/mine.yaml"), *options])


def same(ours: Any, theirs: Any, path: str = "") -> list[str]:
    """Where two composed configs differ."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        keys = dict.fromkeys([*ours, *theirs])
        return [
            line
            for key in keys
            for line in same(ours.get(key, "-"), theirs.get(key, "-"), f"{path}.{key}")
        ]
    return [] if ours == theirs else [f"{path}: {ours} and {theirs}"]


def test_local_prod_composes_to_this_projects_local_prod(tmp_path: Path):
    assert convert(tmp_path, LOCAL_PROD.read_text()) == 0
    ours = composed(tmp_path, "data_root=D")
    theirs = completed(OmegaConf.to_container(compose("data_root=D"), resolve=True))
    for task in theirs["model"]["tasks"].values():
        task["score_weight"] = 0.0  # the original's configuration has none
    assert same(ours["model"], theirs["model"]) == []
    assert list(ours["model"]["tasks"]) == list(theirs["model"]["tasks"])
    assert list(ours["model"]["inputs"]) == list(theirs["model"]["inputs"])
    assert same(ours["optimizer"], theirs["optimizer"]) == []
    assert same(ours["task"], theirs["task"] | {"score_weight": 0.0}) == []
    ours["training"].pop("save_dir")
    theirs["training"].pop("save_dir")
    assert same(ours["training"], theirs["training"]) == []
    assert list(ours["validation_data"]) == list(theirs["validation_data"])
    for name, partition in ours["validation_data"].items():
        partition["inputs"] = theirs["validation_data"][name]["inputs"]  # one folder there
        own = theirs["train_data"]["seg_dense_schema"]
        assert partition["seg_dense_schema"]["labels"] == own["labels"]
        partition["seg_dense_schema"] = own
    dense = ours["train_data"]["seg_dense_schema"]["dense"]
    for name in ("author_id", "user_id", "tweet_id"):  # read by other names there
        dense[name] = dense.pop(f"meta__{name}")
    assert ours["train_data"].pop("inputs") == "D/*.parquet"
    theirs["train_data"].pop("inputs")
    assert "\n".join(same(ours["train_data"], theirs["train_data"])) == ""
    assert same(ours["validation_data"], theirs["validation_data"]) == []


def test_what_is_wrong_with_local_prod_is_told_and_stands_in_the_file(tmp_path: Path, capsys):
    assert convert(tmp_path, LOCAL_PROD.read_text()) == 0
    told = capsys.readouterr().err
    head = (tmp_path / "experiment/mine.yaml").read_text().split("\n\n")[0]
    assert head.startswith(
        "# @package _global_\n# Converted by python -m recap.convert_config from"
    )
    flat = " ".join(head.replace("\n#", " ").split())
    for part in (
        "trains 10 of 10 towers on another task's label and weight: is_favorited on is_bookmarked,",
        "is_video_playback_50 on is_retweeted; here they are joined by name",
        "the original's calibration never reads the rates of partitions",
        "is_report_tweet_clicked 1/1.4e-05",
        "epsilon=0: a constant row gives NaN there",
        "dataset_service_compression=AUTO: no counterpart here",
        '"convert.inputs=${HOME}/data/local_prod/*.gz"',
    ):
        assert part in told
        assert part in flat


SEGDENSE = {  # feature: kind, length; of everything.yaml
    "cont": ("float_list", 6),
    "bin": ("int64_list", 2),
    "disc": ("int64_list", 3),
    **dict.fromkeys(("meta.age", "served", "seen", "liked", "author"), ("int64_list", 1)),
    "video": ("int64_list", -1),
}


def write_segdense(path: Path, features: dict[str, tuple[str, int]]) -> Path:
    rows = [{"feature_name": n, "dtype": k, "length": v} for n, (k, v) in features.items()]
    path.write_text(json.dumps({"schema": rows}))
    return path


@pytest.fixture
def everything(tmp_path: Path) -> Path:
    """A folder with the experiment that everything.yaml is converted to."""
    schema = write_segdense(tmp_path / "segdense.json", SEGDENSE)
    assert convert(tmp_path, EVERYTHING.read_text(), "--schema", str(schema)) == 0
    return tmp_path


def test_every_word_of_the_originals_vocabulary_is_converted(everything: Path):
    cfg = composed(everything)
    model, data = cfg["model"], cfg["train_data"]
    assert list(model["inputs"]) == [
        "featurization",
        "large_embeddings",
        "small_embeddings",
        "position_debias",
    ]
    assert model["inputs"]["featurization"]["clip_magnitude"] == 4.0
    assert model["inputs"]["featurization"]["feature_names_to_concat"] == ["binary", "meta__age"]
    assert model["inputs"]["large_embeddings"]["tables_to_log"] == ["video"]
    assert model["inputs"]["small_embeddings"]["tables"]["city"]["index"] == 1
    assert model["inputs"]["position_debias"]["max_position"] == 9
    assert model["inputs"]["position_debias"]["drop_probability"] == 0.5
    assert (model["stratifiers"]["phone"]["index"], model["stratifiers"]["phone"]["value"]) == (
        0,
        3,
    )
    assert model["multi_task_type"] == "share_partial"
    assert model["backbone"]["bottom_mlp"]["layer_sizes"] == [6, 3]
    assert model["backbone"]["top_mlp"]["batch_norm"]["momentum"] == 0.1
    like, a_b, shared = model["tasks"].values()
    assert list(model["tasks"]) == ["like", "a__b", "shared"]
    assert (like["pos_weight"], like["tower"]["dropout"], like["affine_map"]) == (2.0, 0.1, None)
    assert (a_b["tower"]["poly_degree"], a_b["tower"]["projection_dim"]) == (2, 3)
    assert a_b["tower"]["parallel_mlp"] is None
    assert shared["tower"]["mask_blocks"][0]["reduction_factor"] == 0.5
    assert shared["tower"]["use_parallel"] is False
    assert (shared["affine_map"]["scale"], shared["affine_map"]["bias"]) == (2.0, 0.0)
    rates = cfg["optimizer"]["multi_task_learning_rates"]
    towers, tables = rates["tower_learning_rates"], rates["table_learning_rates"]
    assert towers["like"]["learning_rate"] == 0.0
    assert towers["a__b"]["learning_rate_boundaries"] == [2, 5]
    assert towers["shared"] == rates["backbone_learning_rate"]  # it has none of its own
    assert towers["shared"]["learning_rate"] == 0.01  # which YAML 1.1 reads as a string
    assert towers["shared"]["final_num_steps"] == 9
    assert (tables["video"]["learning_rate"], tables["author"]["num_ramp_steps"]) == (0.05, 3)
    assert cfg["optimizer"]["table_algorithm"]["_target_"] == "torch.optim.SGD"
    assert cfg["optimizer"]["adam"]["beta_1"] == 0.9
    training = {"num_train_steps": 2, "num_eval_steps": -1, "gradient_accumulation": 2}
    training |= {"checkpoint_max_to_keep": 3, "checkpoint_every_n": 1000, "eval_log_every_n": 5000}
    assert {key: cfg["training"][key] for key in training} == training
    dates = data["explicit_date_inputs"]
    assert (dates["data_root"], dates["end_date"]) == ("data/original", "2023-01-31")
    assert (dates["days"], dates["num_missing_days_tol"]) == (3, 1)
    numbers = {"global_batch_size": 8, "file_batch_size": 2, "num_files_to_keep": 5}
    numbers |= {"map_num_parallel_calls": 3, "ignore_data_errors": True}
    assert data["cache"] == "data/original/cache"
    assert data["seg_dense_schema"]["mask_mantissa_features"] == {"continuous": 8}
    assert {key: data[key] for key in numbers} == numbers
    assert list(data["preprocess"]) == [
        "downsample_negatives",
        "rectify_labels",
        "truncate_and_slice",
        "extract_features",
        "downcast",
    ]
    assert data["preprocess"]["downsample_negatives"]["engagements_list"] == ["like", "a__b"]
    times = data["preprocess"]["rectify_labels"]["label_to_engaged_timestamp_field"]
    assert times == {"like": "liked__at"}
    assert data["preprocess"]["downcast"]["features"] == {"continuous": "bfloat16"}
    assert data["tasks"]["like"]["pos_downsampling_rate"] == 0.5
    assert data["tasks"]["shared"]["neg_downsampling_rate"] == 0.2
    assert data["seg_dense_schema"]["sparse"]["video"]["num_buckets"] == 50
    later, elsewhere = cfg["validation_data"].values()
    assert later["explicit_datetime_inputs"]["end_datetime"] == "2023-02-01T05"
    assert later["explicit_datetime_inputs"]["data_root"] == "data/original/hours"
    assert (later["global_batch_size"], later["evaluation_tasks"]) == (16, ["a__b"])
    kept = [name for name, step in later["preprocess"].items() if step is not None]
    assert kept == ["truncate_and_slice"]
    assert elsewhere["inputs"] == "gs://bucket/folder/part-*.parquet"
    assert (later["tasks"], elsewhere["num_files_to_keep"]) == ({}, None)


def test_what_is_odd_in_everything_is_told(everything: Path):
    head = (everything / "experiment/mine.yaml").read_text().split("\n\n")[0]
    flat = " ".join(head.replace("\n#", " ").split())
    for part in (
        "trains 2 of 3 towers on another task's label and weight: like on a__b, a__b on like",
        "rates like 0.5/0.1, shared 1/0.2: the original corrects for them twice",
        "model.large_embeddings, model.small_embeddings, model.position_debias_config",
        "model.tasks.recap.engagement.shared.mask_net_config (serial, with an MLP)",
        "concatenates binary whatever stands here",
        "train_data.explicit_date_inputs: the original stops at it",
        "train_data.repeat_files=False: no counterpart here",
        "train_data.sampler={'name': 'mine', 'kwargs': {}}: no counterpart here: deprecated",
        "interleave_num_parallel_calls=3: must divide the batch of 8; here 2",
        "downcast.features.binary=float32: the original stops at it",
        "run in the order written, downsample_negatives first",
        "mask_mantissa_features: the original ignores it; here the bits are zeroed",
        "train_data.ignore_data_errors: all of them are there, silently",
        "tower_learning_rates.gone: a rate for no task of the model",
        "none for recap.engagement.shared; the original trains its tower at the backbone's rate",
    ):
        assert part in flat, part


def written_rows(path: Path, number: int, seed: int) -> None:
    """A Parquet file of the columns of everything.yaml."""
    random = np.random.default_rng(seed)
    hour = 3_600_000
    columns: dict[str, pa.Array] = {
        "cont": pa.FixedSizeListArray.from_arrays(
            pa.array(random.normal(size=6 * number).astype(np.float32)), 6
        ),
        "bin": pa.FixedSizeListArray.from_arrays(pa.array(random.integers(0, 2, 2 * number)), 2),
        "disc": pa.FixedSizeListArray.from_arrays(pa.array(random.integers(0, 4, 3 * number)), 3),
        "video": pa.array([[1, 2]] * number),
    }
    for name in ("meta.age", "served", "seen", "liked", "author"):
        high = 4 if name == "meta.age" else 5 * hour
        columns[name] = pa.array(random.integers(0, high, number))
    for name in ("like", "a.b", "recap.engagement.shared"):
        columns[name] = pa.array(random.integers(0, 2, number))
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def test_a_converted_configuration_trains_on_its_data(everything: Path):
    root = everything / "data"
    for day in (29, 31):
        written_rows(root / f"2023/01/{day}/part-0.parquet", 40, seed=day)
    for hour in (4, 5):
        written_rows(root / f"hours/2023/02/01/{hour:02}/part-0.parquet", 20, seed=hour)
    cfg = compose(
        f"hydra.searchpath=[file://{everything}]",
        "experiment=mine",
        f"data_root={root}",
        f"training.save_dir={everything / 'run'}",
        "~validation_data.elsewhere",
        "training.device=cpu",
        "tracking=none",
    )
    train(cfg)
    last = checkpoint.latest(everything / "run")
    assert last is not None
    assert checkpoint.load(last)["step"] == 2


def test_the_golden_models_configuration_has_the_same_numbers(tmp_path: Path):
    if not GOLDEN.exists():
        pytest.skip(f"the golden numbers are not at {GOLDEN}")
    index = json.loads((GOLDEN / "index.json").read_text())["files"]
    original = index["model_parallel_share_all.npz"]["config"]
    original["validation_data"] = {"valid": original["train_data"]}
    widths = {"c": 24, "b": 5, "d": 4, "u": 8, "ue": 8, "a": 8}
    kinds = {name: "int64_list" if name in "bd" else "float_list" for name in widths}
    features = {name: (kinds[name], width) for name, width in widths.items()}
    schema = write_segdense(tmp_path / "segdense.json", features)
    assert convert(tmp_path, original, "--schema", str(schema)) == 0
    cfg = composed(tmp_path)
    with np.load(GOLDEN / "model_parallel_share_all.npz") as arrays:
        state = {
            name.removeprefix("state/"): torch.from_numpy(arrays[name])
            for name in arrays.files
            if name.startswith("state/")
        }
    data = instantiate(OmegaConf.create(cfg["train_data"]))
    ranker = instantiate(OmegaConf.create(cfg["model"]))(data.schema)
    ranker.load_state_dict(original_weights(state, ranker))
    built = from_original(state, original)
    assert ranker.pos_weights == built.pos_weights
    inputs = {name: dense.width for name, dense in data.schema.dense.items()}
    batch = Batch(
        dense={name: torch.randn(6, width) for name, width in inputs.items()},
        sparse={},
        tasks=ranker.tasks,
        labels=torch.zeros(6, 3),
    )
    for training in (False, True):
        assert torch.equal(ranker.train(training)(batch), built.train(training)(batch))
    assert data.tasks["is_favorited"].neg_downsampling_rate == 0.01
    optimizer = instantiate(OmegaConf.create(cfg["optimizer"]))(**ranker.parameters_by_kind())
    with np.load(GOLDEN / "model_parallel_share_all.npz") as arrays:
        expected = arrays["train5/lr"]
    names = [task_name(n) for n in index["model_parallel_share_all.npz"]["lr_groups"]]
    for step, row in enumerate(expected):
        rates = set_learning_rates(optimizer, step)
        assert [rates[name] for name in names] == row.tolist()


def minimal() -> dict[str, Any]:
    """A configuration of the original that says no more than it must."""
    rate: dict[str, Any] = {"constant": 0.01}
    data = {
        "inputs": "folder/*.gz",
        "global_batch_size": 8,
        "seg_dense_schema": {
            "schema_path": "nowhere.json",
            "renamed_features": {
                "continuous": "home_recap_2022_cont__segdense_vals",
                "binary": "home_recap_2022_binary__segdense_vals",
            },
        },
        "tasks": {"like": None, "reply": {}},
    }
    return {
        "model": {
            "featurization_config": {"double_norm_log_config": {}},
            "tasks": {"like": {"mlp_config": {"layer_sizes": [4, 1]}}},
        },
        "train_data": data,
        "validation_data": {"valid": data},
        "optimizer": {"single_task_learning_rate": rate, "adam": {}},
    }


def test_what_a_configuration_does_not_say_has_the_originals_defaults(tmp_path: Path):
    assert convert(tmp_path, minimal()) == 0
    cfg = composed(tmp_path, "data_root=D")
    assert cfg["model"]["multi_task_type"] == "share_none"
    assert cfg["model"]["backbone"] is None
    assert list(cfg["model"]["inputs"]) == ["featurization"]
    featurization = cfg["model"]["inputs"]["featurization"]
    assert (featurization["batch_norm_config"], featurization["layer_norm_config"]) == (None, None)
    assert featurization["clip_magnitude"] == 5.0
    assert cfg["optimizer"]["multi_task_learning_rates"] is None
    assert cfg["optimizer"]["single_task_learning_rate"]["learning_rate"] == 0.01
    assert cfg["training"]["num_train_steps"] == 1_000_000
    assert cfg["training"]["num_eval_steps"] == 16384
    assert cfg["train_data"]["inputs"] == "D/*.parquet"
    assert cfg["train_data"]["file_batch_size"] == 16
    assert cfg["train_data"]["seg_dense_schema"]["dense"]["continuous"]["length"] == 6000


def at(config: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """``config`` with another value at a dotted path."""
    *folders, last = path.split("/")
    node = config
    for key in folders:
        node = node.setdefault(key, {})
    node[last] = value
    return config


RAMP = {"learning_rate": 0.1, "num_ramp_steps": 5}
CURVE = "optimizer/single_task_learning_rate"


@pytest.mark.parametrize(
    ("path", "value", "fault"),
    [
        (
            CURVE,
            {"constant": 1, "linear_ramp_to_constant": RAMP},
            "not constant and linear",
        ),
        (CURVE, {"constant": None}, "single_task_learning_rate: exactly one of constant, "),
        (
            CURVE,
            {"linear_ramp_to_cosine": RAMP | {"final_learning_rate": 0, "final_num_steps": 5}},
            "linear_ramp_to_cosine.final_num_steps=5: must be above num_ramp_steps=5; the original",
        ),
        (
            CURVE,
            {"piecewise_constant": {"learning_rate_boundaries": [1], "learning_rate_values": [1]}},
            "1 learning_rate_boundaries need 2 learning_rate_values, not 1",
        ),
        ("optimizer/adam", None, "optimizer.adam: missing; the original needs it"),
        ("optimizer/adam/beta_1", "x", "optimizer.adam.beta_1=x: must be a number"),
        ("model/backbone", {"mlp_config": {"layer_sizes": [3]}}, "share_none has none; set it to"),
        (
            "model/multi_task_type",
            "share_all",
            "backbone: multi_task_type=share_all needs one",
        ),
        ("model/multi_task_type", "shared", "multi_task_type=shared: must be one of share_none, "),
        ("model/tasks/like/dcn_config", {"poly_degree": 0}, "not mlp_config and dcn_config"),
        ("model/tasks/like/dcn_config", {"poly_degree": 0}, "poly_degree=0: must be above 0"),
        ("model/tasks/other", {"mlp_config": {"layer_sizes": [1]}}, "train_data.tasks has no such"),
        ("model/tasks/like/mlp_config/layer_sizes", 3, "layer_sizes=3: must be a list"),
        ("model/tasks/like/mlp_config/layer_sizes", [], "layer_sizes=[]: must have at least one"),
        ("model/tasks", None, "model.tasks: missing; the original needs it"),
        ("validation_data/a: b", None, "validation_data.a: b: rename it; no name of a task or "),
        ("train_data/tasks/a[0]", {}, "train_data.tasks.a[0]: rename it; no name of a task or fea"),
        ("model/featurization_config", {}, "model.featurization_config: exactly one of log1p_abs_"),
        ("train_data/global_batch_size", None, "train_data.global_batch_size: missing"),
        ("train_data/global_batch_size", 2.5, "global_batch_size=2.5: must be a whole number"),
        ("train_data/cache", 3, "train_data.cache=3: must be true or false"),
        (
            "train_data/inputs",
            None,
            "exactly one of inputs, explicit_datetime_inputs",
        ),
        (
            "train_data/tasks/like",
            {"neg_downsampling_rate": 0},
            "like.neg_downsampling_rate=0.0",
        ),
        (
            "train_data/evaluation_tasks",
            ["x"],
            "evaluation_tasks: x is not in train_data",
        ),
        (
            "train_data/seg_dense_schema/features",
            ["unheard.of"],
            "how long are unheard.of? schema_path=nowhere.json cannot be read here; give the file "
            "with --schema",
        ),
        ("validation_data", 7, "validation_data=7: must be a mapping"),
        ("training", {"num_train_steps": "${STEPS_OF_NOBODY}"}, "=${STEPS_OF_NOBODY}: must be a w"),
    ],
)
def test_what_cannot_be_converted_is_refused_with_its_key(
    tmp_path: Path, capsys, path: str, value: Any, fault: str
):
    assert convert(tmp_path, at(minimal(), path, value)) == 1
    told = capsys.readouterr().err
    assert "original.yaml cannot be converted: " in told
    assert fault in told
    assert not (tmp_path / "experiment").exists()


def test_every_reason_is_told_at_once(tmp_path: Path, capsys):
    original = at(at(minimal(), "optimizer/adam", None), "train_data/global_batch_size", -1)
    original = at(original, "model/tasks/like/mlp_config/layer_sizes", ["x"])
    assert convert(tmp_path, original) == 1
    told = capsys.readouterr().err
    for place in ("optimizer.adam:", "train_data.global_batch_size=-1", "layer_sizes.0=x: must be"):
        assert place in told


def test_a_key_that_the_original_does_not_know_is_named_and_left_out(tmp_path: Path, capsys):
    assert convert(tmp_path, at(minimal(), "train_data/globl_batch_size", 3)) == 0
    told = capsys.readouterr().err
    assert "train_data.globl_batch_size: unknown to the original, which refuses it" in told
    assert "close: global_batch_size" in told


def test_the_environment_stays_a_reference_except_where_a_number_stands(
    tmp_path: Path, monkeypatch, capsys
):
    monkeypatch.setenv("RECAP_TEST_FOLDER", "/there")
    monkeypatch.setenv("RECAP_TEST_STEPS", "7")
    text = yaml.safe_dump(minimal()).replace("folder/*.gz", "${RECAP_TEST_FOLDER}/of/$$me/*.gz")
    text += "training: {num_train_steps: $RECAP_TEST_STEPS, save_dir: $UNSET_BY_ANYBODY/runs}\n"
    assert convert(tmp_path, text) == 0
    assert "variable UNSET_BY_ANYBODY is not set here" in capsys.readouterr().err
    monkeypatch.setenv("UNSET_BY_ANYBODY", "/now")
    cfg = composed(tmp_path)
    assert cfg["train_data"]["inputs"] == "/there/of/$me/*.parquet"
    assert cfg["training"]["num_train_steps"] == 7
    assert cfg["training"]["save_dir"] == "/now/runs"
    monkeypatch.setenv("RECAP_TEST_FOLDER", "/elsewhere")
    assert composed(tmp_path)["data_root"] == "/elsewhere/of/$me"


def test_what_is_no_file_or_no_yaml_is_refused(tmp_path: Path, capsys):
    assert main([str(tmp_path / "nowhere.yaml")]) == 1
    assert "nowhere.yaml cannot be converted: cannot be read: No" in capsys.readouterr().err
    assert convert(tmp_path, "a: [") == 1
    assert "cannot be converted: not YAML: " in capsys.readouterr().err
    assert convert(tmp_path, "- a") == 1
    assert "must be a mapping with the sections model, train_data" in capsys.readouterr().err


def test_without_a_file_to_write_the_experiment_is_printed(tmp_path: Path, capsys):
    source = tmp_path / "original.yaml"
    source.write_text(yaml.safe_dump(minimal()))
    assert main([str(source)]) == 0
    assert capsys.readouterr().out.startswith("# @package _global_\n")


def test_tables_with_rates_of_their_own_stand_beside_a_single_rate(tmp_path: Path, capsys):
    tables = [
        {
            "name": "video",
            "num_embeddings": 9,
            "embedding_dim": 2,
            "vocab": "ids",
            "pretrained": {"emb_name": "t", "embedding_snapshot_uri": "gs://there"},
        }
    ]
    large = {"tables": tables, "optimizer": {"init_learning_rate": 0.5}}
    assert convert(tmp_path, at(minimal(), "model/large_embeddings", large)) == 0
    told = capsys.readouterr().err
    for part in (
        "tables.video: the data name no such feature",
        "tables.video.vocab: a folder there; here a Parquet file",
        "tables.video.pretrained: a torchsnapshot there",
    ):
        assert part in told
    cfg = composed(tmp_path)
    rates = cfg["optimizer"]["multi_task_learning_rates"]
    assert cfg["optimizer"]["single_task_learning_rate"] is None
    assert rates["tower_learning_rates"]["like"]["learning_rate"] == 0.01
    assert rates["backbone_learning_rate"]["learning_rate"] == 0.01
    assert rates["table_learning_rates"]["video"]["learning_rate"] == 0.5
    assert cfg["train_data"]["seg_dense_schema"]["sparse"]["video"]["vocabulary"] == "ids"
    table = cfg["model"]["inputs"]["large_embeddings"]["tables"]["video"]
    assert (table["embedding_dim"], table["pretrained"]) == (2, "gs://there")


def test_features_of_any_length_or_bytes_that_no_table_reads_are_left_out(tmp_path: Path, capsys):
    features = {"bag": ("int64_list", -1), "raw": ("bytes_list", 1), "c": ("float_list", 3)}
    schema = write_segdense(tmp_path / "segdense.json", features | {"b": ("int64_list", 2)})
    original = at(minimal(), "train_data/seg_dense_schema/features", ["bag", "raw"])
    renamed = {"continuous": "c", "binary": "b"}
    original = at(original, "train_data/seg_dense_schema/renamed_features", renamed)
    assert convert(tmp_path, original, "--schema", str(schema)) == 0
    told = capsys.readouterr().err
    assert "train_data.seg_dense_schema: bag holds any number of values, which no input" in told
    assert "train_data.seg_dense_schema: raw holds bytes" in told
    assert list(composed(tmp_path)["train_data"]["seg_dense_schema"]["dense"]) == [
        "continuous",
        "binary",
    ]
    del features["c"]
    write_segdense(schema, features)
    assert convert(tmp_path, original, "--schema", str(schema), "--force") == 1
    assert "how long are c, b? the file of the schema does not list" in capsys.readouterr().err


def test_a_null_rate_of_the_backbone_leaves_it_as_it_is(tmp_path: Path, capsys):
    original = at(minimal(), "optimizer/single_task_learning_rate", None)
    rates = {"tower_learning_rates": {"like": {"constant": 0.1}}, "backbone_learning_rate": None}
    original = at(original, "optimizer/multi_task_learning_rates", rates)
    assert convert(tmp_path, original) == 0
    assert "backbone_learning_rate: null; the original stops at it" in capsys.readouterr().err
    ours = composed(tmp_path)["optimizer"]["multi_task_learning_rates"]
    assert ours["backbone_learning_rate"]["learning_rate"] == 0.0
    assert ours["tower_learning_rates"]["like"]["learning_rate"] == 0.1


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("a/*.gz", "a/*.parquet"),
        ("a/part-*.tfrecord.gz", "a/part-*.parquet"),
        ("gs://b/x.tfrecords", "gs://b/x.parquet"),
        ("a/part-*", "a/part-*.parquet"),
        ("a/b.parquet", "a/b.parquet"),
    ],
)
def test_names_of_tfrecords_become_those_of_the_files_made_of_them(theirs: str, ours: str):
    assert parquet_name(theirs) == ours


def test_a_file_that_is_there_is_overwritten_by_force_only(tmp_path: Path, capsys):
    written = tmp_path / "experiment/mine.yaml"
    written.parent.mkdir()
    written.write_text("my own")
    assert convert(tmp_path, minimal()) == 1
    assert capsys.readouterr().err == f"{written} is there already; --force overwrites it\n"
    assert written.read_text() == "my own"
    assert convert(tmp_path, minimal(), "--force") == 0
    assert written.read_text().startswith("# @package _global_\n")


def test_a_schema_that_is_not_at_its_path_is_read_beside_the_configuration(tmp_path: Path, capsys):
    original = at(minimal(), "train_data/seg_dense_schema/schema_path", "/not/here/segdense.json")
    original = at(
        original, "train_data/seg_dense_schema/renamed_features", {"continuous": "my_columns"}
    )
    assert convert(tmp_path, original) == 1
    assert "how long are my_columns?" in capsys.readouterr().err
    for folder, length in ((tmp_path, 7), (tmp_path / "as_written", 9)):
        folder.mkdir(exist_ok=True)
        path = write_segdense(folder / "segdense.json", {"my_columns": ("float_list", length)})
    beside = tmp_path / "segdense.json"
    assert convert(tmp_path, original) == 0
    told = capsys.readouterr().err
    assert (
        "train_data.seg_dense_schema.schema_path=/not/here/segdense.json cannot be read here; "
        f"{beside}, beside this configuration, is read in its place"
    ) in told
    assert f"convert.seg_dense_schema={beside}" in told
    dense = composed(tmp_path)["train_data"]["seg_dense_schema"]["dense"]
    assert dense["continuous"]["length"] == 7

    original = at(original, "train_data/seg_dense_schema/schema_path", str(path))
    assert convert(tmp_path, original, "--force") == 0
    assert "beside this configuration" not in capsys.readouterr().err
    dense = composed(tmp_path)["train_data"]["seg_dense_schema"]["dense"]
    assert dense["continuous"]["length"] == 9
