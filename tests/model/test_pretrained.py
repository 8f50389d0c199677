"""Tables that start from snapshots, frozen tables, and norms to log."""

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from recap.model import EmbeddingTable, EmbeddingTables
from recap.schema import Schema, Sparse

WEIGHT = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]]


def schema(folder: Path | None = None) -> Schema:
    return Schema(
        labels={},
        sparse={
            "video": Sparse(column="v", vocabulary=["a", "b", "c"]),  # slots 0 to 3
            "tab": Sparse(column="t", vocabulary=3),
            "author": Sparse(column="a", vocabulary=str(folder and folder / "authors.parquet")),
            "city": Sparse(column="c", num_buckets=4),
        },
    )


def table_from(path: Path, name: str = "video", **settings: Any) -> torch.Tensor:
    """The weight of a table [4, 2] that starts from ``path``."""
    table = EmbeddingTable(embedding_dim=2, pretrained=str(path), init_std=0.0, **settings)
    layer = EmbeddingTables(schema(path.parent), {"author": 4}, tables={name: table})
    return layer.part(name)


def vectors(ids: list, numbers: list, path: Path, kind: Any = None) -> Path:
    pq.write_table(pa.table({"id": ids, "vector": pa.array(numbers, kind)}), path)
    return path


@pytest.mark.parametrize("kind", [".npy", ".pt", "state dict"])
@pytest.mark.parametrize("name", ["video", "city"])
def test_a_table_starts_from_a_whole_weight(tmp_path, kind, name):
    path = tmp_path / f"snapshot{'.npy' if kind == '.npy' else '.pt'}"
    if kind == ".npy":
        np.save(path, np.array(WEIGHT))  # float64
    else:
        weight = torch.tensor(WEIGHT)
        torch.save(weight if kind == ".pt" else {"weight": weight}, path)
    weight = table_from(path, name)
    assert weight.tolist() == WEIGHT
    assert weight.requires_grad


@pytest.mark.parametrize("kind", [pa.list_(pa.float64()), pa.list_(pa.float32(), 2)])
def test_vectors_of_a_parquet_file_go_to_the_slots_of_their_ids(tmp_path, kind, caplog):
    path = vectors(["c", "x", "a"], [[5, 6], [0, 0], [3, 4]], tmp_path / "s.parquet", kind)
    with caplog.at_level(logging.INFO):
        assert table_from(path).tolist() == [[0, 0], [3, 4], [0, 0], [5, 6]]
    assert caplog.messages == [f"{path}: vectors of 2 of 3 ids"]


def test_ids_of_a_parquet_file_may_be_numbers_of_any_width_and_the_vocabulary_a_file(tmp_path):
    path = vectors(pa.array([2, 0], pa.int32()), [[5, 6], [3, 4]], tmp_path / "s.parquet")  # pyright: ignore
    assert table_from(path, "tab").tolist() == [[0, 0], [3, 4], [0, 0], [5, 6]]
    pq.write_table(pa.table({"id": pa.array([7, 2, 9], pa.uint16())}), tmp_path / "authors.parquet")
    assert table_from(path, "author").tolist() == [[0, 0], [0, 0], [5, 6], [0, 0]]


def test_a_table_that_is_not_trainable_is_in_no_group_and_needs_no_snapshot(tmp_path):
    np.save(tmp_path / "s.npy", np.array(WEIGHT))
    assert not table_from(tmp_path / "s.npy", trainable=False).requires_grad
    frozen = EmbeddingTable(embedding_dim=2, trainable=False)
    layer = EmbeddingTables(
        schema(), tables={"tab": EmbeddingTable(embedding_dim=2), "city": frozen}
    )
    assert [p.requires_grad for p in layer.parameters()] == [True, False]


@pytest.mark.parametrize(
    ("held", "name", "message"),
    [
        (
            np.zeros((5, 2)),
            "s.npy",
            r"its shape is \[5, 2\] and must be \[4, 2\], the table's slots",
        ),
        (np.zeros((4, 3)), "s.npy", r"its shape is \[4, 3\] and must be \[4, 2\]"),
        (np.array([["a"]]), "s.npy", "it must hold one array of numbers"),
        (np.full((4, 2), math.nan), "s.npy", "it holds a number that is not finite"),
        ({"a": torch.zeros(1), "b": torch.zeros(1)}, "s.pt", "a dict and must hold one tensor"),
        (None, "s.npy", "No such file"),
        (b"no snapshot", "s.pt", "not a file of torch.save|[Ii]nvalid"),
        (b"no snapshot", "s.npy", "pickled"),
        (b"no snapshot", "s.parquet", "Parquet"),
        (b"", "s.csv", r"a snapshot's name ends in one of \.pt, \.npy, \.parquet"),
    ],
)
def test_a_snapshot_that_does_not_fit_is_refused(tmp_path, held, name, message):
    path = tmp_path / name
    if isinstance(held, np.ndarray):
        np.save(path, held)
    elif isinstance(held, bytes):
        path.write_bytes(held)
    elif held is not None:
        torch.save(held, path)
    with pytest.raises(ValueError, match=rf"embedding table 'video': pretrained=.*{name}: .*") as e:
        table_from(path)
    assert e.match(message)


@pytest.mark.parametrize(
    ("ids", "numbers", "name", "message"),
    [
        (["a"], [[1.0, 2.0, 3.0]], "video", "its vectors have 3 numbers, embedding_dim is 2"),
        (["x"], [[1.0, 2.0]], "video", "none of its 1 ids is in the vocabulary of column 'v'"),
        (["a", "a"], [[1.0, 2.0]] * 2, "video", "an id stands there twice"),
        (["a"], [1.0], "video", "its second column is double and must be lists of numbers"),
        (["a"], [[1.0, 2.0]], "tab", "its ids are string, those of the vocabulary int64"),
        (["a"], [[1.0, 2.0]], "city", "ids of column 'c' are hashed, so that none can be found"),
        (["a"], [[1.0, None]], "video", "it holds a number that is not finite"),
    ],
)
def test_vectors_that_do_not_fit_are_refused(tmp_path, ids, numbers, name, message):
    path = vectors(ids, numbers, tmp_path / "s.parquet")
    with pytest.raises(ValueError, match=message):
        table_from(path, name)


def test_a_parquet_file_of_one_column_is_refused(tmp_path):
    pq.write_table(pa.table({"id": ["a"]}), tmp_path / "s.parquet")
    with pytest.raises(ValueError, match="it must have two columns, ids and vectors"):
        table_from(tmp_path / "s.parquet")


def test_faulty_snapshots_are_refused_together(tmp_path):
    table = EmbeddingTable(embedding_dim=2, pretrained=str(tmp_path / "none.npy"))
    with pytest.raises(ValueError, match=r"'video': pretrained=.*; embedding table 'tab': pretr"):
        EmbeddingTables(schema(), tables={"video": table, "tab": table})


def test_the_norms_of_the_tables_to_log_are_those_of_their_weights(tmp_path):
    np.save(tmp_path / "s.npy", np.array([[3.0, 4.0], [0.0, 0.0], [0.0, 12.0], [0.0, 0.0]]))
    from_file = EmbeddingTable(embedding_dim=2, pretrained=str(tmp_path / "s.npy"))
    tables = {"video": from_file, "tab": EmbeddingTable(embedding_dim=2)}
    layer = EmbeddingTables(schema(), tables=tables, tables_to_log=["video"])
    norms = {name: norm.item() for name, norm in layer.norms().items()}
    # sqrt(9 + 16 + 144), and (5 + 0 + 12 + 0) / 4
    assert norms == {"embedding_norm/video": 13.0, "embedding_row_norm/video": 4.25}
    assert EmbeddingTables(schema(), tables=tables).norms() == {}


def test_a_table_to_log_that_there_is_not_is_refused():
    tables = {"video": EmbeddingTable(embedding_dim=2)}
    with pytest.raises(ValueError, match="tables_to_log: no table is called 'vidio'; close: video"):
        EmbeddingTables(schema(), tables=tables, tables_to_log=["vidio"])
