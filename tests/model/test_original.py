"""The ranker against numbers of the reference implementation (golden files; data only)."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from recap.batch import Batch
from recap.model import (
    MLP,
    AffineMap,
    BatchNorm,
    DoubleNormLog,
    HeavyRanker,
    LayerNorm,
    LayerNormedEmbeddings,
    MaskBlockConfig,
    MaskNet,
    Task,
)
from recap.model.original import from_original
from recap.schema import Dense, Schema

GOLDEN = Path(__file__).parents[3] / "shared" / "golden"
TASKS = ("is_favorited", "is_replied", "is_replied_reply_engaged_by_author")
EMBEDDINGS = ("user_embedding", "user_eng_embedding", "author_embedding")


@pytest.fixture(scope="module")
def golden():
    if not GOLDEN.exists():
        pytest.skip(f"the golden numbers are not at {GOLDEN}")
    conventions = json.loads((GOLDEN / "index.json").read_text())
    assert [task.removeprefix("recap.engagement.") for task in conventions["tasks"]] == list(TASKS)
    with np.load(GOLDEN / "model_parallel_share_all.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def under(golden, folder):
    start = f"{folder}/"
    return {name.removeprefix(start): a for name, a in golden.items() if name.startswith(start)}


@pytest.fixture
def model(golden):
    tower = partial(MLP, layer_sizes=[12, 6, 1], batch_norm=BatchNorm(affine=False, momentum=0.1))
    ranker = HeavyRanker(
        Schema(
            labels={task: f"recap.engagement.{task}" for task in TASKS},
            dense={
                "continuous": Dense(column="c", length=24),
                "binary": Dense(column="b", length=5, dtype="int64"),
                **{name: Dense(column=name, length=8) for name in EMBEDDINGS},
            },
        ),
        multi_task_type="share_all",
        inputs={
            "featurization": partial(
                DoubleNormLog,
                batch_norm_config=BatchNorm(affine=True, momentum=0.01),
                clip_magnitude=5.0,
                layer_norm_config=LayerNorm(epsilon=0.0),
            ),
            "embeddings": partial(LayerNormedEmbeddings, feature_names=EMBEDDINGS),
        },
        backbone=partial(
            MaskNet,
            mask_blocks=[
                MaskBlockConfig(output_size=16, reduction_factor=0.25),
                MaskBlockConfig(output_size=10, aggregation_size=12, input_layer_norm=True),
            ],
            mlp=partial(MLP, layer_sizes=[20], final_layer_activation=True),
            use_parallel=True,
        ),
        tasks={
            "is_favorited": Task(tower=tower),
            "is_replied": Task(tower=tower, pos_weight=2.5),
            "is_replied_reply_engaged_by_author": Task(
                tower=partial(MLP, layer_sizes=[7, 1]),
                pos_weight=0.5,
                affine_map=AffineMap(scale=1.7, bias=-0.4),
            ),
        },
    )
    ranker.load_state_dict(from_original(under(golden, "state")))
    return ranker


@pytest.fixture
def batch(golden):
    arrays = under(golden, "batch0")
    return Batch(
        dense={name: arrays[name] for name in ("continuous", "binary", *EMBEDDINGS)},
        sparse={},
        tasks=TASKS,
        labels=arrays["labels"].float(),
        weights=arrays["weights"],
    )


def task_losses(model, batch, logits):
    """Mean over examples of weight × cross entropy, [T]."""
    return F.binary_cross_entropy_with_logits(
        logits,
        batch.labels.to(logits.dtype),
        batch.weights.to(logits.dtype),
        pos_weight=torch.tensor([model.pos_weights[task] for task in TASKS], dtype=logits.dtype),
        reduction="none",
    ).mean(dim=0)


@pytest.mark.parametrize(
    ("folder", "dtype", "rtol"),
    [
        ("eval", torch.float32, 1e-5),
        ("train", torch.float32, 1e-5),
        ("eval64", torch.float64, 1e-12),
        ("train64", torch.float64, 1e-12),
    ],
)
def test_logits_probabilities_and_losses_are_the_references(
    golden, model, batch, folder, dtype, rtol
):
    model.to(dtype).train(folder.startswith("train"))
    logits = model(batch)
    expected = under(golden, folder)
    losses = task_losses(model, batch, logits)
    for ours, theirs in (
        (logits, expected["logits"]),
        (logits.sigmoid(), expected["probabilities"]),
        (losses, expected["task_losses"].to(dtype)),
        (losses.mean(), expected["loss"].to(dtype)),
    ):
        # Relative to the largest entry: a logit near zero is a difference of larger numbers.
        assert torch.max((ours - theirs).abs()) <= rtol * torch.max(theirs.abs())


@pytest.mark.parametrize(("folder", "training"), [("grad", True), ("grad_eval", False)])
def test_gradients_are_the_references(golden, model, batch, folder, training):
    model.train(training)
    task_losses(model, batch, model(batch)).mean().backward()
    expected = from_original(under(golden, folder))
    parameters = dict(model.named_parameters())
    assert parameters.keys() == expected.keys()
    largest = max(theirs.abs().max() for theirs in expected.values())
    for name, theirs in expected.items():
        ours = parameters[name].grad
        scale = max(theirs.abs().max(), 1e-3 * largest)
        assert torch.max((ours - theirs).abs()) <= 2e-5 * scale, name


def test_a_training_step_moves_the_running_statistics_as_the_reference_does(golden, model, batch):
    model.train()(batch)
    buffers = dict(model.named_buffers())
    for name, theirs in from_original(under(golden, "train_buffers")).items():
        torch.testing.assert_close(buffers[name], theirs, rtol=1e-5, atol=1e-6)


def test_a_weight_without_a_place_is_named():
    state = {"model._position_debias.weight": torch.zeros(1), "model._calibrators.a.ratio": None}
    with pytest.raises(ValueError, match=r"no place .* original: model\._position_debias\.weight$"):
        from_original(state)
