import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from recap.loss import MultiTaskLoss

GOLDEN = Path(__file__).resolve().parents[1] / "../shared/golden"
needs_golden = pytest.mark.skipif(
    not GOLDEN.is_dir(), reason="../shared/golden, arrays of the reference system, is not here"
)

LOG2 = math.log(2)  # the cross entropy of the logit 0, whatever the label


def three_tasks(reduction: str, tasks: tuple[str, ...] = ("a", "b", "c")) -> Tensor:
    """The total of tasks whose losses are log 2 times 3, 1, 2 (and 4, if there are four)."""
    weights = torch.tensor([[3.0, 1.0, 2.0, 4.0]])[:, : len(tasks)]
    total, _ = MultiTaskLoss(tasks, reduction=reduction)(
        torch.zeros(1, len(tasks)), torch.zeros(1, len(tasks)), weights
    )
    return total / LOG2


def test_a_tasks_loss_is_the_batch_mean_of_the_weighted_cross_entropy():
    logits = torch.tensor([[0.0], [math.log(3)]])  # probabilities 1/2 and 3/4
    labels = torch.tensor([[1.0], [0.0]])
    weights = torch.tensor([[1.0], [5.0]])
    total, per_task = MultiTaskLoss(["like"])(logits, labels, weights)
    by_hand = (1 * math.log(2) + 5 * math.log(4)) / 2
    assert per_task.tolist() == [pytest.approx(by_hand)]
    assert total.item() == pytest.approx(by_hand)


def test_pos_weight_counts_the_positives_of_its_task_only():
    loss = MultiTaskLoss(["like", "reply"], pos_weight={"reply": 4.0})
    _, per_task = loss(torch.zeros(2, 2), torch.tensor([[1.0, 1.0], [0.0, 0.0]]))
    assert (per_task / LOG2).tolist() == pytest.approx([1.0, 2.5])


def test_task_weights_scale_the_total_and_not_the_reported_losses():
    loss = MultiTaskLoss(["like", "reply"], task_weights={"reply": 3.0})
    total, per_task = loss(torch.zeros(1, 2), torch.zeros(1, 2))
    assert (per_task / LOG2).tolist() == pytest.approx([1.0, 1.0])
    assert total.item() / LOG2 == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("reduction", "expected"), [("mean", 2), ("sum", 6), ("min", 1), ("max", 3), ("median", 2)]
)
def test_the_total_reduces_over_tasks(reduction: str, expected: float):
    assert three_tasks(reduction).item() == pytest.approx(expected)


def test_the_median_of_an_even_number_of_tasks_is_the_lower_of_the_middle_two():
    assert three_tasks("median", tasks=("a", "b", "c", "d")).item() == pytest.approx(2)


def test_bfloat16_logits_under_autocast_give_a_float32_loss():
    logits = torch.tensor([[0.5], [-1.25]], dtype=torch.bfloat16)  # both exact in bfloat16
    labels = torch.tensor([[1.0], [0.0]])
    with torch.autocast("cpu", torch.bfloat16):
        total, per_task = MultiTaskLoss(["like"])(logits, labels)
    exact, _ = MultiTaskLoss(["like"])(logits.float(), labels)
    assert (total.dtype, per_task.dtype) == (torch.float32, torch.float32)
    assert torch.equal(total, exact)


def test_double_logits_stay_double():
    total, _ = MultiTaskLoss(["like"])(torch.zeros(1, 1, dtype=torch.double), torch.ones(1, 1))
    assert total.dtype == torch.double
    assert total.item() == pytest.approx(LOG2, abs=1e-15)


def test_weights_of_positives_and_tasks_are_not_rounded_where_logits_are_double():
    loss = MultiTaskLoss(["like"], pos_weight={"like": 1.7}, task_weights={"like": 0.3})
    total, per_task = loss(torch.zeros(1, 1, dtype=torch.double), torch.ones(1, 1))
    assert per_task.item() == pytest.approx(1.7 * LOG2, rel=1e-15)
    assert total.item() == pytest.approx(0.3 * 1.7 * LOG2, rel=1e-15)
    assert loss(torch.zeros(1, 1), torch.ones(1, 1))[0].dtype == torch.float32


def test_the_gradient_of_a_logit_is_probability_minus_label_over_the_batch():
    logits = torch.tensor([[0.0], [math.log(3)]], requires_grad=True)
    MultiTaskLoss(["like"])(logits, torch.tensor([[1.0], [0.0]]))[0].backward()
    assert logits.grad is not None
    assert logits.grad.flatten().tolist() == pytest.approx([-0.25, 0.375])


def test_weights_are_not_in_the_checkpoint():
    assert MultiTaskLoss(["like"], pos_weight={"like": 2.0}).state_dict() == {}


def test_all_faults_of_the_settings_come_at_once():
    with pytest.raises(ValueError, match="reduction='avg'") as error:
        MultiTaskLoss(
            ["like"], pos_weight={"lick": 2.0}, task_weights={"like": -1.0}, reduction="avg"
        )
    assert str(error.value).splitlines() == [
        "pos_weight: no task 'lick'; tasks are like",
        "task_weights.like=-1.0 is not a finite number of 0 or more",
        "reduction='avg' is not one of mean, sum, min, max, median",
    ]


@needs_golden
@pytest.mark.parametrize("case", ["train", "eval", "train64", "eval64"])
def test_losses_are_the_references(case: str):
    index = json.loads((GOLDEN / "index.json").read_text())
    rows = index["files"]["model_parallel_share_all.npz"]["config"]["model"]["tasks"]
    arrays = np.load(GOLDEN / "model_parallel_share_all.npz")
    loss = MultiTaskLoss(
        index["tasks"], pos_weight={task: row["pos_weight"] for task, row in rows.items()}
    )
    total, per_task = loss(
        torch.from_numpy(arrays[f"{case}/logits"]),
        torch.from_numpy(arrays["batch0/labels"]),
        torch.from_numpy(arrays["batch0/weights"]),
    )
    rtol = 1e-12 if case.endswith("64") else 1e-6
    np.testing.assert_allclose(per_task.numpy(), arrays[f"{case}/task_losses"], rtol=rtol)
    np.testing.assert_allclose(total.numpy(), arrays[f"{case}/loss"], rtol=rtol)


def test_one_pass_over_all_tasks_gives_the_gradients_of_one_task_at_a_time():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(17, 3, generator=generator, requires_grad=True)
    labels = torch.randint(0, 2, (17, 3), generator=generator).float()
    weights = torch.rand(17, 3, generator=generator)
    loss = MultiTaskLoss(("a", "b", "c"), pos_weight={"b": 2.5})
    (ours,) = torch.autograd.grad(loss(logits, labels, weights)[0], logits)
    entropy = torch.nn.functional.binary_cross_entropy_with_logits
    exact = logits.detach().double().requires_grad_()
    alone = [
        entropy(
            exact[:, i],
            labels[:, i].double(),
            weights[:, i].double(),
            pos_weight=torch.tensor(positive),
        )
        for i, positive in enumerate((1.0, 2.5, 1.0))
    ]
    (theirs,) = torch.autograd.grad(torch.stack(alone).mean(), exact)
    torch.testing.assert_close(ours.double(), theirs, rtol=2e-6, atol=1e-12)
