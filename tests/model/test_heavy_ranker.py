"""Composition of the ranker: what towers read, who learns at which rate, what is refused."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from recap.batch import Bag, Batch
from recap.model import (
    MLP,
    AffineMap,
    BatchNorm,
    DoubleNormLog,
    EmbeddingTable,
    EmbeddingTables,
    HeavyRanker,
    LayerNormedEmbeddings,
    Log1pAbs,
    MaskBlockConfig,
    MaskNet,
    Task,
)
from recap.schema import Dense, Schema, Sparse

SCHEMA = Schema(
    labels={"click": "is_click", "forward": "is_forward"},
    dense={
        "continuous": Dense(column="c", length=3),
        "binary": Dense(column="b", length=2, dtype="bool"),
    },
    sparse={"video_id": Sparse(column="v", vocabulary=9)},
)
INPUTS = {
    "featurization": DoubleNormLog,
    "ids": partial(EmbeddingTables, tables={"video_id": EmbeddingTable(embedding_dim=4)}),
}
BACKBONE = partial(MLP, layer_sizes=[8], final_layer_activation=True)
TOWER = partial(MLP, layer_sizes=[4, 1])
TASKS = {"click": Task(tower=TOWER), "forward": Task(tower=TOWER, affine_map=AffineMap(scale=2.0))}


def ranker(**settings) -> Any:
    chosen = {
        "multi_task_type": "share_all",
        "inputs": INPUTS,
        "backbone": BACKBONE,
        "tasks": TASKS,
    }
    return HeavyRanker(SCHEMA, **{**chosen, **settings})


def impressions(rows=4):
    torch.manual_seed(0)
    return Batch(
        dense={"continuous": torch.randn(rows, 3), "binary": torch.rand(rows, 2) > 0.5},
        sparse={"video_id": Bag(torch.arange(rows), torch.arange(rows + 1))},
        tasks=("click", "forward"),
        labels=torch.zeros(rows, 2),
    )


class Constant(nn.Module):
    """Gives the same numbers for every example, and keeps what it was given."""

    def __init__(self, in_features, embedded, values):
        super().__init__()
        self.embedded = embedded
        self.in_features, self.out_features = in_features, len(values)
        self.values = torch.tensor(values)

    def forward(self, seen):
        self.seen = seen
        return self.values.expand(len(seen), -1)


@pytest.mark.parametrize(
    ("multi_task_type", "backbone", "read_by_a_tower"),
    [
        ("share_all", partial(Constant, values=[7.0, 8.0]), [7.0, 8.0]),
        ("share_partial", partial(Constant, values=[7.0, 8.0]), [0.0, 1.0, 1.0, 7.0, 8.0]),
        ("share_none", None, [0.0, 1.0, 1.0]),
    ],
)
def test_what_a_tower_reads(multi_task_type, backbone, read_by_a_tower):
    schema = Schema(labels={"click": "c"}, dense={"x": Dense(column="x", length=3, dtype="int64")})
    model = HeavyRanker(
        schema,
        multi_task_type=multi_task_type,
        inputs={
            "features": partial(
                Log1pAbs, continuous_feature_names=["x"], feature_names_to_concat=[]
            )
        },
        backbone=backbone,
        tasks={"click": Task(tower=partial(Constant, values=[0.5]))},
    )
    x = torch.tensor([[0.0, 1.718281828, 1.718281828]])  # log(1 + x) is 0, 1, 1
    logits = model(Batch(dense={"x": x}, sparse={}, tasks=("click",), labels=torch.zeros(1, 1)))
    assert model.towers["click"].in_features == len(read_by_a_tower)
    torch.testing.assert_close(model.towers["click"].seen, torch.tensor([read_by_a_tower]))
    assert logits.tolist() == [[0.5]]


def test_inputs_are_concatenated_in_the_order_of_the_mapping():
    model = ranker(inputs={name: INPUTS[name] for name in ("ids", "featurization")}).eval()
    batch = impressions()
    features = torch.cat([model.inputs["ids"](batch), model.inputs["featurization"](batch)], dim=1)
    assert model.in_features == 4 + 5
    torch.testing.assert_close(
        model(batch)[:, 0], model.towers["click"](model.backbone(features))[:, 0]
    )


@pytest.mark.parametrize("multi_task_type", ["share_all", "share_partial", "share_none"])
def test_networks_are_told_where_the_embedding_vectors_lie(multi_task_type):
    schema = Schema(
        labels={"click": "is_click"},
        dense={"x": Dense(column="x", length=3), "user": Dense(column="u", length=2)},
        sparse={"a": Sparse(column="a", num_buckets=9), "b": Sparse(column="b", num_buckets=9)},
    )
    names = {"continuous_feature_names": ["x"], "feature_names_to_concat": []}
    table = EmbeddingTable(embedding_dim=4, features=["a", "b"])
    model: Any = HeavyRanker(
        schema,
        multi_task_type=multi_task_type,
        inputs={
            "user": partial(LayerNormedEmbeddings, feature_names=["user"]),
            "featurization": partial(Log1pAbs, **names),
            "ids": partial(EmbeddingTables, tables={"both": table}),
        },
        backbone=None if multi_task_type == "share_none" else partial(Constant, values=[7.0]),
        tasks={"click": Task(tower=partial(Constant, values=[0.5]))},
    )
    # user 2, featurization 3, then the table's vector of a and of b
    embedded = (slice(0, 2), slice(5, 9), slice(9, 13))
    assert model.in_features == 13
    assert model.backbone is None or model.backbone.embedded == embedded
    assert model.towers["click"].embedded == (() if multi_task_type == "share_all" else embedded)


def test_an_input_that_embedding_vectors_do_not_fill_is_refused():
    class Half(LayerNormedEmbeddings):
        def __init__(self, schema, num_slots):
            super().__init__(schema, feature_names=["continuous"])
            self.embedding_dims = [2]

    with pytest.raises(ValueError, match=r"inputs.half: Half has embedding_dims=\[2\], .*=3;"):
        ranker(inputs={"half": Half})


def test_logits_come_in_the_order_of_the_tasks():
    one_and_two = {
        "forward": Task(tower=partial(Constant, values=[1.0]), pos_weight=3.0),
        "click": Task(tower=partial(Constant, values=[2.0]), loss_weight=0.5),
    }
    model = ranker(tasks=one_and_two)
    assert model.tasks == ("forward", "click")
    assert model.pos_weights == {"forward": 3.0, "click": 1.0}
    assert model.loss_weights == {"forward": 1.0, "click": 0.5}
    assert model(impressions(rows=2)).tolist() == [[1.0, 2.0], [1.0, 2.0]]


def test_an_affine_map_starts_at_its_scale_and_bias():
    tower = partial(Constant, values=[3.0])
    model = ranker(tasks={"click": Task(tower=tower, affine_map=AffineMap(scale=1.7, bias=-0.4))})
    logits = model.eval()(impressions(rows=1))
    torch.testing.assert_close(logits, torch.tensor([[1.7 * 3.0 - 0.4]]))


def test_every_trainable_parameter_is_in_exactly_one_group():
    model = ranker()
    model.backbone.layers[0].bias.requires_grad_(False)
    kinds = model.parameters_by_kind()
    groups = {**kinds["towers"], **kinds["tables"], "backbone": kinds["backbone"]}
    assert {group: list(named) for group, named in groups.items()} == {
        "backbone": [
            "inputs.featurization.batch_norm.weight",
            "inputs.featurization.batch_norm.bias",
            "inputs.featurization.layer_norm.weight",
            "inputs.featurization.layer_norm.bias",
            "backbone.layers.0.weight",
        ],
        "video_id": ["inputs.ids.collection.embedding_bags.video_id.weight"],
        "click": [f"towers.click.layers.{layer}" for layer in _WEIGHTS],
        "forward": [
            *(f"towers.forward_.layers.{layer}" for layer in _WEIGHTS),
            "affine_maps.forward_.weight",
            "affine_maps.forward_.bias",
        ],
    }
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    grouped = [parameter for named in groups.values() for parameter in named.values()]
    assert sorted(map(id, grouped)) == sorted(map(id, trainable))


_WEIGHTS = ("0.weight", "0.bias", "2.weight", "2.bias")


def test_a_model_that_shares_nothing_has_no_backbone_group_without_shared_weights():
    model = ranker(multi_task_type="share_none", backbone=None, inputs={"ids": INPUTS["ids"]})
    kinds = model.parameters_by_kind()
    assert list(kinds["tables"]) == ["video_id"]
    assert kinds["backbone"] == {}


def test_the_model_says_which_inputs_it_reads():
    assert ranker().input_names == {"continuous", "binary", "video_id"}


class FirstColumn(nn.Module):
    """An input of somebody's own: the first number of each row."""

    reads, out_features = ("continuous",), 1

    def __init__(self, schema, num_slots):
        super().__init__()

    def forward(self, batch):
        return batch.dense["continuous"][:, :1]


def test_an_input_of_ones_own_says_what_it_reads():
    assert ranker(inputs={"first": FirstColumn}).input_names == {"continuous"}


def test_an_input_that_does_not_say_what_it_reads_is_refused():
    class Silent(FirstColumn):
        reads = ()

    message = r"model\.inputs\.first: Silent says of no input that it reads it; .* as `reads`"
    with pytest.raises(ValueError, match=message):
        ranker(inputs={"first": Silent})


def test_logits_are_float32_under_bfloat16_autocast():
    model, batch = ranker(), impressions()
    model.eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(batch)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, model(batch), rtol=0.05, atol=0.05)
    assert model.double()(batch).dtype == torch.float64


def test_local_prod_has_2776_inputs_and_48_million_parameters():
    schema = Schema(
        labels={f"task{i}": f"label{i}" for i in range(10)},
        dense={
            "continuous": Dense(column="c", length=2117),
            "binary": Dense(column="b", length=59, dtype="int8"),
            **{f"{who}_embedding": Dense(column=who, length=200) for who in _WHOSE},
        },
    )
    block = MaskBlockConfig(output_size=1024, aggregation_size=1024)
    tower = partial(MLP, layer_sizes=[256, 128, 1], batch_norm=BatchNorm(affine=False))
    with torch.device("meta"):
        model = HeavyRanker(
            schema,
            multi_task_type="share_all",
            inputs={
                "featurization": DoubleNormLog,
                "embeddings": partial(
                    LayerNormedEmbeddings, feature_names=[f"{who}_embedding" for who in _WHOSE]
                ),
            },
            backbone=partial(
                MaskNet,
                mask_blocks=[block] * 4,
                mlp=partial(MLP, layer_sizes=[2048], final_layer_activation=True),
            ),
            tasks={task: Task(tower=tower) for task in schema.labels},
        )
        batch = Batch(
            dense={name: torch.empty(128, dense.width) for name, dense in schema.dense.items()},
            sparse={},
            tasks=tuple(schema.labels),
            labels=torch.empty(128, 10),
        )
        assert model(batch).shape == (128, 10)
    assert model.in_features == 2776
    mask_block = 2 * 2776 * 1024 + 1024 + 2776 + 2776 * 1024 + 1024 + 2 * 1024
    one_tower = 2048 * 256 + 256 + 256 * 128 + 128 + 128 + 1
    norms = 2 * (2117 + 2176 + 600)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == norms + 4 * mask_block + 4096 * 2048 + 2048 + 10 * one_tower == 48_115_108


_WHOSE = ("user", "user_eng", "author")


def test_the_forward_pass_compiles_into_one_graph():
    model, batch = ranker().eval(), impressions()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(batch), model(batch))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"multi_task_type": "share_none"},
            "share_none has no backbone, and one is given; set model/backbone=none",
        ),
        (
            {"backbone": None},
            "share_all needs a backbone, and there is none; choose one, "
            "e.g. model/backbone=mask_net, or set multi_task_type to share_none",
        ),
        (
            {"multi_task_type": "share_partial", "backbone": None},
            "model.multi_task_type=share_partial needs a backbone",
        ),
        (
            {"multi_task_type": "share_some"},
            "'share_some' is not one of share_none, share_all, share_partial",
        ),
        ({"inputs": {}}, "model.inputs={} must name at least one input"),
        ({"tasks": {}}, "model.tasks={} must name at least one task"),
        ({"tasks": {"backbone": TASKS["click"]}}, "rename the task"),
        (
            {"tasks": {"recap.click": TASKS["click"]}},
            r"model.tasks.recap.click: name 'recap\.click' must not be empty nor hold a dot",
        ),
        (
            {"tasks": {"forward_": TASKS["click"]}},
            "model.tasks.forward_: name 'forward_' is taken by 'forward'; choose another",
        ),
        (
            {"tasks": {"click": Task(tower=BACKBONE)}},
            "model.tasks.click: the tower ends in 8 outputs and must end in 1",
        ),
        (
            {"backbone": lambda in_features, embedded: nn.Identity()},
            "model.backbone: Identity has no out_features",
        ),
        (
            {"inputs": {**INPUTS, "more_ids": INPUTS["ids"]}},
            "embedding table 'video_id' is in two inputs; rename one",
        ),
    ],
)
def test_a_faulty_setting_is_refused_with_the_way_out(settings, message):
    with pytest.raises(ValueError, match=message):
        ranker(**settings)


def test_faults_of_all_inputs_come_in_one_message():
    with pytest.raises(ValueError, match=r"model.inputs.a: .*\nmodel.inputs.b: ") as refusal:
        ranker(
            backbone=None,
            inputs={
                "a": partial(DoubleNormLog, feature_names_to_concat=["binaries"]),
                "b": partial(LayerNormedEmbeddings, feature_names=[]),
            },
        )
    assert "needs a backbone" in str(refusal.value)
    assert "dense input 'binaries' is not in the schema; close: binary" in str(refusal.value)


@pytest.mark.parametrize("pos_weight", [0, float("inf"), float("nan")])
def test_a_positive_weight_must_be_above_zero_and_finite(pos_weight):
    with pytest.raises(ValueError, match=f"pos_weight={pos_weight} must be above 0 and finite"):
        Task(tower=TOWER, pos_weight=pos_weight)


def test_an_affine_map_starts_at_finite_numbers():
    message = "affine_map: scale=nan must be a finite number; affine_map: bias=inf must be"
    with pytest.raises(ValueError, match=message):
        AffineMap(scale=float("nan"), bias=float("inf"))


def test_an_untrained_tower_predicts_its_initial_rate():
    tower = partial(MLP, layer_sizes=[4, 1], init="fan_in_uniform")
    model = ranker(tasks={"click": Task(tower=tower, initial_rate=0.02)})
    last = model.towers["click"].layers[-1]
    torch.testing.assert_close(last.bias.sigmoid(), torch.tensor([0.02]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"initial_rate": 1.0}, "initial_rate=1.0 must lie between 0 and 1"),
        ({"initial_rate": 0.5, "affine_map": AffineMap()}, "initial_rate and affine_map both say"),
        ({"loss_weight": -1.0}, "loss_weight=-1.0 must be 0 or more"),
        ({"loss_weight": float("inf")}, "loss_weight=inf must be 0 or more and finite"),
    ],
)
def test_a_tasks_start_and_weight_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        Task(tower=partial(MLP, layer_sizes=[1]), **settings)
