"""Sampled data: either way of correction gives the probabilities of data that was not sampled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from tiny import Tiny, rows, write

from recap.compose import Refused
from recap.evaluation import evaluate
from recap.experiment import prepare

TRUE_RATE, NEGATIVES_KEPT = 0.1, 0.25
RATES = f"+train_data.tasks.like={{neg_downsampling_rate: {NEGATIVES_KEPT}}}"


def likes(number: int, rate: float, *, seed: int) -> dict[str, pa.Array]:
    """Rows of which exactly the share ``rate`` is liked, whatever their inputs."""
    liked = np.arange(number) < round(rate * number)
    return {**rows(number, seed=seed), "is_like": pa.array(liked.astype(np.int8))}


@pytest.fixture
def sampled(tmp_path: Path) -> Tiny:
    """Training data of which three of four negatives of ``like`` were thrown away."""
    rate = TRUE_RATE / (TRUE_RATE + (1 - TRUE_RATE) * NEGATIVES_KEPT)  # 0.3077 are liked
    write(tmp_path / "train/part-0.parquet", likes(520, rate, seed=0))
    write(tmp_path / "valid/part-0.parquet", likes(400, TRUE_RATE, seed=1))
    write(tmp_path / "sampled/part-0.parquet", likes(520, rate, seed=2))
    return Tiny(tmp_path)


LEARNS = [
    "training.num_train_steps=60",
    "training.train_log_every_n=60",
    "train_data.global_batch_size=520",
]
SAMPLED = (
    "+validation_data.sampled={inputs: '${data_root}/sampled/*.parquet', "
    f"tasks: {{like: {{neg_downsampling_rate: {NEGATIVES_KEPT}}}}}}}"
)


@pytest.mark.parametrize("correction", ["weights", "calibration"])
def test_either_correction_predicts_the_rate_of_the_data_before_sampling(
    sampled: Tiny, correction: str
):
    choice = f"training.sampling_correction={correction}"
    sampled.train(*LEARNS, RATES, choice, SAMPLED)
    logged = sampled.logged()
    for partition in ("valid", "sampled"):
        predicted = logged[f"{partition}/like/mean_prediction"][60]
        assert predicted == pytest.approx(TRUE_RATE, abs=0.03)
        # a partition's own rates weigh its examples: both say what share was liked before sampling
        assert logged[f"{partition}/like/mean_label"][60] == pytest.approx(TRUE_RATE, abs=1e-3)


def test_without_rates_the_rate_of_the_sample_is_predicted(sampled: Tiny):
    sampled.train(*LEARNS)
    assert sampled.logged()["valid/like/mean_prediction"][60] == pytest.approx(0.31, abs=0.06)


def test_only_one_of_the_corrections_takes_place(sampled: Tiny):
    weights = prepare(sampled.config(RATES, "training.sampling_correction=weights"))
    assert weights.ranker.calibration.tolist() == [0, 0, 0]
    calibration = prepare(sampled.config(RATES, "training.sampling_correction=calibration"))
    assert calibration.ranker.calibration.exp().tolist() == pytest.approx([0.25, 1, 1])
    sampled.train(RATES, "training.sampling_correction=weights", run="weights")
    sampled.train(RATES, "training.sampling_correction=calibration", run="calibration")
    sampled.train(run="plain")
    runs = ("weights", "calibration", "plain")
    first = {run: sampled.logged(run)["loss/like"][1] for run in runs}
    assert first["calibration"] == first["plain"] < first["weights"]


@pytest.mark.parametrize("both", ["[weights,calibration]", "both"])
def test_both_corrections_at_once_are_refused(sampled: Tiny, both: str):
    with pytest.raises(Refused, match=r"sampling_correction=.*: must be one of weights, calib"):
        prepare(sampled.config(RATES, f"training.sampling_correction={both}"))


@pytest.mark.parametrize("rate", [0, -0.1, 1.5])
def test_a_rate_is_above_0_and_at_most_1(sampled: Tiny, rate: float):
    with pytest.raises(Refused, match=rf"train_data\.tasks\.like.*neg_downsampling_rate={rate}"):
        prepare(sampled.config(f"+train_data.tasks.like={{neg_downsampling_rate: {rate}}}"))


def test_every_metric_is_also_measured_within_the_slices(tiny: Tiny):
    more = "+model.stratifiers.first={index: 0, value: 1, feature_name: binary}"
    experiment = prepare(tiny.config(more))
    results = evaluate(experiment.ranker, experiment.validation_data, experiment.training)
    assert list(results) == ["valid", "valid/first"]
    binary = rows(60, seed=2)["b"].flatten().to_numpy().reshape(60, 2)
    in_slice = binary[:, 0] == 1
    liked = rows(60, seed=2)["is_like"].to_numpy() == 1
    measured = results["valid/first"]["like"]
    assert measured["examples"] == in_slice.sum() < 60
    assert measured["positives"] == (in_slice & liked).sum()
    assert measured.keys() == results["valid"]["like"].keys()


def test_a_slice_of_sampled_data_is_measured_as_before_the_sampling(tiny: Tiny):
    experiment = prepare(
        tiny.config(
            "+model.stratifiers.first={index: 0, value: 1, feature_name: binary}",
            "+validation_data.valid.tasks.like={neg_downsampling_rate: 0.25}",
        )
    )
    results = evaluate(experiment.ranker, experiment.validation_data, experiment.training)
    in_slice = rows(60, seed=2)["b"].flatten().to_numpy()[::2] == 1
    liked = rows(60, seed=2)["is_like"].to_numpy()[in_slice] == 1
    # each negative stands for four
    share = liked.sum() / (liked.sum() + 4 * (~liked).sum())
    assert results["valid/first"]["like"]["mean_label"] == pytest.approx(share)
    followed = rows(60, seed=2)["is_follow"].to_numpy()[in_slice]
    assert results["valid/first"]["follow"]["mean_label"] == pytest.approx(followed.mean())


def test_a_slice_can_be_the_objective(tiny: Tiny):
    more = "+model.stratifiers.first={index: 0, value: 1, feature_name: binary}"
    value = tiny.train(more, "training.objective=valid/first/like/auroc")
    assert value == tiny.logged()["valid/first/like/auroc"][6]


def test_an_objective_of_no_slice_is_refused(tiny: Tiny):
    with pytest.raises(Refused, match="no stratifier second; there is none"):
        prepare(tiny.config("training.objective=valid/second/like/auroc"))


def test_a_slice_of_a_column_that_is_not_there_is_refused(tiny: Tiny):
    more = "+model.stratifiers.first={index: 2, value: 1, feature_name: binary}"
    with pytest.raises(Refused, match=r"model\.stratifiers\.first\.index=2 must lie in 0 … 1"):
        prepare(tiny.config(more))
