"""The original's sections train_data and validation_data as those of an experiment here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from recap.model.original_weights import task_name
from recap.original.fields import NAMED_BY
from recap.original.reading import DATA_ROOT, Told

Row = dict[str, Any]
Columns = Mapping[str, tuple[str, int]]  # column of a file → its dtype here and its length

# local_prod's, for configurations whose segdense.json is not at hand
KNOWN: Columns = {
    "home_recap_2022_cont__segdense_vals": ("float32", 6000),
    "home_recap_2022_binary__segdense_vals": ("int64", 512),
    "home_recap_2022_discrete__segdense_vals": ("int64", 320),
    **{
        f"{source}.timelines.{name}.{name}": ("float32", 200)
        for source, name in (
            ("original_author", "twhin_author_follow_embeddings"),
            ("user", "twhin_user_follow_embeddings"),
            ("user", "twhin_user_engagement_embeddings"),
        )
    },
    **{f"meta.{name}_id": ("int64", 1) for name in ("author", "user", "tweet")},
}
# an ending of TFRecords, or a glob of such endings
_TFRECORD = re.compile(r"(\.tfrecords?\*?)?(\.gz|\.gzip|\.g?\*)?$")
_STEPS = {
    "truncate_and_slice": "TruncateAndSlice",
    "downcast": "Downcast",
    "rectify_labels": "RectifyLabels",
    "extract_features": "ExtractFeatures",
    "downsample_negatives": "DownsampleNegatives",
}
_WITHOUT_COUNTERPART = {
    "repeat_files": "training repeats its files always, evaluation reads them once, here and there",
    "data_service_dispatcher": "there is no service of readers: a run reads its own files",
    "dataset_service_compression": "it is of that service, which is not used without a dispatcher",
    "sampler": "deprecated there; sample when the files are made and state the rates in tasks",
}


def data(config: Row, columns: Columns | None, told: Told) -> Row:
    """``data_root`` and the sections train_data and validation_data.

    ``columns`` are those of the original's segdense.json; None: local_prod's.
    """
    tables = (config["model"]["large_embeddings"] or {}).get("tables", [])
    train = config["train_data"]
    root = root_of(train)
    template = _section(train, "train_data", root, told)
    template["seg_dense_schema"] = _schema(train, tables, columns, told)
    partitions = {}
    for name, row in config["validation_data"].items():
        place = f"validation_data.{name}"
        own = _section(row, place, root, told)
        own = {key: value for key, value in own.items() if key not in NAMED_BY or value is not None}
        if row["seg_dense_schema"] != train["seg_dense_schema"] or set(row["tasks"]) != set(
            train["tasks"]
        ):
            schema = _schema(row, tables, columns, told)
            if schema != template["seg_dense_schema"]:
                own["seg_dense_schema"] = schema
        for step in template["preprocess"]:
            own["preprocess"].setdefault(step, None)
        if row["evaluation_tasks"]:
            own["evaluation_tasks"] = [task_name(task) for task in row["evaluation_tasks"]]
        never = {
            "tasks": {},
            "num_files_to_keep": None,
        }  # filled from train_data; nor is what names
        partitions[task_name(name)] = {
            key: value
            for key, value in own.items()
            if key in NAMED_BY or value != never.get(key, template.get(key))
        }
    return {
        "data_root": root,
        "train_data": {"_target_": "recap.data.parquet.ParquetData", **template},
        "validation_data": partitions,
    }


def parquet_name(path: str) -> str:
    """A path or glob of TFRecords as that of the files made of them."""
    return path if path.endswith(".parquet") else f"{_TFRECORD.sub('', path, count=1)}.parquet"


def our_name(name: str) -> str:
    """A feature's name as an input's name here: without dots."""
    return name.replace(".", "__")


def source_of(row: Row) -> str:
    """The glob of the TFRecords of a section."""
    for key in NAMED_BY[1:]:
        if dates := row[key]:
            return f"{dates['data_root'].rstrip('/')}/**/*.gz"
    return row["inputs"]


def root_of(train: Row) -> str:
    """The folder that the original's training files are in; what other paths are told from."""
    for key in NAMED_BY[1:]:
        if row := train[key]:
            return row["data_root"].rstrip("/")
    folder = re.split(r"[*?\[]", str(train["inputs"]))[0].rpartition("/")[0]
    return folder or "."


def _section(row: Row, place: str, root: str, told: Told) -> Row:
    """A data section without its schema."""
    for key, why in _WITHOUT_COUNTERPART.items():
        if row[key] not in (None, True):
            told.findings.append(f"{place}.{key}={row[key]}: no counterpart here: {why}")
    out: Row = dict.fromkeys(NAMED_BY)
    if row["inputs"] is not None:
        out["inputs"] = _below(root, parquet_name(row["inputs"]))
    for key in NAMED_BY[1:]:
        if (dates := row[key]) is not None:
            out[key] = {**dates, "data_root": _below(root, dates["data_root"].rstrip("/"))}
    lanes, batch = row["interleave_num_parallel_calls"], row["global_batch_size"]
    if lanes is not None and batch % lanes:
        fitting = max(n for n in range(1, lanes + 1) if batch % n == 0)
        told.findings.append(
            f"{place}.interleave_num_parallel_calls={lanes}: must divide the batch of {batch}; "
            f"here {fitting}"
        )
        lanes = fitting
    out |= {
        "global_batch_size": batch,
        "num_files_to_keep": row["num_files_to_keep"],
        "file_batch_size": row["file_batch_size"],
        "examples_shuffle_buffer_size": max(1, row["examples_shuffle_buffer_size"]),
        "interleave_num_parallel_calls": lanes,
        "prefetch_batches": 4,
        "evaluation_tasks": None,
    }
    out |= {
        "map_num_parallel_calls": row["map_num_parallel_calls"],
        "cache": f"{DATA_ROOT}/cache" if row["cache"] else None,  # there it is in memory
        "ignore_data_errors": row["ignore_data_errors"],
        "ignored_rows_limit": 0.01,
    }
    if row["ignore_data_errors"]:
        told.findings.append(
            f"{place}.ignore_data_errors: all of them are there, silently; here they are counted "
            "and named, and the run stops above ignored_rows_limit"
        )
    out["preprocess"] = _preprocess(row["preprocess"] or {}, place, told)
    rates = row["tasks"].items()
    out["tasks"] = {task_name(task): rate for task, rate in rates if set(rate.values()) != {1.0}}
    for task, rate in rates:
        for key, value in rate.items():
            if not 0 < value <= 1:
                told.faults.append(f"{place}.tasks.{task}.{key}={value}: must be in (0, 1]")
    return out


def _below(root: str, path: str) -> str:
    """``path`` by the key data_root where it lies in that folder."""
    if path == root:
        return DATA_ROOT
    if root == "." and not path.startswith("/"):
        return f"{DATA_ROOT}/{path}"
    return DATA_ROOT + path.removeprefix(root) if path.startswith(f"{root}/") else path


def _schema(row: Row, tables: list[Row], columns: Columns | None, told: Told) -> Row:
    """What the files hold, by the names that the original reads it by."""
    described = row["seg_dense_schema"]
    read = {our_name(name): column for name, column in described["renamed_features"].items()}
    read |= {our_name(name): name for name in described["features"] if name not in read.values()}
    sparse: Row = {}
    for table in tables:
        name = table["name"]
        column = read.pop(our_name(name), None)
        if column is None:
            column = name
            told.findings.append(
                f"model.large_embeddings.tables.{name}: the data name no such feature; here the "
                f"files must have a column {name} of ids"
            )
        node = {"_target_": "recap.schema.Sparse", "column": column}
        if table["vocab"]:
            sparse[name] = {**node, "vocabulary": table["vocab"]}
            told.findings.append(
                f"model.large_embeddings.tables.{name}.vocab: a folder there; here a Parquet file "
                "whose first column holds the ids in the order of their numbers"
            )
        else:
            sparse[name] = {**node, "num_buckets": table["num_embeddings"]}
    dense, missing = {}, []
    for name, column in read.items():
        dtype, length = (KNOWN if columns is None else columns).get(column, ("", 0))
        if not length:
            missing.append(column)
        elif length < 0 or dtype == "bytes":
            held = "bytes" if dtype == "bytes" else "any number of values"
            told.findings.append(
                f"train_data.seg_dense_schema: {column} holds {held}, which no input of the model "
                "reads; left out"
            )
        else:
            node = {"_target_": "recap.schema.Dense", "column": column}
            dense[name] = {**node, "length": length, "dtype": dtype}
    if missing:
        where = described["schema_path"]
        told.faults.append(
            f"train_data.seg_dense_schema: how long are {', '.join(missing)}? "
            + (
                f"schema_path={where} cannot be read here; give the file with --schema"
                if columns is None
                else "the file of the schema does not list them"
            )
        )
    labels = {task_name(task): task for task in row["tasks"]}
    bits = {our_name(name): low for name, low in described["mask_mantissa_features"].items()}
    node = {"_target_": "recap.schema.Schema", "mask_mantissa_features": bits}
    node |= {"dense": dense, "sparse": sparse, "labels": labels}
    return node


def _preprocess(steps: Row, place: str, told: Told) -> Row:
    """The steps in the order written."""
    out: Row = {}
    for name, row in steps.items():
        if row is None:
            continue
        row = dict(row)
        if name == "downcast":
            row["features"] = {our_name(key): to for key, to in row["features"].items()}
            for feature, to in list(row["features"].items()):
                if to == "float32":
                    del row["features"][feature]
                    told.findings.append(
                        f"{place}.preprocess.downcast.features.{feature}=float32: the original "
                        "stops at it, and nothing is narrowed; left out"
                    )
        elif name == "rectify_labels":
            for key in ("served_timestamp_field", "impressed_timestamp_field"):
                row[key] = our_name(row[key])
            row["label_to_engaged_timestamp_field"] = {
                task_name(label): our_name(field)
                for label, field in row["label_to_engaged_timestamp_field"].items()
            }
        elif name == "extract_features":
            row["extract_feature_table"] = [
                {"_target_": "recap.data.preprocess.ExtractedFeature"}
                | {**each, "name": our_name(each["name"])}
                | {"source_tensor": our_name(each["source_tensor"])}
                for each in row["extract_feature_table"]
            ]
        elif name == "downsample_negatives":
            row["engagements_list"] = [task_name(label) for label in row["engagements_list"]]
        out[name] = {"_target_": f"recap.data.preprocess.{_STEPS[name]}", **row}
    if {"rectify_labels", "downsample_negatives"} <= set(out):
        first = (
            "first"
            if list(out).index("downsample_negatives") < list(out).index("rectify_labels")
            else "second"
        )
        told.findings.append(
            f"{place}.preprocess: the original always downsamples negatives before it rectifies "
            f"labels; here they run in the order written, downsample_negatives {first}"
        )
    return out
