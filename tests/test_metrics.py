import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss, roc_auc_score
from torch import Tensor

from recap.metrics import METRIC_NAMES, RankingMetrics, binned

GOLDEN = Path(__file__).resolve().parents[1] / "../shared/golden"
needs_golden = pytest.mark.skipif(
    not GOLDEN.is_dir(), reason="../shared/golden, arrays of the reference system, is not here"
)


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


def metrics_of(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> dict[str, float]:
    """Metrics of one task from [B, 1] columns in one update."""
    metrics = RankingMetrics(["like"])
    metrics.update(logits, labels, weights)
    return metrics.compute()["like"]


def exact_auroc(logits: Tensor, labels: Tensor) -> float:
    """The share of (positive, negative) pairs in order, ties one half, by sorting the negatives."""
    positives, negatives = logits[labels == 1].contiguous(), logits[labels == 0].sort().values
    below = torch.searchsorted(negatives, positives).double()
    below_or_tied = torch.searchsorted(negatives, positives, right=True).double()
    return ((below + below_or_tied).mean() / 2 / len(negatives)).item()


def test_metrics_of_four_examples_by_hand():
    # Probabilities 1/4, 1/2, 1/2, 3/4; of the four pairs two are in order, one is tied.
    found = metrics_of(column(-math.log(3), 0, 0, math.log(3)), column(0, 1, 0, 1))
    assert tuple(found) == METRIC_NAMES
    assert found["examples"] == 4
    assert found["positives"] == 2
    assert found["mean_label"] == 0.5
    assert found["mean_prediction"] == pytest.approx(0.5)
    assert found["calibration"] == pytest.approx(1.0)
    assert found["auroc"] == 0.875
    assert found["log_loss"] == pytest.approx((math.log(4 / 3) + math.log(2)) / 2)
    assert found["rce"] == pytest.approx(100 * (1 - found["log_loss"] / math.log(2)))
    assert found["nrce"] == pytest.approx(found["rce"])


def test_nrce_scales_predictions_to_the_mean_label():
    # Probability 1/4 for both, half of them positive: scaled by 2 it is the constant predictor.
    found = metrics_of(column(-math.log(3), -math.log(3)), column(0, 1))
    assert found["calibration"] == pytest.approx(0.5)
    assert found["rce"] < -10
    assert found["nrce"] == pytest.approx(0, abs=1e-9)


def test_a_weight_of_two_is_the_example_twice():
    logits, labels = column(-2, -1, 0.5, 1), column(0, 1, 0, 1)
    weighted = metrics_of(logits, labels, column(1, 2, 1, 2))
    twice = metrics_of(
        torch.cat((logits, logits[[1, 3]])), torch.cat((labels, labels[[1, 3]])), None
    )
    assert (weighted.pop("examples"), weighted.pop("positives")) == (4, 2)
    assert (twice.pop("examples"), twice.pop("positives")) == (6, 4)
    assert weighted == pytest.approx(twice)


def test_tasks_do_not_mix():
    logits = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
    labels = (logits.flip(1) > 0).float()
    metrics = RankingMetrics(["like", "reply", "share"])
    metrics.update(logits, labels)
    for task, (name, found) in enumerate(metrics.compute().items()):
        assert name == metrics.tasks[task]
        assert found == metrics_of(logits[:, [task]], labels[:, [task]])


def test_bfloat16_logits_are_taken_at_their_value():
    logits = torch.randn(1000, 1, generator=torch.Generator().manual_seed(0)).bfloat16()
    labels = (logits > 0.3).float()
    assert metrics_of(logits, labels) == metrics_of(logits.double(), labels.double())


def undefined(found: dict[str, float]) -> set[str]:
    return {name for name, value in found.items() if math.isnan(value)}


def test_positives_only_have_no_auroc_and_no_rce():
    found = metrics_of(column(-1, 1), column(1, 1))
    assert undefined(found) == {"auroc", "auroc_error_bound", "rce", "nrce"}


def test_negatives_only_have_no_calibration_either():
    found = metrics_of(column(-1, 1), column(0, 0))
    assert undefined(found) == {"auroc", "auroc_error_bound", "rce", "nrce", "calibration"}


def test_nothing_seen_is_nan_with_counts_of_zero():
    found = RankingMetrics(["like"]).compute()["like"]
    assert undefined(found) == found.keys() - {"examples", "positives"}
    assert (found["examples"], found["positives"]) == (0, 0)


def test_an_empty_batch_changes_nothing():
    metrics = RankingMetrics(["like"])
    metrics.update(torch.empty(0, 1), torch.empty(0, 1))
    assert not metrics.state.any()


def test_logits_that_are_not_finite_are_refused_by_task_from_then_on():
    metrics = RankingMetrics(["like", "reply"])
    metrics.update(torch.tensor([[0.0, 0.0], [0.0, math.nan]]), torch.zeros(2, 2))
    for _ in range(2):
        with pytest.raises(
            ValueError, match="task reply has logits that are not finite in 1 of 2 examples"
        ):
            metrics.compute()


def test_all_faults_of_what_was_given_come_at_once():
    metrics = RankingMetrics(["like"])
    metrics.update(column(math.inf, 0), column(0, 2), column(1, math.nan))
    metrics.update(column(1, 1, -math.inf, math.nan), column(0, 7, -1, 0.5))
    with pytest.raises(ValueError, match="task like") as error:
        metrics.compute()
    assert str(error.value).splitlines() == [
        "task like has logits that are not finite in 3 of 6 examples",
        "task like has labels other than 0 and 1 in 4 of 6 examples",
        "task like has weights that are not finite in 1 of 6 examples",
    ]


def test_faults_are_told_before_a_partition_ends(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("recap.metrics.ROWS_TOGETHER", 4)
    monkeypatch.setattr("recap.metrics.LOOK_EVERY", 3)
    metrics = RankingMetrics(["like"])
    metrics.update(column(math.nan), column(1))
    for _ in range(10):  # rows 2 to 11
        metrics.update(column(0), column(1))
    with pytest.raises(ValueError, match="not finite in 1 of 12 examples"):
        metrics.update(column(0), column(1))


def test_batches_are_counted_in_many_at_a_time(monkeypatch: pytest.MonkeyPatch):
    counted, count_in = [], RankingMetrics._count_in

    def note(metrics: RankingMetrics) -> None:
        counted.append(metrics._num_waiting)
        count_in(metrics)

    monkeypatch.setattr(RankingMetrics, "_count_in", note)
    metrics = RankingMetrics(["like"])
    for rows in [1000] * 6 + [5000]:
        metrics.update(torch.zeros(rows, 1), torch.zeros(rows, 1))
    assert metrics.compute()["like"]["examples"] == 11000
    assert counted == [5000, 6000, 0]


def test_weights_that_only_some_batches_have_are_one_in_the_others():
    metrics = RankingMetrics(["like"])
    metrics.update(column(0, 1), column(0, 1))
    metrics.update(column(2), column(1), column(3))
    both = metrics_of(column(0, 1, 2), column(0, 1, 1), column(1, 1, 3))
    assert metrics.compute()["like"] == both


@pytest.mark.parametrize("shape", [(3, 1), (2, 2), (2,)])
def test_labels_of_another_shape_are_refused(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"must all be \(examples, 1 tasks\)"):
        metrics_of(torch.zeros(2, 1), torch.zeros(shape))


def test_metrics_of_other_tasks_do_not_merge():
    with pytest.raises(ValueError, match="metrics of like cannot take those of reply"):
        RankingMetrics(["like"]).merge(RankingMetrics(["reply"]))


def draw(num_rows: int, *, rate: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Labels of ``rate`` and standard normal scores that are one higher for positives."""
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.rand(num_rows, generator=generator) < rate).float()
    return torch.randn(num_rows, generator=generator) + labels, labels


def test_values_are_scikit_learns():
    scores, labels = draw(100_000, rate=0.03)
    logits = (1.7 * scores - 4).double()
    weights = torch.rand(len(logits), generator=torch.Generator().manual_seed(1)).double()
    found = metrics_of(logits[:, None], labels[:, None], weights[:, None])
    predictions = logits.sigmoid()
    auroc = roc_auc_score(labels, logits, sample_weight=weights)
    assert found["auroc"] == pytest.approx(auroc, abs=1e-5)
    assert found["log_loss"] == pytest.approx(
        log_loss(labels, predictions, sample_weight=weights), rel=1e-12
    )
    assert found["calibration"] == pytest.approx(
        (np.average(predictions, weights=weights) / np.average(labels, weights=weights)), rel=1e-12
    )


# Each takes scores of draw to logits, on which the histogram could go wrong.
DISTRIBUTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "usual": lambda scores: 1.5 * scores - 4,
    "narrow band": lambda scores: 0.01 * scores - 4.6,
    "very narrow band": lambda scores: 0.001 * scores - 4.6,
    "narrow band around one half": lambda scores: 0.0003 * scores,
    "saturated": lambda scores: 30 * scores - 15,
    "strongly saturated": lambda scores: 500 * scores - 250,
    "bfloat16": lambda scores: (scores - 3).bfloat16().float(),
    "three values": lambda scores: scores.round().clamp(-1, 1),
    "constant": torch.zeros_like,
}


@pytest.mark.parametrize("rate", [1e-4, 0.05, 0.5])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_auroc_is_within_a_thousandth_and_its_bound_of_exact(name: str, rate: float):
    scores, labels = draw(200_000, rate=rate)
    logits = DISTRIBUTIONS[name](scores)
    found = metrics_of(logits[:, None], labels[:, None])
    error = abs(found["auroc"] - exact_auroc(logits, labels))
    assert error < 1e-3
    assert error <= found["auroc_error_bound"] + 1e-12


def test_auroc_at_ten_million_rows_with_a_thousand_positives():
    scores, labels = draw(10_000_000, rate=1e-4)
    logits = scores - 9.2
    metrics = RankingMetrics(["report"])
    for cut in range(0, len(logits), 500_000):
        rows = slice(cut, cut + 500_000)
        metrics.update(logits[rows, None], labels[rows, None])
    found = metrics.compute()["report"]
    assert found["auroc"] == pytest.approx(exact_auroc(logits, labels), abs=1e-5)
    assert found["auroc_error_bound"] < 1e-3


def test_the_exact_auroc_of_these_tests_is_scikit_learns():
    scores, labels = draw(10_000, rate=0.1)
    ties = scores.round(decimals=1)
    assert exact_auroc(ties, labels) == pytest.approx(roc_auc_score(labels, ties), abs=1e-12)


def test_the_bound_holds_where_all_logits_share_a_bin():
    """The worst case: in one bin every positive is above every negative, by next to nothing."""
    labels = column(*[0.0] * 9, 1.0)
    found = metrics_of(-5.0005 + 1e-6 * labels, labels)
    assert found["auroc_error_bound"] == 0.5
    assert abs(found["auroc"] - 1) <= 0.5


@given(
    st.lists(
        st.tuples(st.floats(-6000, 6000, width=32), st.booleans(), st.integers(0, 3)), min_size=1
    )
)
@settings(max_examples=25, deadline=None)
def test_the_bound_holds_for_any_logits_and_weights(rows: list[tuple[float, bool, int]]):
    logits, labels, weights = (column(*values) for values in zip(*rows, strict=True))
    found = metrics_of(logits, labels, weights)
    if not math.isnan(found["auroc"]):
        exact = roc_auc_score(labels[:, 0], logits[:, 0], sample_weight=weights[:, 0])
        assert abs(found["auroc"] - exact) <= found["auroc_error_bound"] + 1e-12


def rce_of(predictions: Tensor, labels: Tensor) -> float:
    predictions = predictions.clamp(max=1 - 1e-7)
    cross_entropy = -torch.where(labels == 1, predictions.log(), torch.log1p(-predictions)).mean()
    mean = labels.double().mean()
    constant = -(mean * mean.log() + (1 - mean) * (1 - mean).log())
    return (100 * (1 - cross_entropy / constant)).item()


@pytest.mark.parametrize(
    ("shift", "rate", "error"),
    [
        (-9.0, 1e-3, 1e-6),
        (-6.0, 1e-3, 1e-6),
        (-4.0, 0.05, 1e-6),
        (-1.0, 0.05, 1e-6),
        (0.5, 0.5, 1e-6),
        (30.0, 0.5, 1e-6),
        (-6.0, 0.5, 1e-4),  # predictions 100 times too low: many reach the cap, and some its bin
    ],
)
def test_nrce_is_the_rce_of_the_scaled_predictions(shift: float, rate: float, error: float):
    scores, labels = draw(200_000, rate=rate)
    logits = 0.7 * scores.double() + shift
    found = metrics_of(logits[:, None], labels[:, None])
    expected = rce_of(logits.sigmoid() / found["calibration"], labels)
    # 100 - NRCE is the cross entropy of the scaled predictions, but for a factor.
    assert 100 - found["nrce"] == pytest.approx(100 - expected, rel=error)


@given(st.lists(st.integers(0, 300), max_size=5), st.booleans())
@settings(max_examples=25, deadline=None)
def test_how_the_data_is_cut_makes_no_difference(cuts: list[int], weighted: bool):
    scores, labels = draw(300, rate=0.3)
    logits, labels = scores[:, None] - 2, labels[:, None]
    weights = torch.linspace(0, 2, 300)[:, None] if weighted else None
    parts = RankingMetrics(["like"])
    merged = RankingMetrics(["like"])
    for start, end in itertools.pairwise([0, *sorted(cuts), 300]):
        part = logits[start:end], labels[start:end], None if weights is None else weights[start:end]
        parts.update(*part)
        rank = RankingMetrics(["like"])
        rank.update(*part)
        merged.merge(rank)
    whole = metrics_of(logits, labels, weights)
    for found in (parts.compute()["like"], merged.compute()["like"]):
        assert found == pytest.approx(whole, rel=1e-12)
        if not weighted:
            assert found["auroc"] == whole["auroc"]


def test_binning_leaves_the_callers_logits_as_they_are():
    logits = torch.tensor([-2.0, 0.5])
    binned(logits)
    assert logits.tolist() == [-2.0, 0.5]


@needs_golden
@pytest.mark.parametrize("splits", ["one", "three"])
@pytest.mark.parametrize("weighted", ["unweighted", "weighted"])
@pytest.mark.parametrize("source", ["", "from_logits/"])
def test_rce_and_nrce_are_the_references_for_one_batch(source: str, weighted: str, splits: str):
    """The reference's NRCE of three batches is another number: it scales each batch by itself."""
    results = json.loads((GOLDEN / "index.json").read_text())["files"]["metrics.npz"]["results"]
    arrays = np.load(GOLDEN / "metrics.npz")
    logits = torch.from_numpy(arrays["logits"]).double()
    if not source:  # predictions of 0 and 1 are among them, which the reference clips
        logits = torch.from_numpy(arrays["preds"]).double().clamp(1e-7, 1 - 1e-7).logit()
    labels, weights = torch.from_numpy(arrays["target"]), torch.from_numpy(arrays["weights"])
    metrics = RankingMetrics(["like"])
    edges = results[f"RCE/{source}{weighted}/{splits}"]["update_splits"]
    for start, end in itertools.pairwise(edges):
        rows = slice(start, end)
        metrics.update(
            logits[rows, None],
            labels[rows, None],
            weights[rows, None] if weighted == "weighted" else None,
        )
    found = metrics.compute()["like"]
    for name in ("RCE", "NRCE"):
        reference = results[f"{name}/{source}{weighted}/one"]["value"]
        assert found[name.lower()] == pytest.approx(reference, rel=1e-5)
    if not source:
        auroc = results[f"AUROCWithMWU/{weighted}/one"]["value"]
        assert found["auroc"] == pytest.approx(auroc, abs=1e-6)
