"""Every further input of the model, named on the command line, trains."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tiny import Tiny, rows, write

from recap.compose import Refused
from recap.data.statistics.command import run
from recap.experiment import prepare

DISCRETE = (
    "+train_data.seg_dense_schema.dense.discrete="
    "{_target_: recap.schema.Dense, column: d, length: 3, dtype: int64}"
)
TWO_STEPS = "training.num_train_steps=2"
SMALL = (
    "model/inputs=small_embeddings",
    "+model.inputs.small_embeddings.tables.country={num_embeddings: 5, embedding_dim: 3, index: 2}",
)
POSITION = (
    "model/inputs=position_debias",
    "model.inputs.position_debias.position_feature_index=1",
    "model.inputs.position_debias.num_dims=4",
)
LARGE = (
    "model/inputs=large_embeddings",
    "~model.inputs.embeddings",
    "+model.inputs.large_embeddings.tables.video={embedding_dim: 2}",
)


@pytest.fixture
def data(tmp_path: Path) -> Tiny:
    """The tiny data with three discrete columns: zeros, positions with -1 for none, countries."""
    torch.set_num_threads(1)
    for name, seed in (("train", 0), ("valid", 1)):
        random = np.random.default_rng(seed)
        columns = [np.zeros(48, int), random.integers(-1, 400, 48), random.integers(0, 6, 48)]
        discrete = pa.array(np.stack(columns, axis=1).ravel())
        table = {**rows(48, seed=seed), "d": pa.FixedSizeListArray.from_arrays(discrete, 3)}
        write(tmp_path / name / "part-0.parquet", table)
    return Tiny(tmp_path)


def weights(tiny: Tiny, *overrides: str, run: str) -> dict[str, torch.Tensor]:
    """Of the ranker after training with the overrides."""
    tiny.train(TWO_STEPS, DISCRETE, *overrides, run=run)
    return tiny.state(run)["model"]


@pytest.mark.parametrize(
    ("overrides", "name", "shape"),
    [
        (SMALL, "inputs.small_embeddings.tables.country.weight", (5, 3)),
        (POSITION, "inputs.position_debias.embedding.weight", (257, 4)),
        (LARGE, "inputs.large_embeddings.collection.embedding_bags.video.weight", (21, 2)),
    ],
)
def test_a_learned_input_is_trained(data: Tiny, overrides, name, shape):
    started = prepare(data.config(TWO_STEPS, DISCRETE, *overrides)).ranker.state_dict()[name]
    trained = weights(data, *overrides, run="two")[name]
    assert trained.shape == shape
    assert not torch.equal(trained, started)


def test_inputs_are_chosen_together(data: Tiny):
    both = weights(
        data, *SMALL[1:], *POSITION[1:], "model/inputs=[position_debias,small_embeddings]", run="b"
    )
    assert both["inputs.position_debias.embedding.weight"].shape == (257, 4)
    assert both["inputs.small_embeddings.tables.country.weight"].shape == (5, 3)


def test_a_position_column_must_be_named(data: Tiny):
    with pytest.raises(Refused, match=r"model\.inputs\.position_debias\.position_feature_index"):
        prepare(data.config(DISCRETE, POSITION[0]))


def test_tables_must_be_named(data: Tiny):
    with pytest.raises(Refused, match=r"model\.inputs\.small_embeddings\.tables=\{\} must"):
        prepare(data.config(DISCRETE, SMALL[0]))


def test_z_scores_are_those_of_the_statistics_that_the_command_wrote(data: Tiny):
    run(data.config(config_name="statistics"))
    state = weights(data, "model/featurization=z_score_log", run="z")
    column = pq.read_table(data.root / "train/part-0.parquet").column("c")
    numbers = np.stack(column.to_numpy())
    logs = np.copysign(np.log1p(np.abs(numbers)), numbers).astype(np.float64)
    mean, inverse = (state[f"inputs.featurization.{name}"] for name in ("mean", "inverse_std"))
    np.testing.assert_allclose(mean, logs.mean(axis=0), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(1 / inverse, logs.std(axis=0), rtol=1e-5)


def test_z_scores_without_statistics_are_refused_with_the_way_out(data: Tiny):
    message = r"model\.inputs\.featurization\.statistics_path=.*python -m recap.data.statistics wri"
    with pytest.raises(Refused, match=message):
        prepare(data.config("model/featurization=z_score_log"))


def test_clipped_logarithms_train(data: Tiny):
    clip = "model.inputs.featurization.clip_magnitude"
    losses = []
    for magnitude in (5.0, 0.1):
        chosen = ("model/featurization=clip_log1p_abs", f"{clip}={magnitude}")
        weights(data, *chosen, run=str(magnitude))
        losses.append(data.logged(str(magnitude))["loss"][2])
    assert losses[0] != losses[1]


TABLE = "model.inputs.embeddings.tables.video"


def test_a_vocabulary_and_a_snapshot_in_parquet_files_meet_by_id(data: Tiny):
    folder = data.root
    pq.write_table(pa.table({"id": [3, 17, 900]}), folder / "videos.parquet")
    vectors = {"id": [17, 900, 5], "vector": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]}
    pq.write_table(pa.table(vectors), folder / "snapshot.parquet")
    given = (
        f"train_data.seg_dense_schema.sparse.video.vocabulary={folder}/videos.parquet",
        f"+{TABLE}.pretrained={folder}/snapshot.parquet",
        f"+{TABLE}.init_std=0.0",
    )
    name = "inputs.embeddings.collection.embedding_bags.video.weight"
    frozen = weights(data, *given, f"+{TABLE}.trainable=false", run="frozen")[name]
    assert frozen.tolist() == [[0.0, 0.0], [0.0, 0.0], [1.0, 2.0], [3.0, 4.0]]
    trained = weights(data, *given, run="trained")[name]
    # unknown ids, 3 and 17 are in the data, 900 is not
    assert [(a != b).any().item() for a, b in zip(trained, frozen, strict=True)] == [
        True,
        True,
        True,
        False,
    ]


def test_norms_are_logged_where_losses_are(data: Tiny):
    given = ("+model.inputs.embeddings.tables_to_log=[video]", "training.train_log_every_n=2")
    state = weights(data, *given, "training.num_train_steps=3", run="norms")
    logged = data.logged("norms")
    assert list(logged["embedding_norm/video"]) == [2, 3]
    weight = state["inputs.embeddings.collection.embedding_bags.video.weight"]
    assert logged["embedding_norm/video"][3] == pytest.approx(weight.norm().item())
    rows = weight.norm(dim=1).mean().item()
    assert logged["embedding_row_norm/video"][3] == pytest.approx(rows)


def test_norms_of_no_table_are_logged_unless_named(data: Tiny):
    weights(data, run="none")
    assert not [name for name in data.logged("none") if name.startswith("embedding")]


def test_what_the_inputs_settings_say_shows_in_the_first_losses(data: Tiny):
    changes = {
        "plain": (),
        "index": ("model.inputs.position_debias.position_feature_index=2",),
        "feature": ("model.inputs.position_debias.feature_name=binary",),
        "first": ("model.inputs.position_debias.first_position=200",),
        "last": ("model.inputs.position_debias.max_position=5",),
        "drop": ("model.inputs.position_debias.drop_probability=0.9",),
        "std": ("model.inputs.position_debias.init_std=1.0",),
    }
    losses = {}
    for name, change in changes.items():
        weights(data, *POSITION, *change, run=name)
        losses[name] = data.logged(name)["loss"][2]
    assert len(set(losses.values())) == len(changes)
