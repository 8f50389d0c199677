"""The ranker against numbers of the reference implementation (golden files; data only)."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from recap import schedule
from recap.batch import Batch
from recap.loss import MultiTaskLoss
from recap.model import LayerNormedEmbeddings
from recap.model.original import from_original
from recap.model.original_weights import (
    original_weights,
    renamed,
    sampling_ratios,
)
from recap.optimizer import (
    MultiTaskLearningRates,
    RecapAdamConfig,
    RecapOptimizerConfig,
    set_learning_rates,
)

GOLDEN = Path(__file__).parents[3] / "shared" / "golden"
TASKS = ("is_favorited", "is_replied", "is_replied_reply_engaged_by_author")
INPUTS = ("continuous", "binary", "user_embedding", "user_eng_embedding", "author_embedding")
CURVES = {
    "linear_ramp_to_constant": schedule.LinearRampToConstant,
    "linear_ramp_to_cosine": schedule.LinearRampToCosine,
    "piecewise_constant": schedule.PiecewiseConstant,
}


@pytest.fixture(scope="module")
def index():
    if not GOLDEN.exists():
        pytest.skip(f"the golden numbers are not at {GOLDEN}")
    return json.loads((GOLDEN / "index.json").read_text())["files"]["model_parallel_share_all.npz"]


@pytest.fixture(scope="module")
def golden(index):
    with np.load(GOLDEN / "model_parallel_share_all.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


def under(golden, folder):
    start = f"{folder}/"
    return {name.removeprefix(start): a for name, a in golden.items() if name.startswith(start)}


@pytest.fixture
def model(golden, index):
    return from_original(under(golden, "state"), index["config"])


def without_gradient(gradients):
    """Parameters whose gradient is rounding only: a bias that a batch norm takes out again.

    Adam makes full steps of that rounding, in torch's fused and unfused forms in other directions;
    none of it reaches the logits of a training step.
    """
    norms = {name: torch.linalg.vector_norm(gradient) for name, gradient in gradients.items()}
    return {name for name, norm in norms.items() if norm <= 1e-6 * max(norms.values())}


class BiasesShare:
    """What such biases have put into the running means of the batch norms behind them, so far."""

    def __init__(self, nothing):
        self.shares = dict.fromkeys(nothing, 0.0)

    def step(self, state):
        """Counts the biases in that a training step starts with."""
        self.shares = {name: 0.9 * b + 0.1 * state[name] for name, b in self.shares.items()}

    def taken_out(self, name, value):
        """A running mean without it; anything else as it is."""
        before = re.sub(r"(\d+)\.running_mean$", lambda n: f"{int(n[1]) - 1}.bias", name)
        return value - self.shares.get(before, 0.0)


def batch_of(golden, number):
    arrays = under(golden, f"batch{number}")
    return Batch(
        dense={name: arrays[name] for name in INPUTS},
        sparse={},
        tasks=TASKS,
        labels=arrays["labels"].float(),
        weights=arrays["weights"],
    )


def losses(model, batch, logits):
    """Total and per task, as the verbs compute them."""
    loss = MultiTaskLoss(model.tasks, pos_weight=model.pos_weights, reduction="mean")
    return loss(logits, batch.labels, batch.weights)


def distance(ours, theirs):
    """Euclidean norm of the difference, relative to that of theirs."""
    return (torch.linalg.vector_norm(ours - theirs) / torch.linalg.vector_norm(theirs)).item()


def test_tasks_widths_and_weights_of_positives_are_the_configurations(model):
    assert model.tasks == TASKS
    assert model.pos_weights == dict(zip(TASKS, (1.0, 2.5, 0.5), strict=True))
    assert model.in_features == 24 + 5 + 3 * 8
    assert model.input_names == set(INPUTS)


@pytest.mark.parametrize(
    ("folder", "dtype", "rtol"),
    [
        ("eval", torch.float32, 1e-5),
        ("train", torch.float32, 1e-5),
        ("eval64", torch.float64, 1e-12),
        ("train64", torch.float64, 1e-12),
    ],
)
def test_logits_probabilities_and_losses_are_the_references(golden, model, folder, dtype, rtol):
    batch = batch_of(golden, 0)
    model.to(dtype).train(folder.startswith("train"))
    outputs = model.outputs(batch)
    expected = under(golden, folder)
    total, per_task = losses(model, batch, outputs.logits)
    for ours, theirs in (
        (outputs.logits, expected["logits"]),
        (outputs.probabilities, expected["probabilities"]),
        (outputs.calibrated_probabilities, expected["calibrated_probabilities"]),
        (per_task, expected["task_losses"].to(dtype)),
        (total, expected["loss"].to(dtype)),
    ):
        assert ours.dtype == dtype
        # Relative to the largest entry: a logit near zero is a difference of larger numbers.
        assert torch.max((ours - theirs).abs()) <= rtol * torch.max(theirs.abs())


def test_ratios_follow_from_the_rates_where_the_weights_do_not_hold_them(golden, index):
    held = sampling_ratios(under(golden, "state"), index["config"])
    told = sampling_ratios({}, index["config"])
    assert list(told) == list(TASKS)
    assert told["is_favorited"] == 0.01 / 0.8387
    assert told == pytest.approx(held, rel=1e-7)
    without = {"model": index["config"]["model"]}
    assert sampling_ratios({}, without) == dict.fromkeys(TASKS, 1.0)


@pytest.mark.parametrize(("folder", "training"), [("grad", True), ("grad_eval", False)])
def test_gradients_are_the_references(golden, model, folder, training):
    batch = batch_of(golden, 0)
    model.train(training)
    losses(model, batch, model(batch))[0].backward()
    expected = renamed(under(golden, folder), model)
    parameters = dict(model.named_parameters())
    assert parameters.keys() == expected.keys()
    nothing = without_gradient(expected)
    assert len(nothing) == (4 if training else 0)
    assert without_gradient({name: p.grad for name, p in parameters.items()}) == nothing
    for name in expected.keys() - nothing:
        assert distance(parameters[name].grad, expected[name]) <= 1e-5, name


def test_a_training_step_moves_the_running_statistics_as_the_reference_does(golden, model):
    model.train()(batch_of(golden, 0))
    buffers = dict(model.named_buffers())
    expected = renamed(under(golden, "train_buffers"), model)
    assert len(expected) == 15
    for name, theirs in expected.items():
        torch.testing.assert_close(buffers[name], theirs, rtol=1e-5, atol=1e-6)


def curve(row):
    (kind, value), *others = [(k, v) for k, v in row.items() if v is not None]
    assert not others
    return value if kind == "constant" else CURVES[kind](**value)


def optimizer_of(model, config):
    rates = config["multi_task_learning_rates"]
    return RecapOptimizerConfig(
        multi_task_learning_rates=MultiTaskLearningRates(
            tower_learning_rates={
                name.removeprefix("recap.engagement."): curve(row)
                for name, row in rates["tower_learning_rates"].items()
            },
            backbone_learning_rate=curve(rates["backbone_learning_rate"]),
        ),
        adam=RecapAdamConfig(**config["adam"]),
    )(**model.parameters_by_kind())


def test_every_parameter_is_in_the_references_group(index, model):
    kinds = model.parameters_by_kind()
    ours = {**kinds["towers"], "backbone": kinds["backbone"]}
    theirs = {
        group.removeprefix("recap.engagement."): set(
            renamed(dict.fromkeys(names, torch.zeros(1)), model)
        )
        for group, names in index["group_params"].items()
    }
    assert {group: set(parameters) for group, parameters in ours.items()} == theirs


@pytest.mark.parametrize(("folder", "training"), [("train5", True), ("eval5", False)])
def test_five_updates_move_every_parameter_as_the_reference_does(
    golden, index, model, folder, training
):
    model.train(training)
    optimizer = optimizer_of(model, index["config"]["optimizer"])
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    nothing = without_gradient(renamed(under(golden, "grad"), model)) if training else set()
    expected_rates = golden[f"{folder}/lr"]
    share, theirs_share, after = BiasesShare(nothing), BiasesShare(nothing), start
    for step in range(5):
        share.step({name: tensor.clone() for name, tensor in model.state_dict().items()})
        theirs_share.step(after)
        rates = set_learning_rates(optimizer, step)
        names = [name.removeprefix("recap.engagement.") for name in index["lr_groups"]]
        # the reference hands them out in float64: equal to the last bit
        assert [rates[name] for name in names] == expected_rates[step].tolist()
        batch = batch_of(golden, step)
        total, _ = losses(model, batch, model(batch))
        theirs = golden[f"{folder}/loss"][step]
        assert total.item() == pytest.approx(theirs.item(), rel=1e-4)
        total.backward()
        optimizer.step()
        optimizer.zero_grad()
        after = renamed(under(golden, f"{folder}/after{step + 1}"), model)
        for name, theirs in after.items():
            ours = model.state_dict()[name]
            if name.endswith(("running_mean", "running_var")):
                ours, theirs = share.taken_out(name, ours), theirs_share.taken_out(name, theirs)
                torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
            elif name.endswith("num_batches_tracked"):
                assert ours == theirs
            elif step == 4 and name not in nothing:
                moved = torch.linalg.vector_norm(theirs - start[name])
                assert torch.linalg.vector_norm(ours - theirs) <= 1e-4 * moved, name


def test_weights_load_into_a_ranker_whose_inputs_have_other_names(golden, model):
    model.inputs = torch.nn.ModuleDict(
        {"featurization": model.inputs["featurization"], "users": model.inputs["embeddings"]}
    )
    weights = original_weights(under(golden, "state"), model)
    assert "inputs.users.layer_norms.author_embedding.weight" in weights
    model.load_state_dict(weights)


def test_weights_that_do_not_fit_are_listed_all_at_once(golden, model):
    state = under(golden, "state")
    state["model._position_debias.weight"] = torch.zeros(1)
    state["model._towers.recap__engagement__is_shared.layers.0.weight"] = torch.zeros(1)
    state["model._backbone._dense_layers.layers.0.bias"] = torch.zeros(21)
    state["model._backbone._mask_blocks.2._layer_norm.bias"] = torch.zeros(3)
    del state["model._user_embedding_layer_norm.bias"]
    with pytest.raises(ValueError, match="no place") as error:
        original_weights(state, model)
    assert str(error.value).splitlines() == [
        "model._position_debias.weight: no place for it here",
        "model._towers.recap__engagement__is_shared.layers.0.weight: no place for it here",
        "model._backbone._mask_blocks.2._layer_norm.bias: no such weight here "
        "(backbone.mask_blocks.2.layer_norm.bias)",
        "inputs.embeddings.layer_norms.user_embedding.bias: [8] here, nothing there",
        "model._backbone._dense_layers.layers.0.bias: [21] there, [20] here "
        "(backbone.mlp.layers.0.bias)",
    ]


def test_embeddings_in_another_order_than_the_originals_are_refused(golden, model):
    layer = model.inputs["embeddings"]
    assert isinstance(layer, LayerNormedEmbeddings)
    names = list(layer.layer_norms)[::-1]
    layer.layer_norms = torch.nn.ModuleDict({name: layer.layer_norms[name] for name in names})
    message = r"read continuous and binary columns, user_embedding, .*, author_embedding in this or"
    with pytest.raises(ValueError, match=message):
        original_weights(under(golden, "state"), model)
