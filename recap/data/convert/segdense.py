"""The original's description of its files, segdense.json: features by name, kind and length."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recap.data.files import DataError

KINDS = {"bytes_list": 1, "float_list": 2, "int64_list": 3}  # their numbers in tf.train.Feature
ANY_LENGTH = -1


@dataclass(frozen=True)
class Feature:
    """One feature of every record: ``length`` values, or any number of them where it is -1."""

    name: str
    kind: str
    length: int


def read_segdense(path: str | Path) -> list[Feature]:
    """The features in the order of the file, ``{"schema": [row, …]}`` or the list alone.

    A row is ``{"feature_name": …, "dtype": "float_list" | "int64_list" | "bytes_list",
    "length": …}`` with a length of 1 or more, or -1 for any.

    Raises:
        DataError: what is not so, all of it at once.
    """
    try:
        content = json.loads(Path(path).read_text())
    except FileNotFoundError as error:
        raise DataError(f"seg_dense_schema={path}: no such file") from error
    except OSError as error:
        raise DataError(f"seg_dense_schema={path}: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"seg_dense_schema={path}: not JSON ({error})") from error
    rows = content.get("schema") if isinstance(content, dict) else content
    if not isinstance(rows, list) or not rows:
        raise DataError(
            f'seg_dense_schema={path}: must be {{"schema": [...]}} or a list, of rows like '
            '{"feature_name": "recap.engagement.is_favorited", "dtype": "int64_list", "length": 1}'
        )
    if faults := [f"seg_dense_schema={path}: {fault}" for fault in _faults(rows)]:
        raise DataError("\n".join(faults))
    features = [Feature(row["feature_name"], row["dtype"], row["length"]) for row in rows]
    return list(dict.fromkeys(features))


def _faults(rows: list[Any]) -> Iterator[str]:
    known: dict[str, tuple] = {}
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or not isinstance(row.get("feature_name"), str):
            yield f"row {number} names no feature_name: {row}"
            continue
        name, kind, length = row["feature_name"], row.get("dtype"), row.get("length")
        if kind not in KINDS:
            yield f"{name}: dtype={kind!r} is not one of {', '.join(KINDS)}"
        if type(length) is not int or (length < 1 and length != ANY_LENGTH):
            yield f"{name}: length={length!r} must be 1 or more, or -1 for any"
        if known.setdefault(name, (kind, length)) != (kind, length):
            yield f"{name}: stands twice, as {known[name]} and as {(kind, length)}"
