"""Every network as a backbone and as a tower, under every way of sharing."""

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from recap.batch import Bag, Batch
from recap.model import (
    DCN,
    DLRM,
    MLP,
    DoubleNormLog,
    EmbeddingTable,
    EmbeddingTables,
    HeavyRanker,
    LayerNormedEmbeddings,
    MaskBlockConfig,
    MaskNet,
    Task,
)
from recap.schema import Dense, Schema, Sparse

TASKS = ("click", "like")
SCHEMA = Schema(
    labels={task: f"is_{task}" for task in TASKS},
    dense={
        "continuous": Dense(column="c", length=3),
        "binary": Dense(column="b", length=2, dtype="bool"),
        "user": Dense(column="u", length=3),
    },
    sparse={"video_id": Sparse(column="v", vocabulary=9)},
)
INPUTS = {
    "featurization": DoubleNormLog,
    "user": partial(LayerNormedEmbeddings, feature_names=["user"]),
    "ids": partial(EmbeddingTables, tables={"video_id": EmbeddingTable(embedding_dim=4)}),
}
SHARING = ("share_all", "share_partial", "share_none")
BLOCKS = [
    MaskBlockConfig(output_size=6, aggregation_size=8),
    MaskBlockConfig(output_size=5, reduction_factor=0.8),
]


def networks(last: int) -> dict[str, Any]:
    """A builder of each kind that ends in ``last`` outputs."""
    top = partial(MLP, layer_sizes=[8, last])
    hidden = partial(MLP, layer_sizes=[7, 4], final_layer_activation=True)
    return {
        "mlp": top,
        "mask_net": partial(MaskNet, mask_blocks=BLOCKS, mlp=top),
        "serial_mask_net": partial(MaskNet, mask_blocks=BLOCKS, mlp=top, use_parallel=False),
        "dcn": partial(DCN, poly_degree=2, projection_dim=2, parallel_mlp=hidden, output_mlp=top),
        "dlrm": partial(DLRM, bottom_mlp=hidden, top_mlp=top),
    }


def ranker(sharing: str, backbone: str, tower: Any) -> Any:
    torch.manual_seed(0)
    towers = dict.fromkeys(TASKS, tower) if isinstance(tower, str) else tower
    return HeavyRanker(
        SCHEMA,
        multi_task_type=sharing,  # pyright: ignore[reportArgumentType]
        inputs=INPUTS,
        backbone=None if sharing == "share_none" else networks(10)[backbone],
        tasks={task: Task(tower=networks(1)[kind]) for task, kind in towers.items()},
    )


def batch(rows: int = 24) -> Batch:
    torch.manual_seed(1)
    return Batch(
        dense={
            "continuous": torch.randn(rows, 3),
            "binary": torch.rand(rows, 2) > 0.5,
            "user": torch.randn(rows, 3),
        },
        sparse={"video_id": Bag(torch.arange(rows) % 10, torch.arange(rows + 1))},
        tasks=TASKS,
        labels=(torch.rand(rows, 2) > 0.5).float(),
    )


COMBINATIONS = [
    (sharing, backbone, tower)
    for sharing in SHARING
    for backbone in (networks(1) if sharing != "share_none" else ["none"])
    for tower in networks(1)
]


@pytest.mark.parametrize(("sharing", "backbone", "tower"), COMBINATIONS)
def test_any_backbone_with_any_tower_gives_logits_and_finite_gradients(sharing, backbone, tower):
    model, data = ranker(sharing, backbone, tower), batch()
    logits = model(data)
    assert logits.shape == (24, 2)
    F.binary_cross_entropy_with_logits(logits, data.labels).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("kind", networks(1))
def test_every_network_learns_what_it_is_shown(kind):
    model, data = ranker("share_partial", kind, kind), batch(8)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    losses = []
    for _ in range(20):
        loss = F.binary_cross_entropy_with_logits(model(data), data.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("sharing", SHARING)
def test_tasks_have_towers_of_different_kinds(sharing):
    model = ranker(sharing, "dcn", {"click": "dlrm", "like": "mask_net"})
    assert isinstance(model.towers["click"], DLRM)
    assert isinstance(model.towers["like"], MaskNet)
    assert model(batch()).shape == (24, 2)


def test_a_dlrm_reads_the_vectors_of_the_features_and_the_backbone_as_other_columns():
    model = ranker("share_partial", "dlrm", "dlrm")
    # featurization 5, the user's vector 3, the video's 4, then the backbone's 10
    assert model.backbone.embedded == model.towers["click"].embedded == (slice(5, 8), slice(8, 12))
    assert model.backbone.others == (slice(0, 5),)
    assert model.towers["click"].others == (slice(0, 5), slice(12, 22))


@pytest.mark.parametrize("kind", networks(1))
def test_a_network_compiles_into_one_graph(kind):
    net = networks(1)[kind](12, (slice(5, 8), slice(8, 12)))
    features = torch.randn(4, 12)
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(features), net(features))


@pytest.mark.parametrize("kind", networks(1))
def test_a_network_runs_under_bfloat16_autocast(kind):
    model, data = ranker("share_partial", kind, kind).eval(), batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(data)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, model(data), rtol=0.1, atol=0.1)


@pytest.mark.parametrize("kind", networks(1))
def test_a_tower_of_any_kind_starts_at_its_initial_rate(kind):
    model: Any = HeavyRanker(
        SCHEMA,
        multi_task_type="share_none",
        inputs=INPUTS,
        backbone=None,
        tasks={"click": Task(tower=networks(1)[kind], initial_rate=0.02)},
    )
    last = [
        layer for layer in model.towers["click"].modules() if next(layer.children(), None) is None
    ][-1]
    with torch.no_grad():
        last.weight.zero_()
    torch.testing.assert_close(model(batch()).sigmoid(), torch.full((24, 1), 0.02))


@pytest.mark.parametrize(
    ("tower", "last"),
    [
        (partial(MLP, layer_sizes=[4, 1], final_layer_activation=True), "ReLU"),
        (lambda width, embedded: Single(width), "Single"),
    ],
)
def test_a_tower_without_a_last_bias_has_no_initial_rate(tower, last):
    with pytest.raises(ValueError, match=rf"model.tasks.click: initial_rate=.* ends in {last};"):
        HeavyRanker(
            SCHEMA,
            multi_task_type="share_none",
            inputs=INPUTS,
            backbone=None,
            tasks={"click": Task(tower=tower, initial_rate=0.02)},
        )


class Single(torch.nn.Module):
    """The mean of the columns."""

    out_features = 1

    def __init__(self, in_features: int) -> None:
        super().__init__()
        self.in_features = in_features
