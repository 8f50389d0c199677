"""The original's configuration as data: its fields, their types, defaults and one_of groups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Value:
    """A number above ``above``, a bool, or a string, if said ``among`` some."""

    kind: type
    default: Any = None
    required: bool = False
    above: float | None = None
    among: tuple[str, ...] = ()


@dataclass(frozen=True)
class Many:
    """A list or, with ``by_name``, a mapping of things of one kind."""

    item: Any
    default: Any = None
    required: bool = False
    by_name: bool = False


@dataclass(frozen=True)
class Record:
    """A mapping of named fields; of each group in ``one_of`` exactly one must be given."""

    fields: Mapping[str, Any]
    required: bool = False
    one_of: tuple[tuple[str, ...], ...] = ()
    default: Any = None


_COUNT = Value(int, above=0)
_NEEDED = Value(int, required=True, above=0)
_FLAG, _SET_FLAG = Value(bool, False), Value(bool, True)
_TEXT, _NEEDED_TEXT = Value(str), Value(str, required=True)
_NAMES = Many(_TEXT, default=[])

BATCH_NORM = Record({"affine": _SET_FLAG, "momentum": Value(float, 0.1, above=0)})
LAYER_NORM = Record(
    {
        "epsilon": Value(float, 1e-3),
        "axis": Value(int, -1),
        "center": _SET_FLAG,
        "scale": _SET_FLAG,
    }
)
MLP = Record(
    {
        "layer_sizes": Many(_COUNT, required=True),
        "batch_norm": BATCH_NORM,
        "dropout": Record({"rate": Value(float, 0.1, above=0)}),
        "final_layer_activation": _FLAG,
    }
)
_NEEDED_MLP = Record(MLP.fields, required=True)
_WIDTHS = ("reduction_factor", "aggregation_size")
NETWORK = {
    "mlp_config": MLP,
    "dcn_config": Record(
        {
            "poly_degree": _NEEDED,
            "projection_dim": _COUNT,
            "parallel_mlp": MLP,
            "use_parallel": _SET_FLAG,
            "output_mlp": MLP,
        }
    ),
    "dlrm_config": Record({"bottom_mlp": _NEEDED_MLP, "top_mlp": _NEEDED_MLP}),
    "mask_net_config": Record(
        {
            "mask_blocks": Many(
                Record(
                    {
                        "output_size": Value(int, required=True),
                        "reduction_factor": Value(float, above=0),
                        "aggregation_size": _COUNT,
                        "input_layer_norm": Value(bool, required=True),
                    },
                    one_of=(_WIDTHS,),
                ),
                required=True,
            ),
            "mlp": MLP,
            "use_parallel": _FLAG,
        }
    ),
}
TASK = Record(
    {
        **NETWORK,
        "affine_map": Record({"scale": Value(float, 1.0), "bias": Value(float, 0.0)}),
        "pos_weight": Value(float, 1.0, above=0),
    },
    one_of=(tuple(NETWORK),),
)
_FEATURIZATIONS = {
    "log1p_abs_config": Record({}),
    "clip_log1p_abs_config": Record({"clip_magnitude": Value(float, 3e38)}),
    "z_score_log_config": Record(
        {
            "analysis_path": _NEEDED_TEXT,
            "schema_path": _TEXT,
            "clip_magnitude": Value(float, 5.0),
            "use_batch_norm": _FLAG,
            "use_renorm": _FLAG,
            "use_bq_stats": _FLAG,
        }
    ),
    "double_norm_log_config": Record(
        {
            "batch_norm_config": BATCH_NORM,
            "clip_magnitude": Value(float, 5.0),
            "layer_norm_config": LAYER_NORM,
        }
    ),
}
_STEPS = {"learning_rate": Value(float, required=True), "num_ramp_steps": _NEEDED}
CURVES = {
    "constant": Value(float),
    "linear_ramp_to_constant": Record(_STEPS),
    "linear_ramp_to_cosine": Record(
        {
            **_STEPS,
            "final_learning_rate": Value(float, required=True),
            "final_num_steps": _NEEDED,
        }
    ),
    "piecewise_constant": Record(
        {
            "learning_rate_boundaries": Many(Value(int), default=[]),
            "learning_rate_values": Many(Value(float), required=True),
        }
    ),
}
CURVE = Record(CURVES, one_of=(tuple(CURVES),))
_TABLE = {"name": _NEEDED_TEXT, "num_embeddings": _NEEDED, "embedding_dim": _NEEDED}
_INDEX = Value(int, required=True)
MODEL = Record(
    {
        "tasks": Many(TASK, required=True, by_name=True),
        "large_embeddings": Record(
            {
                "tables": Many(
                    Record(
                        {
                            **_TABLE,
                            "pretrained": Record(
                                {"emb_name": _NEEDED_TEXT, "embedding_snapshot_uri": _NEEDED_TEXT}
                            ),
                            "vocab": _TEXT,
                        }
                    ),
                    required=True,
                ),
                "optimizer": Record(
                    {"learning_rate": CURVE, "init_learning_rate": Value(float, required=True)},
                    required=True,
                ),
                "tables_to_log": Many(_TEXT),
            }
        ),
        "small_embeddings": Record(
            {"tables": Many(Record({**_TABLE, "index": _INDEX}), required=True)}
        ),
        "position_debias_config": Record(
            {
                "max_position": Value(int, 256),
                "num_dims": Value(int, 64, above=0),
                "drop_probability": Value(float, 0.5),
                "position_feature_index": _INDEX,
            }
        ),
        "featurization_config": Record(
            {**_FEATURIZATIONS, "feature_names_to_concat": Many(_TEXT, default=["binary"])},
            one_of=(tuple(_FEATURIZATIONS),),
            required=True,
        ),
        "multi_task_type": Value(
            str, "share_none", among=("share_none", "share_all", "share_partial")
        ),
        "backbone": TASK,
        "stratifiers": Many(
            Record({"name": _NEEDED_TEXT, "index": _INDEX, "value": _INDEX}), default=[]
        ),
    },
    required=True,
)
_DTYPES = ("bfloat16", "bool", "float32", "float16", "uint8")
PREPROCESS = Record(
    {
        "truncate_and_slice": Record(
            {
                "continuous_feature_truncation": _COUNT,
                "binary_feature_truncation": _COUNT,
                "continuous_feature_mask_path": _TEXT,
                "binary_feature_mask_path": _TEXT,
            }
        ),
        "downcast": Record({"features": Many(Value(str, among=_DTYPES), default={}, by_name=True)}),
        "rectify_labels": Record(
            {
                "label_rectification_window_in_hours": Value(float, 3.0),
                "served_timestamp_field": _NEEDED_TEXT,
                "impressed_timestamp_field": _NEEDED_TEXT,
                "label_to_engaged_timestamp_field": Many(_TEXT, required=True, by_name=True),
            }
        ),
        "extract_features": Record(
            {
                "extract_feature_table": Many(
                    Record({"name": _NEEDED_TEXT, "source_tensor": _NEEDED_TEXT, "index": _INDEX}),
                    default=[],
                )
            }
        ),
        "downsample_negatives": Record(
            {
                "batch_multiplier": Value(int, required=True, above=0),
                "engagements_list": _NAMES,
                "num_engagements": Value(int, required=True),
            }
        ),
    }
)
NAMED_BY = ("inputs", "explicit_datetime_inputs", "explicit_date_inputs")
DATA = Record(
    {
        "inputs": _TEXT,
        "explicit_datetime_inputs": Record(
            {
                "data_root": _NEEDED_TEXT,
                "end_datetime": _NEEDED_TEXT,
                "hours": _NEEDED,
                "num_missing_hours_tol": Value(int, 0),
            }
        ),
        "explicit_date_inputs": Record(
            {
                "data_root": _NEEDED_TEXT,
                "end_date": _NEEDED_TEXT,
                "days": _NEEDED,
                "num_missing_days_tol": Value(int, 0),
            }
        ),
        "global_batch_size": _NEEDED,
        "num_files_to_keep": _COUNT,
        "repeat_files": _SET_FLAG,
        "file_batch_size": Value(int, 16, above=0),
        "cache": _FLAG,
        "data_service_dispatcher": _TEXT,
        "ignore_data_errors": _FLAG,
        "dataset_service_compression": _TEXT,
        "examples_shuffle_buffer_size": Value(int, 1024),
        "map_num_parallel_calls": _COUNT,
        "interleave_num_parallel_calls": _COUNT,
        "seg_dense_schema": Record(
            {
                "schema_path": _NEEDED_TEXT,
                "features": _NAMES,
                "renamed_features": Many(_TEXT, default={}, by_name=True),
                "mask_mantissa_features": Many(Value(int), default={}, by_name=True),
            },
            required=True,
        ),
        "tasks": Many(
            Record(
                {
                    "pos_downsampling_rate": Value(float, 1.0),
                    "neg_downsampling_rate": Value(float, 1.0),
                }
            ),
            required=True,
            by_name=True,
        ),
        "evaluation_tasks": _NAMES,
        "preprocess": PREPROCESS,
        "sampler": Value(dict),
    },
    required=True,
    one_of=(NAMED_BY,),
)
TRAINING = Record(
    {
        "save_dir": _TEXT,  # /tmp/model there; here a folder of the run's own
        "num_train_steps": Value(int, 1_000_000, above=0),
        "initial_checkpoint_dir": _TEXT,
        "checkpoint_every_n": Value(int, 1000, above=0),
        "checkpoint_max_to_keep": _COUNT,
        "train_log_every_n": Value(int, 1000, above=0),
        "num_eval_steps": Value(int, 16384),
        "eval_log_every_n": Value(int, 5000, above=0),
        "eval_timeout_in_s": Value(float, 3600.0, above=0),
        "gradient_accumulation": Value(int),
    },
    default={},
)
OPTIMIZER = Record(
    {
        "multi_task_learning_rates": Record(
            {
                "tower_learning_rates": Many(CURVE, required=True, by_name=True),
                "backbone_learning_rate": CURVE,
            }
        ),
        "single_task_learning_rate": CURVE,
        "adam": Record(
            {
                "beta_1": Value(float, 0.9),
                "beta_2": Value(float, 0.999),
                "epsilon": Value(float, 1e-7),
            },
            required=True,
        ),
    },
    required=True,
    one_of=(("multi_task_learning_rates", "single_task_learning_rate"),),
)
ORIGINAL = Record(
    {
        "training": TRAINING,
        "model": MODEL,
        "train_data": DATA,
        "validation_data": Many(DATA, required=True, by_name=True),
        "optimizer": OPTIMIZER,
        "which_metrics": _TEXT,
    }
)
