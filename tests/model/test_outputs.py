"""What a ranker says of a batch: probabilities, calibrated ones, the score, the backbone."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from recap.batch import Batch
from recap.model import MLP, HeavyRanker, Log1pAbs, Task
from recap.schema import Dense, Schema

SCHEMA = Schema(
    labels={"like": "is_like", "report": "is_report"},
    dense={"continuous": Dense(column="c", length=3)},
)


class Says(nn.Module):
    """A tower whose logit is the same for every example."""

    def __init__(self, in_features: int, embedded: Any = (), *, logit: float) -> None:
        super().__init__()
        self.logit, self.out_features = logit, 1

    def forward(self, shared: Tensor) -> Tensor:
        return torch.full((len(shared), 1), self.logit)


def ranker(**settings: Any) -> HeavyRanker:
    chosen = {
        "multi_task_type": "share_all",
        "inputs": {"features": partial(Log1pAbs, feature_names_to_concat=[])},
        "backbone": partial(MLP, layer_sizes=[5], final_layer_activation=True),
        "tasks": {
            "like": Task(tower=partial(Says, logit=0.0), score_weight=2.0),
            "report": Task(tower=partial(Says, logit=-1.0), score_weight=-10.0),
        },
    }
    return HeavyRanker(SCHEMA, **{**chosen, **settings})


BATCH = Batch(
    dense={"continuous": torch.randn(4, 3)},
    sparse={},
    tasks=("like", "report"),
    labels=torch.zeros(4, 2),
)


def test_probabilities_are_those_of_the_logits_which_training_sees():
    model = ranker()
    outputs = model.outputs(BATCH)
    torch.testing.assert_close(outputs.logits, torch.tensor([[0.0, -1.0]] * 4))
    torch.testing.assert_close(outputs.logits, model(BATCH))
    torch.testing.assert_close(outputs.probabilities[0], torch.tensor([0.5, 0.26894142]))


def test_without_rates_nothing_is_calibrated():
    outputs = ranker().outputs(BATCH)
    torch.testing.assert_close(outputs.calibrated_probabilities, outputs.probabilities)


def test_a_calibrated_probability_undoes_the_sampling_of_its_task():
    # of 1000 impressions 10 are liked; with negatives kept at 0.01 a sample holds 10 of 19.9, and
    # a ranker that says p = 10 / 19.9 there should say 10 / 1000 of the impressions themselves
    p = 10 / 19.9
    logit = torch.tensor(p).logit().item()
    like = Task(tower=partial(Says, logit=logit), score_weight=2.0)
    model = ranker(tasks={"like": like, "report": Task(tower=partial(Says, logit=-1.0))})
    model.calibrate({"like": 0.01 / 1.0})
    outputs = model.outputs(BATCH)
    torch.testing.assert_close(outputs.probabilities[:, 0], torch.full((4,), p))
    torch.testing.assert_close(outputs.calibrated_probabilities[:, 0], torch.full((4,), 0.01))
    torch.testing.assert_close(
        outputs.calibrated_probabilities[:, 1], outputs.probabilities[:, 1]
    )  # a task without rates


def test_the_score_is_the_weighted_sum_of_calibrated_probabilities():
    model = ranker()
    torch.testing.assert_close(
        model.outputs(BATCH).score, torch.full((4,), 2.0 * 0.5 - 10.0 * 0.26894142)
    )
    model.calibrate({"like": 0.25})  # odds of 1 become 0.25, a probability of 0.2
    torch.testing.assert_close(
        model.outputs(BATCH).score, torch.full((4,), 2.0 * 0.2 - 10.0 * 0.26894142)
    )


def test_all_but_the_backbone_is_float32_under_bfloat16_autocast():
    model = ranker()
    exact = model.outputs(BATCH)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model.outputs(BATCH)
    for name in ("logits", "probabilities", "calibrated_probabilities", "score"):
        assert getattr(outputs, name).dtype == torch.float32
        # the towers' logits are exact in bfloat16, and nothing behind them is rounded to it
        assert torch.equal(getattr(outputs, name), getattr(exact, name))


def test_the_backbone_is_returned_if_asked_for():
    assert ranker().outputs(BATCH).backbone is None
    model = ranker(return_backbone=True)
    backbone = model.outputs(BATCH).backbone
    assert backbone is not None
    assert model.backbone is not None
    torch.testing.assert_close(backbone, model.backbone(model.inputs["features"](BATCH)))


def test_a_backbone_that_is_not_there_cannot_be_returned():
    with pytest.raises(ValueError, match=r"model\.return_backbone=true: there is no backbone"):
        ranker(return_backbone=True, backbone=None, multi_task_type="share_none")


def test_rates_are_not_part_of_a_checkpoint():
    model = ranker()
    model.calibrate({"like": 0.01})
    assert not {"calibration", "score_weights"} & set(model.state_dict())


def test_a_score_weight_is_a_finite_number():
    with pytest.raises(ValueError, match="score_weight=inf must be a finite number"):
        Task(tower=partial(Says, logit=0.0), score_weight=float("inf"))
