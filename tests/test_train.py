"""Training in this process: learning, and what one update is."""

from __future__ import annotations

import gc
import math
from pathlib import Path

import pytest
import torch
from tiny import Tiny, write_data
from torch import Tensor

from recap.checkpoint import load
from recap.run.divergence import Diverged

NOTHING_RANDOM = (
    "model.backbone.dropout=null",
    "model.tasks.follow.tower.dropout=null",
    "task.tower.batch_norm=null",
    "model.inputs.featurization.batch_norm_config=null",
)
PLAIN_SGD = (
    "optimizer=sgd",
    "optimizer.algorithm.momentum=0.0",
    "schedule=single_task",
    "schedule.curve.num_ramp_steps=1",  # the rate of step 0 is 0
)


def weights(tiny: Tiny, step: int, run: str = "run") -> Tensor:
    """All trained numbers of a checkpoint in one row."""
    state = load(tiny.root / run / f"checkpoints/step-{step:08d}")
    held = [tensor for name, tensor in state["model"].items() if not _is_batch_norms(name)]
    return torch.cat([tensor.flatten() for tensor in held])


def _is_batch_norms(name: str) -> bool:
    return name.endswith(("running_mean", "running_var", "num_batches_tracked"))


def losses(tiny: Tiny, run: str = "run") -> dict[int, float]:
    return tiny.logged(run)["loss"]


def test_a_ranker_learns_what_the_labels_follow(tmp_path: Path):
    torch.set_num_threads(1)
    write_data(tmp_path, train_rows=2048, valid_rows=512)
    tiny = Tiny(tmp_path)
    mean_auroc = tiny.train(
        "training.num_train_steps=60",
        "train_data.global_batch_size=64",
        "training.objective=valid/mean/auroc",
    )
    logged = tiny.logged()
    for task in ("like", "follow", "reply"):
        curve = logged[f"loss/{task}"]
        assert sum(curve[step] for step in range(51, 61)) / 10 < 0.9 * curve[1]
        assert logged[f"valid/{task}/auroc"][60] > 0.7
        assert logged[f"valid/{task}/rce"][60] > 0
    assert mean_auroc is not None
    assert mean_auroc > 0.7


@pytest.mark.parametrize("number", [1, 5])
def test_n_train_steps_are_n_updates(tiny: Tiny, number: int):
    tiny.train(f"training.num_train_steps={number}")
    state = tiny.state()
    assert state["step"] == number
    assert {int(held["step"]) for held in state["optimizer"].values()} == {number}  # Adam's counter
    assert list(losses(tiny)) == list(range(1, number + 1))


def test_garbage_is_collected_again_from_the_first_update_on(tiny: Tiny):
    gc.disable()  # as the command does while it starts
    try:
        tiny.train("training.num_train_steps=1")
        assert gc.isenabled()
    finally:
        gc.enable()


def test_no_train_steps_are_an_evaluation_of_the_first_weights(tiny: Tiny):
    auroc = tiny.train("training.num_train_steps=0", "training.objective=valid/like/auroc")
    assert auroc is not None
    assert 0 <= auroc <= 1
    assert tiny.steps() == []


@pytest.mark.parametrize("micro_batches", [2, 3])
def test_micro_batches_give_the_update_of_one_large_batch(tiny: Tiny, micro_batches: int):
    same = (*NOTHING_RANDOM, "training.num_train_steps=3", "training.checkpoint_every_n=1")
    lanes = "train_data.interleave_num_parallel_calls=1"
    tiny.train(
        *same, lanes, f"train_data.global_batch_size={8 * micro_batches}", *PLAIN_SGD, run="large"
    )
    tiny.train(*same, lanes, f"training.gradient_accumulation={micro_batches}", *PLAIN_SGD)
    for step in (1, 2, 3):
        torch.testing.assert_close(
            weights(tiny, step), weights(tiny, step, "large"), rtol=1e-5, atol=1e-6
        )
        assert losses(tiny)[step] == pytest.approx(losses(tiny, "large")[step], rel=1e-5)
    assert not torch.equal(weights(tiny, 1), weights(tiny, 3))


def test_the_schedule_goes_by_updates_and_not_by_micro_batches(tiny: Tiny):
    tiny.train("training.gradient_accumulation=3", "training.num_train_steps=3")
    assert tiny.logged()["lr/like"] == {1: 0.0, 2: 0.0025, 3: 0.005}  # a ramp to 0.01 in 4 updates


def test_the_gradient_is_clipped_and_its_norm_logged(tiny: Tiny):
    tiny.train(
        *PLAIN_SGD,
        "schedule.curve.learning_rate=2.0",
        "training.gradient_clip_norm=0.01",
        "training.num_train_steps=2",
        "training.checkpoint_every_n=1",
    )
    update = (weights(tiny, 2) - weights(tiny, 1)).norm().item()
    assert update == pytest.approx(2.0 * 0.01, rel=1e-3)
    assert tiny.logged()["gradient_norm"][2] > 0.01


def test_the_gradient_norm_is_not_logged_where_nothing_is_clipped(tiny: Tiny):
    tiny.train("training.num_train_steps=1")
    assert "gradient_norm" not in tiny.logged()


def test_bf16_is_close_to_float32_and_keeps_float32_weights(tiny: Tiny):
    tiny.train(run="float32")
    tiny.train("training.precision=bf16", run="bf16")
    exact, rounded = losses(tiny, "float32"), losses(tiny, "bf16")
    assert rounded[1] != exact[1]
    assert rounded[1] == pytest.approx(exact[1], rel=0.05)
    assert weights(tiny, 6, "bf16").dtype == torch.float32
    moments = tiny.state("bf16")["optimizer"].values()
    assert {tensor.dtype for own in moments for tensor in own.values()} == {torch.float32}


@pytest.mark.parametrize(
    ("reduction", "reduce"), [("mean", lambda x: sum(x) / 3), ("sum", sum), ("max", max)]
)
def test_the_loss_is_the_reduction_over_tasks(tiny: Tiny, reduction: str, reduce):
    tiny.train(f"training.loss_reduction={reduction}", "training.num_train_steps=1")
    logged = tiny.logged()
    per_task = [logged[f"loss/{task}"][1] for task in ("like", "follow", "reply")]
    assert logged["loss"][1] == pytest.approx(reduce(per_task), rel=1e-6)


def test_losses_between_two_reports_are_averaged(tiny: Tiny):
    tiny.train(run="every")
    tiny.train("training.train_log_every_n=3", run="third")
    every = losses(tiny, "every")
    assert losses(tiny, "third") == pytest.approx(
        {3: (every[1] + every[2] + every[3]) / 3, 6: (every[4] + every[5] + every[6]) / 3}
    )


def test_a_seed_gives_the_same_run_and_another_seed_another(tiny: Tiny):
    tiny.train("training.seed=3", run="first")
    tiny.train("training.seed=3", run="second")
    tiny.train("training.seed=4", run="other")
    assert losses(tiny, "first") == losses(tiny, "second")
    assert torch.equal(weights(tiny, 6, "first"), weights(tiny, 6, "second"))
    assert losses(tiny, "first")[1] != losses(tiny, "other")[1]


def test_engagement_rates_count_tasks_that_the_model_does_not_predict(tiny: Tiny):
    rates = "{_target_: recap.model.engagement_rates.EngagementRates, _partial_: true, "
    rates += "keys: [video], fold: video}"
    tiny.train(
        f"+model.inputs.engagement_rates={rates}",
        "~model.tasks.follow",
        "training.num_train_steps=1",
    )
    assert "loss/follow" not in tiny.logged()
    (positives,) = (t for name, t in tiny.state()["model"].items() if name.endswith("positives"))
    assert len(positives) == 3
    assert positives.min() > 0


def test_read_ahead_changes_nothing(tiny: Tiny):
    tiny.train("train_data.prefetch_batches=1", run="one")
    tiny.train("train_data.prefetch_batches=16", run="sixteen")
    assert losses(tiny, "one") == losses(tiny, "sixteen")


def test_evaluating_in_between_changes_nothing(tiny: Tiny):
    tiny.train(run="at the end")
    tiny.train("training.eval_log_every_n=1", run="every step")
    assert losses(tiny, "at the end") == losses(tiny, "every step")
    assert list(tiny.logged("every step")["valid/like/auroc"]) == [1, 2, 3, 4, 5, 6]


def test_a_loss_that_is_no_number_stops_the_run_and_says_where(tiny: Tiny):
    message = (
        r"loss/like became nan between steps 2 and 4; lr/like was 1\.0e\+15; "
        r"last good checkpoint: step-00000002"
    )
    with pytest.raises(Diverged, match=message):
        tiny.train(
            *PLAIN_SGD,
            *NOTHING_RANDOM,
            "schedule.curve.learning_rate=1e15",
            "schedule.curve.num_ramp_steps=2",
            "training.train_log_every_n=2",
            "training.checkpoint_every_n=2",
        )
    assert tiny.steps() == [2]
    assert weights(tiny, 2).isfinite().all()


def test_an_update_that_ruins_the_weights_is_neither_saved_nor_evaluated(tiny: Tiny):
    message = (
        r"weights of like became nan or infinite by step 2; lr/like was 1\.0e\+39; "
        r"last good checkpoint: step-00000001"
    )
    with pytest.raises(Diverged, match=message):
        tiny.train(
            *PLAIN_SGD,
            "schedule.curve.learning_rate=1e39",
            "training.num_train_steps=2",
            "training.checkpoint_every_n=1",
        )
    assert tiny.steps() == [1]
    assert weights(tiny, 1).isfinite().all()
    assert math.isfinite(losses(tiny)[2])
