"""The composed local_prod has the numbers of the published experiment."""

from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from omegaconf import OmegaConf

from recap.compose import compose
from recap.compose.binding import completed
from recap.compose.nodes import section
from recap.model import HeavyRanker

# task: dropout, tower's peak rate, ramp steps, weight in the ranking score
TASKS = {
    "is_favorited": (None, 0.0008, 5000, 0.5),
    "is_good_clicked_convo_desc_favorited_or_replied": (None, 0.0001, 2000, 11.0),
    "is_good_clicked_convo_desc_v2": (None, 0.0002, 1000, 10.0),
    "is_negative_feedback_v2": (0.1, 0.0005, 5000, -74.0),
    "is_profile_clicked_and_profile_engaged": (None, 0.0003, 1000, 12.0),
    "is_replied": (None, 0.001, 1000, 13.5),
    "is_replied_reply_engaged_by_author": (None, 0.0001, 1000, 75.0),
    "is_report_tweet_clicked": (0.2, 0.0001, 3000, -369.0),
    "is_retweeted": (None, 0.0001, 1000, 1.0),
    "is_video_playback_50": (None, 0.003, 1000, 0.005),
}
# task: the shares of positives and of negatives that its partition kept
KEPT = {
    "is_favorited": (0.8387, 0.01),
    "is_good_clicked_convo_desc_favorited_or_replied": (0.9164, 0.00195),
    "is_good_clicked_convo_desc_v2": (1.0, 0.00174),
    "is_negative_feedback_v2": (1.0, 0.0028),
    "is_profile_clicked_and_profile_engaged": (1.0, 0.0015),
    "is_replied": (1.0, 0.005),
    "is_replied_reply_engaged_by_author": (1.0, 0.001),
    "is_report_tweet_clicked": (1.0, 0.000014),
    "is_retweeted": (0.9561, 0.004),
    "is_video_playback_50": (1.0, 0.00427),
}
LABELS_WITHOUT_TOWER = ["is_bookmarked", "is_shared", "is_tweet_detail_dwelled_15_sec"]


@pytest.fixture(scope="module")
def cfg() -> dict[str, Any]:
    plain = completed(OmegaConf.to_container(compose("experiment=local_prod"), resolve=True))
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def without_target(node: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in node.items() if not key.startswith("_")}


def test_it_has_the_five_sections(cfg: dict[str, Any]):
    assert {"training", "model", "train_data", "validation_data", "optimizer"} <= set(cfg)


def test_training(cfg: dict[str, Any]):
    training = cfg["training"]
    assert training["num_train_steps"] == 10
    assert training["num_eval_steps"] == 5
    assert training["checkpoint_every_n"] == 5
    assert training["checkpoint_max_to_keep"] is None
    assert (training["train_log_every_n"], training["eval_log_every_n"]) == (1, 1)
    assert training["eval_timeout_in_s"] == 7200
    assert training["initial_checkpoint_dir"] is None
    assert training["gradient_accumulation"] is None


def test_featurization(cfg: dict[str, Any]):
    inputs = cfg["model"]["inputs"]
    featurization = inputs["featurization"]
    assert featurization["_target_"].endswith(".DoubleNormLog")
    assert featurization["continuous_feature_names"] == ["continuous"]
    assert featurization["feature_names_to_concat"] == ["binary"]
    assert without_target(featurization["batch_norm_config"]) == {"affine": True, "momentum": 0.01}
    assert featurization["clip_magnitude"] == 5.0
    assert without_target(featurization["layer_norm_config"]) == {
        "axis": -1,
        "epsilon": 0.0,
        "center": True,
        "scale": True,
    }
    assert sorted(inputs["user_embeddings"]["feature_names"]) == [
        "author_embedding",
        "user_embedding",
        "user_eng_embedding",
    ]


def test_backbone(cfg: dict[str, Any]):
    assert cfg["model"]["multi_task_type"] == "share_all"
    backbone = cfg["model"]["backbone"]
    assert backbone["_target_"].endswith(".MaskNet")
    assert backbone["use_parallel"] is True
    assert [without_target(block) for block in backbone["mask_blocks"]] == [
        {
            "output_size": 1024,
            "aggregation_size": 1024,
            "reduction_factor": None,
            "input_layer_norm": False,
        }
    ] * 4
    assert backbone["mlp"]["layer_sizes"] == [2048]
    assert backbone["mlp"]["final_layer_activation"] is True
    assert backbone["mlp"]["init"] == "xavier_uniform"


def test_towers(cfg: dict[str, Any]):
    tasks = cfg["model"]["tasks"]
    assert list(tasks) == list(TASKS)
    for name, (dropout, _, _, score_weight) in TASKS.items():
        assert without_target(tasks[name]["tower"]) == {
            "layer_sizes": [256, 128, 1],
            "batch_norm": {
                "_target_": "recap.model.norm.BatchNorm",
                "affine": False,
                "momentum": 0.1,
            },
            "dropout": dropout,
            "final_layer_activation": False,
            "init": "xavier_uniform",
        }
        assert tasks[name]["pos_weight"] == tasks[name]["loss_weight"] == 1.0
        assert tasks[name]["score_weight"] == score_weight
        assert tasks[name]["affine_map"] is None


def test_learning_rates(cfg: dict[str, Any]):
    rates = cfg["optimizer"]["multi_task_learning_rates"]
    ramp = "recap.schedule.LinearRampToConstant"
    assert rates["backbone_learning_rate"] == {
        "_target_": ramp,
        "learning_rate": 0.0001,
        "num_ramp_steps": 1000,
    }
    assert rates["tower_learning_rates"] == {
        name: {"_target_": ramp, "learning_rate": peak, "num_ramp_steps": steps}
        for name, (_, peak, steps, _) in TASKS.items()
    }
    assert rates["table_learning_rates"] == {}


def test_adam(cfg: dict[str, Any]):
    adam = without_target(cfg["optimizer"]["adam"])
    assert adam == {"beta_1": 0.95, "beta_2": 0.999, "epsilon": 1e-7}


def test_train_data(cfg: dict[str, Any]):
    data = cfg["train_data"]
    assert data["global_batch_size"] == 128
    assert data["examples_shuffle_buffer_size"] == 1024
    assert data["file_batch_size"] == 16
    assert data["cache"] is None
    assert data["ignore_data_errors"] is False
    for key in ("num_files_to_keep", "map_num_parallel_calls", "interleave_num_parallel_calls"):
        assert data[key] is None
    assert list(data["preprocess"]) == ["truncate_and_slice"]
    cut = data["preprocess"]["truncate_and_slice"]
    assert cut["continuous_feature_truncation"] == 2117
    assert cut["binary_feature_truncation"] == 59


def test_schema(cfg: dict[str, Any]):
    schema = cfg["train_data"]["seg_dense_schema"]
    dense = {name: without_target(group) for name, group in schema["dense"].items()}
    recap, twhin = "home_recap_2022", "twhin"
    follow, engagement = f"{twhin}_user_follow_embeddings", f"{twhin}_user_engagement_embeddings"
    author = f"{twhin}_author_follow_embeddings"
    assert {name: (group["column"], group["length"]) for name, group in dense.items()} == {
        "continuous": (f"{recap}_cont__segdense_vals", 6000),
        "binary": (f"{recap}_binary__segdense_vals", 512),
        "discrete": (f"{recap}_discrete__segdense_vals", 320),
        "author_embedding": (f"original_author.timelines.{author}.{author}", 200),
        "user_embedding": (f"user.timelines.{follow}.{follow}", 200),
        "user_eng_embedding": (f"user.timelines.{engagement}.{engagement}", 200),
        "author_id": ("meta.author_id", 1),
        "user_id": ("meta.user_id", 1),
        "tweet_id": ("meta.tweet_id", 1),
    }
    assert {name: group["dtype"] for name, group in dense.items()} == {
        **dict.fromkeys(dense, "float32"),
        **dict.fromkeys(["binary", "discrete", "author_id", "user_id", "tweet_id"], "int64"),
    }
    assert schema["mask_mantissa_features"] == {}
    assert schema["labels"] == {
        task: f"recap.engagement.{task}" for task in sorted([*TASKS, *LABELS_WITHOUT_TOWER])
    }


def test_twelve_partitions(cfg: dict[str, Any]):
    partitions = cfg["validation_data"]
    assert list(partitions) == ["validation", "train", *TASKS]
    assert {name: data["evaluation_tasks"] for name, data in partitions.items()} == {
        "validation": None,
        "train": None,
        **{task: [task] for task in TASKS},
    }
    rates = {
        task: {task: {"pos_downsampling_rate": positives, "neg_downsampling_rate": negatives}}
        for task, (positives, negatives) in KEPT.items()
    }
    assert cfg["train_data"]["tasks"] == {}
    assert {
        name: {task: without_target(row) for task, row in data["tasks"].items()}
        for name, data in partitions.items()
    } == {"validation": {}, "train": {}, **rates}
    assert {data["global_batch_size"] for data in partitions.values()} == {128}
    schema = cfg["train_data"]["seg_dense_schema"]
    assert all(data["seg_dense_schema"] == schema for data in partitions.values())


def test_the_model_reads_2776_inputs_and_has_48_million_parameters():
    cfg = compose("experiment=local_prod")
    schema = section(cfg, "train_data.seg_dense_schema")
    for step in cfg.train_data.preprocess.values():
        schema = hydra.utils.instantiate(step).schema(schema)
    with torch.device("meta"):
        ranker = section(cfg, "model")(schema)
    assert isinstance(ranker, HeavyRanker)
    assert ranker.in_features == 2117 + 59 + 3 * 200 == 2776
    assert sum(p.numel() for p in ranker.parameters()) == 48_115_108


def test_the_numbers_are_those_of_the_tables_that_the_experiment_was_published_with():
    """Reads every row of the reference's tables, where that paper lies beside the checkout."""
    paper = Path(__file__).resolve().parents[2] / "shared" / "design" / "local_prod.md"
    if not paper.is_file():
        pytest.skip("the reference's description is not here")
    rows = {
        tuple(cell.strip() for cell in line.strip("| \n").split("|"))
        for line in paper.read_text().splitlines()
        if line.startswith("| is_")
    }

    def cells(name: str, numbers: tuple[float | None, ...]) -> tuple[str | float, ...]:
        return (name, *("–" if number is None else number for number in numbers))

    def read(row: tuple[str, ...]) -> tuple[str | float, ...]:
        name, *rest = row
        return (name, *("–" if x == "–" else float(x.replace("−", "-")) for x in rest))

    ours = {cells(name, numbers) for table in (TASKS, KEPT) for name, numbers in table.items()}
    assert {read(row) for row in rows} == ours
