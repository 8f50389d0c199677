"""Every field of a config does something: change it, and something that is measured changes.

A case is the key of one place where a field stands and another value for it. What is measured are
the losses, rates and metrics of three steps, the steps that left checkpoints, the value for a sweep
and the outputs of the ranker. The last tests see to it that no field is forgotten.
"""

from __future__ import annotations

import copy
import inspect
import itertools
import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pyarrow as pa
import pytest
import torch
from omegaconf import DictConfig, OmegaConf, open_dict
from tiny import Tiny, rows, write

from recap.compose import CONF, Refused
from recap.compose.binding import completed
from recap.data.files import DataError
from recap.data.statistics import Columns, write_statistics
from recap.experiment import Experiment, prepare
from recap.model.outputs import Outputs
from recap.trainer import train

numbers = itertools.count()


@dataclass(frozen=True)
class Refuses:
    """Another value with which a run is refused or ends, its message having ``match`` in it."""

    value: Any
    match: str


def more_rows(number: int) -> dict[str, pa.Array]:
    """48 rows of the tiny experiment with more columns: every field has something to read."""
    random = np.random.default_rng(100 + number)

    def lists(width: int, values: np.ndarray) -> pa.Array:
        return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), width)

    columns = rows(48, seed=number)
    columns["e"] = lists(4, random.normal(size=(48, 4)).astype(np.float32))
    columns["f"] = lists(2, random.normal(size=(48, 2)).astype(np.float32))
    columns["d"] = lists(3, random.integers(0, 3, size=(48, 3)))
    columns |= {f"c{i}": pa.array(random.normal(size=48).astype(np.float32)) for i in range(3)}
    columns["day"] = pa.array(random.integers(0, 4, size=48))
    columns["tags"] = pa.array([f"{a},{b}" for a, b in random.integers(0, 9, size=(48, 2))])
    hours = {"served": 0, "shown": 1, "early": 2, "late": random.integers(0, 5, size=48)}
    hours["seen"] = random.integers(0, 5, size=48)
    return columns | {
        f"{name}_ms": pa.array(np.full(48, 3_600_000 * at), pa.int64())
        for name, at in hours.items()
    }


def write_data(root: Path) -> None:
    """The files that the contexts and cases below name."""
    for number, path in enumerate(["train/part-0", "train/part-1", "valid/part-0"]):
        write(root / f"{path}.parquet", more_rows(number))
        write(root / f"days/2023/01/3{number}/part.parquet", more_rows(number))
        write(root / f"hours/2023/01/31/0{number}/part.parquet", more_rows(number))
    write(root / "damaged.parquet", {**more_rows(3), "is_like": pa.array([2] + 47 * [0])})
    np.save(root / "mask-3.npy", [1, 0, 1])
    np.save(root / "mask-2.npy", [0, 1])
    np.save(root / "video.npy", np.ones((21, 2), np.float32))
    for name, scale in (("statistics", 1.0), ("others", 3.0)):
        found = Columns.of(scale * np.random.default_rng(9).normal(size=(50, 4)))
        write_statistics({"continuous": found, "e": found}, root / name)


MORE_INPUTS = [
    "+train_data.seg_dense_schema.dense.e={column: e, length: 4}",
    "+train_data.seg_dense_schema.dense.f={column: f, length: 2}",
    "+train_data.seg_dense_schema.dense.discrete={column: d, length: 3, dtype: int64}",
    *(
        f"+train_data.seg_dense_schema.dense.{name}={{columns: [{name}_ms], dtype: int64}}"
        for name in ("served", "shown", "seen", "early", "late")
    ),
    "+train_data.seg_dense_schema.sparse.day={column: day, vocabulary: 4}",
    "+train_data.seg_dense_schema.sparse.tag={column: tags, num_buckets: 7, separator: ','}",
]


class Laboratory:
    """Runs of the tiny experiment on one data set; the same config is measured once."""

    def __init__(self, root: Path) -> None:
        self.tiny = Tiny(root)
        self._composed: dict[str, DictConfig] = {}
        self._measured: dict[str, dict[str, str]] = {}

    def config(self, context: str) -> DictConfig:
        """The composed config of a context."""
        if context not in self._composed:
            more = ["training.num_train_steps=3", *MORE_INPUTS, *CONTEXTS[context]]
            self._composed[context] = self.tiny.config(*more)
        return copy.deepcopy(self._composed[context])

    def measured(self, context: str, *change: Any) -> dict[str, str]:
        """What a run shows, with one value changed: ``change`` is its key and the value."""
        cfg = self.config(context)
        with open_dict(cfg):
            for key, value in [change] if change else []:
                OmegaConf.update(cfg, key, value, merge=False, force_add=True)
            recipe = OmegaConf.to_yaml(cfg)
            if recipe in self._measured:
                return self._measured[recipe]
            run = f"run-{next(numbers)}"
            cfg.training.save_dir = str(self.tiny.root / run)
        objective = train(cfg)
        logged = self.tiny.logged(run)
        logged.pop("examples_per_s", None)
        self._measured[recipe] = {  # as text: a NaN is then equal to itself
            "logged": repr({name: dict(values) for name, values in logged.items()}),
            "checkpoints": repr(self.tiny.steps(run)),
            "objective": repr(objective),
            "outputs": repr(outputs(prepare(cfg))),
        }
        return self._measured[recipe]


@torch.inference_mode()
def outputs(experiment: Experiment) -> Outputs:
    """What the untrained ranker says of the first batch of the validation data."""
    ranker = experiment.ranker.eval()
    batches = experiment.validation_data["valid"].batches(
        tasks=ranker.tasks, inputs=ranker.input_names, shuffle_seed=None, epochs=1
    )
    with closing(batches):
        return ranker.outputs(next(batches)[0])


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Laboratory:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("every-field")
    write_data(root)
    Tiny(root).train(*MORE_INPUTS, "training.num_train_steps=1", "training.seed=9", run="earlier")
    return Laboratory(root)


# What stands around a field so that it can have an effect.
MASK_NET = (
    "model/backbone=mask_net",
    "model.backbone.mlp.layer_sizes=[8]",
    "model.backbone.mask_blocks="
    "[{output_size: 6, aggregation_size: 5}, {output_size: 6, reduction_factor: 0.5}]",
)
RATES = "model.inputs.rates="
CONTEXTS: dict[str, Sequence[str]] = {
    "tiny": (),
    "often": ("training.checkpoint_every_n=1",),
    "sampled": ("+train_data.tasks={like: {neg_downsampling_rate: 0.5}}",),
    "sliced": ("+model.stratifiers.first={index: 0, value: 1, feature_name: discrete}",),
    "unshared": ("model/backbone=none", "model.multi_task_type=share_none"),
    "partial": ("model.multi_task_type=share_partial",),
    "lines": ("+model.tasks.like.affine_map={scale: 2.0, bias: 0.5}",),
    "mask_net": MASK_NET,
    "dcn": (
        "model/backbone=dcn",
        "model.backbone.poly_degree=2",
        "model.backbone.projection_dim=null",
        "model.backbone.parallel_mlp.layer_sizes=[6]",
        "model.backbone.output_mlp.layer_sizes=[5]",
    ),
    "dlrm": (
        "model/backbone=dlrm",
        "model.backbone.bottom_mlp.layer_sizes=[2]",
        "model.backbone.top_mlp.layer_sizes=[4]",
    ),
    "log1p_abs": ("model/featurization=log1p_abs",),
    "clip_log1p_abs": ("model/featurization=clip_log1p_abs",),
    "z_score_log": (
        "model/featurization=z_score_log",
        "model.inputs.featurization.statistics_path=${data_root}/statistics",
    ),
    "small": (
        "+model/inputs=small_embeddings",
        "+model.inputs.small_embeddings.tables.a={num_embeddings: 3, embedding_dim: 2, index: 0}",
    ),
    "position": (
        "+model/inputs=position_debias",
        "model.inputs.position_debias.position_feature_index=0",
        "model.inputs.position_debias.num_dims=2",
    ),
    "precomputed": (
        "+model.inputs.precomputed="
        "{_target_: recap.model.embeddings.LayerNormedEmbeddings, _partial_: true,"
        " feature_names: [e, f]}",
    ),
    "rates": (
        "+model.inputs.rates={_target_: recap.model.engagement_rates.EngagementRates,"
        " _partial_: true, keys: [tag], fold: day, batch_norm_config: {affine: false}}",
    ),
    "trained": (
        "+model.inputs.embeddings.tables.video.pretrained=${data_root}/video.npy",
        "+model.inputs.embeddings.tables.video.trainable=true",
    ),
    **{
        kind: (
            f"optimizer/table_algorithm={kind}",
            "model.inputs.embeddings.tables.video.embedding_dim=4",
        )
        for kind in ("fused_sgd", "fused_adagrad", "fused_rowwise_adagrad", "fused_adam")
    },
    "tags": ("+model.inputs.embeddings.tables.tag={embedding_dim: 3}",),
    "scalars": (
        "+train_data.seg_dense_schema.dense.scalars={columns: [c0, c1, c2]}",
        "model.inputs.featurization.continuous_feature_names=[scalars]",
    ),
    "days": (
        "train_data.inputs=null",
        "train_data.explicit_date_inputs="
        "{data_root: '${data_root}/days', end_date: 2023-01-31, days: 1, num_missing_days_tol: 1}",
    ),
    "missing day": (
        "train_data.inputs=null",
        "train_data.explicit_date_inputs="
        "{data_root: '${data_root}/days', end_date: 2023-01-31, days: 3, num_missing_days_tol: 1}",
    ),
    "missing hour": (
        "train_data.inputs=null",
        "train_data.explicit_datetime_inputs={data_root: '${data_root}/hours',"
        " end_datetime: 2023-01-31T03, hours: 2, num_missing_hours_tol: 1}",
    ),
    "hours": (
        "train_data.inputs=null",
        "train_data.explicit_datetime_inputs={data_root: '${data_root}/hours',"
        " end_datetime: 2023-01-31T02, hours: 2, num_missing_hours_tol: 1}",
    ),
    "damaged": (
        "train_data.inputs=[${data_root}/train/part-0.parquet,${data_root}/damaged.parquet]",
        "train_data.ignore_data_errors=true",
        "train_data.ignored_rows_limit=0.5",
    ),
    "rectified": (
        "+train_data.preprocess.rectify={_target_: recap.data.preprocess.RectifyLabels,"
        " served_timestamp_field: served, impressed_timestamp_field: shown,"
        " label_to_engaged_timestamp_field: {like: late},"
        " label_rectification_window_in_hours: 3.0}",
    ),
    "extracted": (
        "+train_data.preprocess.extract={_target_: recap.data.preprocess.ExtractFeatures,"
        " extract_feature_table: [{name: one, source_tensor: discrete, index: 0}]}",
        "model.inputs.featurization.feature_names_to_concat=[one]",
    ),
    "downcast": (
        "+train_data.preprocess.narrow={_target_: recap.data.preprocess.Downcast,"
        " features: {continuous: float16}}",
    ),
    "downsampled": (
        "+train_data.preprocess.negatives={_target_: recap.data.preprocess.DownsampleNegatives,"
        " batch_multiplier: 2, engagements_list: [like], num_engagements: 3}",
    ),
    "masked": ("+train_data.seg_dense_schema.mask_mantissa_features={continuous: 20}",),
    "adamw": ("optimizer=adamw",),
    "constant": ("schedule=constant",),
    "cosine": (
        "schedule=linear_ramp_to_cosine",
        "schedule.curve.num_ramp_steps=1",
        "schedule.curve.final_num_steps=8",
    ),
    "piecewise": (
        "schedule=piecewise_constant",
        "schedule.curve={learning_rate_boundaries: [1], learning_rate_values: [0.01, 0.02]}",
        "~schedule.towers.reply",
    ),
    "single": ("schedule=single_task", "schedule.curve.num_ramp_steps=2"),
    "truncated": (
        "+train_data.preprocess.cut={_target_: recap.data.preprocess.TruncateAndSlice,"
        " continuous_feature_truncation: 3, binary_feature_truncation: 2,"
        " continuous_feature_mask_path: null, binary_feature_mask_path: null}",
    ),
}

CURVE = "optimizer.multi_task_learning_rates.backbone_learning_rate"
SCHEMA = "train_data.seg_dense_schema"
FEATURES = "model.inputs.featurization"
TABLE = "model.inputs.embeddings.tables.video"
POSITION = "model.inputs.position_debias"
SMALL = {"num_embeddings": 3, "embedding_dim": 2, "index": 2}
SGD = {"_target_": "torch.optim.SGD", "_partial_": True}
LOGS = {
    "_target_": "recap.model.featurization.Log1pAbs",
    "_partial_": True,
    "continuous_feature_names": ["e"],
    "feature_names_to_concat": [],
}
NORM = {"_target_": "recap.model.norm.BatchNorm", "affine": True, "momentum": 0.3}

CASES: list[tuple[str, str, Any]] = [
    ("tiny", "training.num_train_steps", 2),
    ("tiny", "training.num_eval_steps", 1),
    ("tiny", "training.checkpoint_every_n", 1),
    ("often", "training.checkpoint_max_to_keep", 1),
    ("tiny", "training.train_log_every_n", 2),
    ("tiny", "training.eval_log_every_n", 1),
    ("tiny", "training.initial_checkpoint_dir", "ROOT/earlier"),
    ("tiny", "training.gradient_accumulation", 2),
    ("tiny", "training.gradient_clip_norm", 1e-3),
    ("tiny", "training.loss_reduction", "max"),
    ("sampled", "training.sampling_correction", "calibration"),
    ("tiny", "training.precision", "bf16"),
    ("tiny", "training.compile", Refuses("reduce-overhead", "CUDA graphs are for GPUs")),
    ("tiny", "training.seed", 1),
    ("tiny", "training.objective", "valid/like/auroc"),
    ("tiny", "model.multi_task_type", "share_partial"),
    ("precomputed", "model.inputs", {"only": LOGS}),
    ("tiny", "model.tasks.reply.tower.layer_sizes", [4, 1]),
    ("tiny", "model.return_backbone", True),
    ("sliced", "model.stratifiers.first.index", 1),
    ("sliced", "model.stratifiers.first.value", 2),
    ("sliced", "model.stratifiers.first.feature_name", "binary"),
    ("sliced", "model.stratifiers", {}),
    ("tiny", "model.tasks.like.pos_weight", 2.0),
    ("tiny", "model.tasks.like.loss_weight", 2.0),
    ("tiny", "model.tasks.like.score_weight", 2.0),
    ("tiny", "model.tasks.like.initial_rate", 0.1),
    ("lines", "model.tasks.like.affine_map", None),
    ("lines", "model.tasks.like.affine_map.scale", 3.0),
    ("lines", "model.tasks.like.affine_map.bias", 0.6),
    ("tiny", "model.backbone.layer_sizes", [16, 4]),
    ("tiny", "model.backbone.batch_norm", NORM),
    ("tiny", "model.backbone.dropout", 0.5),
    ("tiny", "model.backbone.final_layer_activation", False),
    ("tiny", "model.backbone.init", "fan_in_uniform"),
    ("mask_net", "model.backbone.use_parallel", False),
    ("mask_net", "model.backbone.mlp", None),
    ("mask_net", "model.backbone.mask_blocks.0.output_size", 7),
    ("mask_net", "model.backbone.mask_blocks.0.aggregation_size", 4),
    ("mask_net", "model.backbone.mask_blocks.1.reduction_factor", 0.8),
    ("mask_net", "model.backbone.mask_blocks.1.input_layer_norm", True),
    ("dcn", "model.backbone.poly_degree", 3),
    ("dcn", "model.backbone.projection_dim", 2),
    ("dcn", "model.backbone.parallel_mlp", None),
    ("dcn", "model.backbone.use_parallel", False),
    ("dcn", "model.backbone.output_mlp", None),
    ("dlrm", "model.backbone.bottom_mlp.layer_sizes", [3]),
    ("dlrm", "model.backbone.top_mlp.layer_sizes", [5]),
    ("tiny", f"{FEATURES}.continuous_feature_names", ["e"]),
    ("tiny", f"{FEATURES}.feature_names_to_concat", []),
    ("tiny", f"{FEATURES}.batch_norm_config", None),
    ("tiny", f"{FEATURES}.batch_norm_config.affine", False),
    ("tiny", f"{FEATURES}.batch_norm_config.momentum", 0.5),
    ("tiny", f"{FEATURES}.clip_magnitude", 0.5),
    ("tiny", f"{FEATURES}.layer_norm_config", None),
    ("tiny", f"{FEATURES}.layer_norm_config.epsilon", 0.1),
    ("tiny", f"{FEATURES}.layer_norm_config.center", False),
    ("tiny", f"{FEATURES}.layer_norm_config.scale", False),
    ("log1p_abs", f"{FEATURES}.continuous_feature_names", ["e"]),
    ("log1p_abs", f"{FEATURES}.feature_names_to_concat", []),
    ("clip_log1p_abs", f"{FEATURES}.continuous_feature_names", ["e"]),
    ("clip_log1p_abs", f"{FEATURES}.feature_names_to_concat", []),
    ("clip_log1p_abs", f"{FEATURES}.clip_magnitude", 0.2),
    ("z_score_log", f"{FEATURES}.continuous_feature_names", ["e"]),
    ("z_score_log", f"{FEATURES}.feature_names_to_concat", []),
    ("z_score_log", f"{FEATURES}.clip_magnitude", 0.2),
    ("z_score_log", f"{FEATURES}.statistics_path", "ROOT/others"),
    ("z_score_log", f"{FEATURES}.batch_norm_config", NORM),
    ("small", "model.inputs.small_embeddings.tables.a.num_embeddings", 2),
    ("small", "model.inputs.small_embeddings.tables.a.embedding_dim", 3),
    ("small", "model.inputs.small_embeddings.tables.a.index", 1),
    ("small", "model.inputs.small_embeddings.tables.a.init_std", 1.0),
    ("small", "model.inputs.small_embeddings.tables", {"b": SMALL}),
    ("small", "model.inputs.small_embeddings.feature_name", "binary"),
    ("position", f"{POSITION}.position_feature_index", 1),
    ("position", f"{POSITION}.feature_name", "binary"),
    ("position", f"{POSITION}.max_position", 1),
    ("position", f"{POSITION}.num_dims", 3),
    ("position", f"{POSITION}.drop_probability", 0.9),
    ("position", f"{POSITION}.first_position", 1),
    ("position", f"{POSITION}.init_std", 1.0),
    ("precomputed", "model.inputs.precomputed.feature_names", ["e"]),
    ("rates", "model.inputs.rates.keys", ["tag", "day"]),
    ("rates", "model.inputs.rates.fold", "video"),
    ("rates", "model.inputs.rates.tasks", ["like"]),
    ("rates", "model.inputs.rates.prior_strength", 3.0),
    ("rates", "model.inputs.rates.batch_norm_config", NORM),
    ("rates", "model.inputs.rates.clip_magnitude", 0.1),
    ("tags", "model.inputs.embeddings.tables", {"video": {"embedding_dim": 2}}),
    ("tiny", "model.inputs.embeddings.tables_to_log", ["video"]),
    ("tiny", f"{TABLE}.pretrained", "ROOT/video.npy"),
    ("trained", f"{TABLE}.trainable", False),
    ("tiny", f"{TABLE}.embedding_dim", 3),
    ("tags", "model.inputs.embeddings.tables.tag.features", ["video"]),
    ("tags", "model.inputs.embeddings.tables.tag.pooling", "mean"),
    ("tiny", f"{TABLE}.init_std", 0.5),
    ("tiny", f"{TABLE}.id_dropout", 0.9),
    ("tiny", f"{TABLE}.dropout", 0.9),
    ("tiny", "train_data.inputs", "ROOT/train/part-0.parquet"),
    ("tiny", "validation_data.valid.inputs", "ROOT/train/part-0.parquet"),
    ("days", "train_data.explicit_date_inputs.data_root", Refuses("/nowhere", "/nowhere")),
    ("days", "train_data.explicit_date_inputs.end_date", "2023-01-30"),
    ("days", "train_data.explicit_date_inputs.days", 2),
    (
        "missing day",
        "train_data.explicit_date_inputs.num_missing_days_tol",
        Refuses(0, "2023/01/29"),
    ),
    ("hours", "train_data.explicit_datetime_inputs.data_root", Refuses("/nowhere", "/nowhere")),
    ("hours", "train_data.explicit_datetime_inputs.end_datetime", "2023-01-31T01"),
    ("hours", "train_data.explicit_datetime_inputs.hours", 1),
    (
        "missing hour",
        "train_data.explicit_datetime_inputs.num_missing_hours_tol",
        Refuses(0, "2023/01/31/03"),
    ),
    ("damaged", "train_data.ignore_data_errors", Refuses(False, "damaged.parquet, row group 0")),
    ("damaged", "train_data.ignored_rows_limit", Refuses(0.1, "damaged.parquet, row group 0")),
    ("tiny", "train_data.num_files_to_keep", 1),
    ("tiny", "train_data.file_batch_size", 1),
    ("tiny", "train_data.tasks", {"like": {"pos_downsampling_rate": 0.5}}),
    ("sampled", "train_data.tasks.like.pos_downsampling_rate", 0.5),
    ("sampled", "train_data.tasks.like.neg_downsampling_rate", 0.2),
    ("rectified", "train_data.preprocess.rectify.served_timestamp_field", "shown"),
    ("rectified", "train_data.preprocess.rectify.impressed_timestamp_field", "seen"),
    (
        "rectified",
        "train_data.preprocess.rectify.label_to_engaged_timestamp_field.like",
        "early",
    ),
    ("rectified", "train_data.preprocess.rectify.label_rectification_window_in_hours", 2.0),
    ("extracted", "train_data.preprocess.extract.extract_feature_table.0.index", 1),
    (
        "extracted",
        "train_data.preprocess.extract.extract_feature_table.0.source_tensor",
        "continuous",
    ),
    (
        "extracted",
        "train_data.preprocess.extract.extract_feature_table.0.name",
        Refuses("two", "one"),
    ),
    ("downcast", "train_data.preprocess.narrow.features", {"continuous": "bfloat16"}),
    ("downsampled", "train_data.preprocess.negatives.batch_multiplier", 3),
    ("downsampled", "train_data.preprocess.negatives.engagements_list", ["reply"]),
    ("downsampled", "train_data.preprocess.negatives.num_engagements", Refuses(4, "3")),
    ("masked", f"{SCHEMA}.mask_mantissa_features.continuous", 5),
    ("tiny", "train_data.global_batch_size", 16),
    ("tiny", "train_data.examples_shuffle_buffer_size", 96),
    ("tiny", "train_data.interleave_num_parallel_calls", 1),
    ("tiny", "validation_data.valid.evaluation_tasks", ["like"]),
    ("tiny", f"{SCHEMA}.labels.like", "is_reply"),
    ("tiny", f"{SCHEMA}.dense.continuous.column", "e"),
    ("scalars", f"{SCHEMA}.dense.scalars.columns", ["c0", "c1"]),
    ("tiny", f"{SCHEMA}.dense.continuous.length", Refuses(5, "FixedSizeList|4")),
    ("tiny", f"{SCHEMA}.dense.binary.dtype", Refuses("bool", "holds int64, which bool does not")),
    ("tiny", f"{SCHEMA}.sparse.video.column", "day"),
    ("tags", f"{SCHEMA}.sparse.tag.num_buckets", 3),
    ("tiny", f"{SCHEMA}.sparse.video.vocabulary", 10),
    ("tags", f"{SCHEMA}.sparse.tag.separator", ";"),
    ("tiny", "optimizer.adam.beta_1", 0.5),
    ("tiny", "optimizer.adam.beta_2", 0.5),
    ("tiny", "optimizer.adam.epsilon", 0.1),
    ("adamw", "optimizer.algorithm.weight_decay", 0.5),
    ("tiny", "optimizer.table_settings", {"eps": 0.1}),
    ("tiny", "optimizer.table_algorithm", SGD),
    ("fused_adagrad", "optimizer.table_algorithm.eps", 1.0),
    ("fused_rowwise_adagrad", "optimizer.table_algorithm.eps", 1.0),
    *(
        ("fused_adam", f"optimizer.table_algorithm.{key}", Refuses(0.5, "works on cuda only"))
        for key in ("beta_1", "beta_2", "eps")
    ),
    (
        "fused_sgd",
        "training.sharding.sharding_types",
        Refuses(["data_parallel"], "updated in the backward pass"),
    ),
    (
        "fused_sgd",
        "training.sharding.compute_kernels",
        Refuses(["dense"], "updated in the backward pass"),
    ),
    ("fused_sgd", "training.sharding.ddr_gb", Refuses(1e-9, "finds no plan for 1 tables")),
    ("fused_sgd", "training.sharding.tables", Refuses({"vidio": {}}, "there is no such table")),
    ("tiny", "optimizer.multi_task_learning_rates.tower_learning_rates.like", 0.1),
    ("tiny", "optimizer.multi_task_learning_rates.backbone_learning_rate", 0.1),
    ("tiny", "optimizer.multi_task_learning_rates.table_learning_rates", {"video": 0.1}),
    ("single", "optimizer.single_task_learning_rate", 0.1),
    ("single", "optimizer.single_task_learning_rate.learning_rate", 0.1),
    ("constant", f"{CURVE}.learning_rate", 0.1),
    ("tiny", f"{CURVE}.learning_rate", 0.1),
    ("tiny", f"{CURVE}.num_ramp_steps", 2),
    ("cosine", f"{CURVE}.learning_rate", 0.1),
    ("cosine", f"{CURVE}.final_learning_rate", 0.005),
    ("cosine", f"{CURVE}.num_ramp_steps", 2),
    ("cosine", f"{CURVE}.final_num_steps", 9),
    ("piecewise", f"{CURVE}.learning_rate_boundaries", [2]),
    ("piecewise", f"{CURVE}.learning_rate_values", [0.01, 0.03]),
    ("truncated", "train_data.preprocess.cut.continuous_feature_truncation", 2),
    ("truncated", "train_data.preprocess.cut.binary_feature_truncation", 1),
    ("truncated", "train_data.preprocess.cut.continuous_feature_mask_path", "ROOT/mask-3.npy"),
    ("truncated", "train_data.preprocess.cut.binary_feature_mask_path", "ROOT/mask-2.npy"),
]

# Fields whose effect is not among what is measured here, and where it is seen.
ELSEWHERE = {
    "recap.training.Training.save_dir": "every run above lies where it says",
    "recap.training.Training.device": "one device here; tests/test_bad_input.py",
    "recap.training.Training.tf32": "products on GPUs only",
    "recap.training.Training.rank_timeout_in_s": "of several ranks; tests/test_ranks.py",
    **{
        f"recap.sharding.Sharding.{key}": "of several ranks; tests/model/test_sharding_plan.py"
        for key in (
            "min_partition",
            "hbm_gb",
            "ranks_per_node",
            "intra_node_gb_per_s",
            "inter_node_gb_per_s",
        )
    },
    "recap.training.Training.eval_timeout_in_s": "of the evaluator; tests/test_evaluator.py",
    "recap.data.parquet.ParquetData.prefetch_batches": "tests/data/test_prefetch.py",
    "recap.data.parquet.ParquetData.map_num_parallel_calls": "tests/data/test_read_ahead.py",
    "recap.data.parquet.ParquetData.cache": "the same batches, sooner; tests/data/test_cache.py",
    "recap.model.norm.LayerNorm.axis": "the only other axis is the same; tests/model",
}


@pytest.mark.parametrize(("context", "key", "value"), CASES, ids=lambda value: str(value)[:60])
def test_another_value_changes_what_is_measured(
    laboratory: Laboratory, context: str, key: str, value: Any
):
    if isinstance(value, Refuses):
        with pytest.raises((Refused, DataError), match=value.match):
            laboratory.measured(context, key, value.value)
    else:
        if isinstance(value, str):
            value = value.replace("ROOT", str(laboratory.tiny.root))
        assert laboratory.measured(context, key, value) != laboratory.measured(context)


def test_the_same_values_change_nothing(laboratory: Laboratory):
    first = laboratory.measured("tiny")
    laboratory._measured.clear()
    assert laboratory.measured("tiny") == first


def nodes(node: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every mapping with a ``_target_`` of recap, with its path."""
    if isinstance(node, list):
        node = dict(enumerate(node))
    if isinstance(node, dict):
        if str(node.get("_target_")).startswith("recap."):
            yield path, node
        for key, value in node.items():
            yield from nodes(value, f"{path}.{key}" if path else str(key))


def sections(cfg: DictConfig) -> dict[str, Any]:
    """What a run is made of, without the templates, with every row's ``_target_``."""
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    names = ("training", "model", "train_data", "validation_data", "optimizer")
    return {name: completed(plain[name]) for name in names}


def fields(target: str) -> set[str]:
    """``target.field`` for all that a config can give to a target."""
    given = ("schema", "num_slots", "in_features", "embedded")  # by the code
    parameters = inspect.signature(hydra.utils.get_object(target)).parameters
    return {f"{target}.{name}" for name in parameters if name not in given}


def test_no_field_is_forgotten(laboratory: Laboratory):
    covered = set(ELSEWHERE)
    known: set[str] = set()
    for context in CONTEXTS:
        parts = dict(nodes(sections(laboratory.config(context))))
        for node in parts.values():
            known |= fields(node["_target_"])
            # a field that holds other parts does what theirs do
            covered |= {f"{node['_target_']}.{key}" for key, value in node.items() if holds(value)}
        for key in (key for c, key, _ in CASES if c == context):
            parent, _, field = key.rpartition(".")
            while parent not in parts:  # the key of a row in a mapping
                parent, _, field = parent.rpartition(".")
            covered.add(f"{parts[parent]['_target_']}.{field}")
    assert sorted(known - covered) == []
    assert sorted(set(ELSEWHERE) - known) == []


def holds(value: Any) -> bool:
    """Whether there is a part in ``value``."""
    return next(nodes(value), None) is not None


def test_every_kind_of_part_stands_in_one_of_the_contexts(laboratory: Laboratory):
    seen = {
        node["_target_"]
        for context in CONTEXTS
        for _, node in nodes(sections(laboratory.config(context)))
    }
    named = {
        target
        for folder in ("model", "optimizer", "schedule", "task", "training", "data", "experiment")
        for path in (CONF / folder).rglob("*.yaml")
        for target in re.findall(r"_target_: (recap\.[\w.]+)", path.read_text())
    }
    assert sorted(named - seen) == []
