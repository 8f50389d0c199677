"""Which part of a table goes where: what the planner is given, and what it is refused."""

import json

import pytest
import torch
from torch import nn

from recap.model import EmbeddingTable, EmbeddingTables, sharding_plan
from recap.model.sharded_tables import optimizer_class
from recap.model.sharding_plan import Room, as_json, as_text, planned
from recap.schema import Schema, Sparse
from recap.sharding import Sharding, TableSharding

SCHEMA = Schema(
    labels={"click": "is_click"},
    sparse={
        "video": Sparse(column="v", num_buckets=4000),
        "user": Sparse(column="u", num_buckets=1000),
    },
)


def ranker(dim=16, **user):
    tables = {
        "video": EmbeddingTable(embedding_dim=dim),
        "user": EmbeddingTable(embedding_dim=8, **user),
    }
    return nn.ModuleDict({"ids": EmbeddingTables(SCHEMA, tables=tables)})


def plan(settings=None, *, ranks=2, device="cpu", algorithm=None, model=None):
    room = Room(device=torch.device(device), world_size=ranks, batch_size=64)
    kind = None if algorithm is None else optimizer_class(algorithm)
    _, rows = planned(model or ranker(), settings or Sharding(), room, kind)
    return {row.table: row for row in rows}


def only(kind, **settings):
    return Sharding(sharding_types=[kind], **settings)


def test_a_plan_is_told_table_by_table():
    rows = plan(only("row_wise"))
    assert as_text(list(rows.values())).splitlines() == [
        "table video: row_wise, dense; rank 0: 2000 × 16, rank 1: 2000 × 16",
        "table user: row_wise, dense; rank 0: 500 × 8, rank 1: 500 × 8",
    ]
    told = json.loads(as_json(list(rows.values())))["user"]
    assert told["weight"] == "ids.collection.embedding_bags.user.weight"
    assert told["parts"][1]["first_row"] == 500
    whole = plan(only("data_parallel"))["user"]
    assert str(whole) == "table user: data_parallel, dense; whole on every rank (1000 × 8)"
    assert whole.numel == 8000


def test_a_table_may_differ():
    rows = plan(only("row_wise", tables={"user": TableSharding(sharding_types=["table_wise"])}))
    assert [row.sharding_type for row in rows.values()] == ["row_wise", "table_wise"]


def test_columns_are_split_no_finer_than_allowed():
    assert len(plan(only("column_wise", min_partition=8))["video"].parts) == 2
    assert len(plan(only("column_wise", min_partition=16))["video"].parts) == 1


def test_a_table_that_is_updated_in_backward_has_a_fused_kernel_and_a_frozen_one_has_not():
    rows = plan(algorithm="adagrad", model=ranker(trainable=False))
    assert rows["video"].compute_kernel == "fused"
    assert rows["video"].sharding_type != "data_parallel"
    assert rows["user"].compute_kernel == "dense"


def test_a_kernel_is_chosen_on_a_gpu():
    settings = Sharding(compute_kernels=["fused_uvm"], hbm_gb=1.0)
    rows = plan(settings, device="cuda", algorithm="adagrad")
    assert {row.compute_kernel for row in rows.values()} == {"fused_uvm"}


def test_a_table_stays_on_the_ranks_of_a_node():
    settings = only("table_row_wise", hbm_gb=1.0, ranks_per_node=2)
    parts = plan(settings, ranks=4, device="cuda")["video"].parts
    assert {part.rank for part in parts} in ({0, 1}, {2, 3})
    whole = only("table_row_wise", hbm_gb=1.0)
    assert len(plan(whole, ranks=4, device="cuda")["video"].parts) == 4


@pytest.mark.parametrize(
    ("settings", "device", "algorithm", "match"),
    [
        (only("table_row_wise"), "cpu", None, r"sharding_types=\['table_row_wise'\]: table video"),
        (Sharding(compute_kernels=["fused"]), "cpu", None, "leaves gradients to the optimizer"),
        (Sharding(compute_kernels=["dense"]), "cpu", "sgd", "is updated in the backward pass"),
        (only("data_parallel"), "cpu", "sgd", "there is column_wise, row_wise"),
        (only("column_wise"), "cpu", "rowwise_adagrad", "there is row_wise, table_wise"),
        (Sharding(ddr_gb=1e-6), "cpu", None, "ddr_gb=1e-06: torchrec finds no plan for 2 tables"),
        (Sharding(hbm_gb=1e-6), "cuda", None, "hbm_gb=1e-06: torchrec finds no plan for 2 tables"),
        (Sharding(tables={"vido": TableSharding()}), "cpu", None, "tables.vido: .*close: video"),
    ],
)
def test_what_cannot_be_planned_is_refused(settings, device, algorithm, match):
    with pytest.raises(ValueError, match=match):
        plan(settings, device=device, algorithm=algorithm)


def test_an_unplanned_table_is_refused(monkeypatch):
    original = sharding_plan._plan

    def forgetful(*args):
        found = original(*args)
        del found.plan["ids.collection"]["user"]
        return found

    monkeypatch.setattr(sharding_plan, "_plan", forgetful)
    with pytest.raises(ValueError, match=r"^tables.user: torchrec's plan leaves this table out$"):
        plan()


def test_the_speed_between_nodes_and_ids_an_example_has_are_weighed():
    split = ["row_wise", "data_parallel"]
    calls = []

    def cost(settings):
        from torchrec.distributed.planner import EmbeddingShardingPlanner

        original = EmbeddingShardingPlanner.plan

        def plan_and_tell(self, *args):
            found = original(self, *args)
            calls.append(sum(float(s.perf.total) for o in self._best_plan for s in o.shards))
            return found

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(EmbeddingShardingPlanner, "plan", plan_and_tell)
            plan(settings, ranks=4)
        return calls[-1]

    usual = Sharding(sharding_types=split, ranks_per_node=2)
    slow = Sharding(sharding_types=split, ranks_per_node=2, inter_node_gb_per_s=0.1)
    assert cost(slow) > cost(usual)
    near = Sharding(sharding_types=split)
    assert cost(Sharding(sharding_types=split, intra_node_gb_per_s=0.1)) > cost(near)
    many = {"video": TableSharding(pooling_factor=50.0)}
    assert cost(Sharding(sharding_types=split, tables=many)) > cost(near)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"sharding_types": ["rowwise"]}, "sharding_types: 'rowwise' is not one of data_parallel"),
        ({"compute_kernels": []}, r"compute_kernels=\[\] leaves no choice; null leaves all"),
        ({"min_partition": 6}, "min_partition=6 must be a multiple of 4"),
        ({"hbm_gb": 0.0}, "hbm_gb=0.0 must be above 0 and finite"),
        ({"ranks_per_node": 0}, "ranks_per_node=0 must be 1 or more"),
    ],
)
def test_settings_out_of_range_are_refused(settings, match):
    with pytest.raises(ValueError, match=match):
        Sharding(**settings)


def test_a_pooling_factor_is_above_0():
    with pytest.raises(ValueError, match=r"pooling_factor=0.0 must be above 0 and finite"):
        TableSharding(pooling_factor=0.0)
