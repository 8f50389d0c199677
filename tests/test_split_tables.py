"""Embedding tables that several ranks share: the run of one rank, saved and continued on others."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from ranks import run
from test_ranks import NO_DROPOUT, SGD
from tiny import Tiny

from recap.compose import Refused
from recap.experiment import prepare

TABLES = (
    "model.inputs.embeddings.tables.video.embedding_dim=4",
    "+model.inputs.embeddings.tables.video.pooling=mean",
    "+model.inputs.embeddings.tables.part="
    "{embedding_dim: 8, features: [part, again], id_dropout: 0.0}",
    "+model.inputs.embeddings.tables.still={features: [part], embedding_dim: 4, trainable: false}",
    "+model.inputs.embeddings.tables_to_log=[video,part,still]",
    "+train_data.seg_dense_schema.sparse.part={column: video_id, num_buckets: 7}",
    "+train_data.seg_dense_schema.sparse.again={column: is_like, num_buckets: 7}",
)
MIXED = (
    "+training.sharding.tables.video.sharding_types=[row_wise]",
    "+training.sharding.tables.part={sharding_types: [column_wise], min_partition: 4}",
    "+training.sharding.tables.still.sharding_types=[table_wise]",
)
PLAIN = (*SGD, *NO_DROPOUT, *TABLES, *MIXED)
FUSED = (*PLAIN, "optimizer/table_algorithm=fused_adagrad")


def steps(number: int, *overrides: str) -> tuple[str, ...]:
    return (*overrides, f"training.num_train_steps={number}", "training.eval_log_every_n=1000")


def assert_same(tiny: Tiny, one: str, other: str) -> None:
    first, second = tiny.logged(one), tiny.logged(other)
    norms = [name for name in first if name.startswith("embedding")]
    assert len(norms) == 6
    for name in ("loss", "loss/like", "loss/follow", "loss/reply", *norms):
        assert first[name] == pytest.approx(second[name], abs=1e-5), name
    assert {name for name in first if name.startswith("lr/")} >= {"lr/video", "lr/part"}


def test_two_ranks_that_split_tables_have_the_losses_of_one(tiny: Tiny):
    clipped = (*PLAIN, "training.gradient_clip_norm=0.5", "training.gradient_accumulation=2")
    said = run(tiny.command(*steps(50, *clipped), run="shared"), 2, tiny.root)
    tiny.train(*steps(50, *clipped), run="alone")
    assert len(tiny.logged("alone")["loss"]) == 50
    assert_same(tiny, "alone", "shared")
    assert tiny.logged("alone")["gradient_norm"] == pytest.approx(
        tiny.logged("shared")["gradient_norm"], abs=1e-5
    )
    plan = [
        "table video: row_wise, dense; rank 0: 11 × 4, rank 1: 10 × 4",
        "table part: column_wise, dense; rank 0: 7 × 4, rank 1: 7 × 4",
    ]
    kept = (tiny.root / "shared" / "sharding_plan.txt").read_text()
    for line in plan:
        assert line in said[0]
        assert line in kept
    told = json.loads((tiny.root / "shared" / "sharding_plan.json").read_text())
    assert told["still"]["sharding_type"] == "table_wise"
    assert told["video"]["parts"][1] == {
        "rank": 1,
        "first_row": 11,
        "first_column": 0,
        "rows": 10,
        "columns": 4,
    }
    evaluate = [sys.executable, "-m", "recap.evaluate", f"run={tiny.root / 'shared'}"]
    valid = f"+validation_data.again.inputs={tiny.root}/valid"
    assert "again" in run([*evaluate, valid], 1, tiny.root)[0]
    shared = tiny.logged("shared")
    assert shared["again/like/auroc"][50] == shared["valid/like/auroc"][50]


@pytest.mark.parametrize("settings", [PLAIN, FUSED], ids=["plain", "fused"])
def test_a_run_goes_on_with_two_ranks_and_again_with_one(tiny: Tiny, settings: tuple[str, ...]):
    tiny.train(*steps(9, *settings), run="alone")
    tiny.train(*steps(3, *settings), run="moved")
    run(tiny.command(*steps(6, *settings), run="moved"), 2, tiny.root)
    tiny.train(*steps(9, *settings), run="moved")
    assert_same(tiny, "alone", "moved")
    alone, moved = tiny.state("alone"), tiny.state("moved")
    assert alone["optimizer"].keys() == moved["optimizer"].keys()
    tables = [name for name in alone["model"] if "embedding_bags" in name]
    assert len(tables) == 3
    for name in tables:
        assert alone["model"][name].flatten().tolist() == pytest.approx(
            moved["model"][name].flatten().tolist(), abs=1e-6
        )
        for key, moment in alone["optimizer"].get(name, {}).items():
            assert moment.flatten().tolist() == pytest.approx(
                moved["optimizer"][name][key].flatten().tolist(), abs=1e-6
            )
    still = "inputs.embeddings.collection.embedding_bags.still.weight"
    assert still not in alone["optimizer"]
    built = prepare(tiny.config(*steps(9, *PLAIN), run="other")).ranker.state_dict()[still]
    assert moved["model"][still].tolist() == built.tolist()


@pytest.mark.parametrize(
    ("override", "match"),
    [
        ("training.gradient_accumulation=2", "gradient_accumulation=2: .* for each micro-batch"),
        (
            "training.gradient_clip_norm=1.0",
            "gradient_clip_norm=1.0: .* before their norm is known",
        ),
        ("optimizer/table_algorithm=fused_adam", "FusedAdam works on cuda only"),
        (
            "model.inputs.embeddings.tables.video.embedding_dim=2",
            "training.sharding.tables.video: embedding_dim=2 must be a multiple of 4",
        ),
        (
            "+training.sharding.tables.vidio={}",
            "training.sharding.tables.vidio: there is no such table; close: video",
        ),
        ("~model.inputs.embeddings", "table_algorithm: no embedding table is trained"),
    ],
)
def test_what_an_update_within_backward_cannot_do_is_refused(tiny: Tiny, override: str, match: str):
    dim = "model.inputs.embeddings.tables.video.embedding_dim=4"
    with pytest.raises(Refused, match=match):
        prepare(tiny.config(dim, "optimizer/table_algorithm=fused_sgd", override))


def test_a_model_without_tables_trains_on_two_ranks_without_torchrec(tiny: Tiny, tmp_path: Path):
    (tmp_path / "torchrec.py").write_text("raise AssertionError('torchrec was imported')")
    command = tiny.command("~model.inputs.embeddings", *steps(2))
    code = f"import runpy, sys; sys.path.insert(0, {str(tmp_path)!r}); sys.argv = {command[2:]!r}"
    code += "; runpy.run_module('recap.train', run_name='__main__', alter_sys=True)"
    run([sys.executable, "-c", code], 2, tiny.root)
