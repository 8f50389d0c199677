"""Evaluation: what is measured, and what it leaves as it was."""

from __future__ import annotations

import math
import threading

import pyarrow as pa
import pytest
import torch
from tiny import Tiny, rows, write

from recap.evaluation import Results, evaluate, flat, objective, shown, undefined
from recap.experiment import Experiment, prepare
from recap.metrics import RankingMetrics


def measured(experiment: Experiment) -> Results:
    return evaluate(experiment.ranker, experiment.validation_data, experiment.training)


def evaluated(tiny: Tiny, *overrides: str) -> Results:
    """The metrics of the untrained ranker."""
    return measured(prepare(tiny.config(*overrides)))


def test_every_task_of_every_partition_is_measured(tiny: Tiny):
    more = "+validation_data.train={inputs: '${data_root}/train/*.parquet'}"
    results = evaluated(tiny, more)
    assert list(results) == ["valid", "train"]
    assert list(results["valid"]) == ["like", "follow", "reply"]
    assert results["valid"]["like"]["examples"] == 60
    assert results["train"]["like"]["examples"] == 96


@pytest.mark.parametrize(
    ("num_eval_steps", "examples"),
    [(1, 8), (7, 56), (8, 60), (100, 60), (-1, 60)],  # batches of 8 rows, the last one of 4
)
def test_num_eval_steps_limits_the_batches_and_below_0_is_everything(
    tiny: Tiny, num_eval_steps: int, examples: int
):
    results = evaluated(tiny, f"training.num_eval_steps={num_eval_steps}")
    assert results["valid"]["reply"]["examples"] == examples


def test_a_partition_measures_its_evaluation_tasks_only(tiny: Tiny):
    everything = evaluated(tiny)["valid"]
    some = evaluated(tiny, "validation_data.valid.evaluation_tasks=[reply,like]")["valid"]
    assert list(some) == ["reply", "like"]
    for task in some:
        assert some[task] == pytest.approx(everything[task])


def test_metrics_do_not_depend_on_the_batch_size(tiny: Tiny):
    whole = evaluated(tiny, "validation_data.valid.global_batch_size=60")
    one_lane = "validation_data.valid.interleave_num_parallel_calls=1"
    cut = evaluated(tiny, "validation_data.valid.global_batch_size=7", one_lane)
    assert flat(cut) == pytest.approx(flat(whole), rel=1e-5, nan_ok=True)


def test_nothing_is_changed_by_an_evaluation(tiny: Tiny):
    experiment = prepare(tiny.config())
    ranker = experiment.ranker.train()
    weights = {name: tensor.clone() for name, tensor in ranker.state_dict().items()}
    random_state = torch.get_rng_state()
    first = measured(experiment)
    assert ranker.training
    assert all(module.training for module in ranker.modules())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(weights[name], t) for name, t in ranker.state_dict().items())
    assert all(parameter.grad is None for parameter in ranker.parameters())
    assert measured(experiment) == first


def test_a_ranker_in_evaluation_mode_stays_in_it(tiny: Tiny):
    experiment = prepare(tiny.config())
    experiment.ranker.eval()
    measured(experiment)
    assert not experiment.ranker.training


def test_a_ranker_is_left_in_training_mode_when_an_evaluation_fails(tiny: Tiny):
    experiment = prepare(tiny.config())
    experiment.ranker.train()
    with torch.no_grad():
        next(experiment.ranker.towers["like"].parameters()).fill_(torch.nan)
    with pytest.raises(ValueError, match="like"):
        measured(experiment)
    assert experiment.ranker.training


def test_the_reading_thread_ends_when_an_evaluation_fails(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
):
    def fail(*_: object) -> None:
        assert "recap-prefetch" in [thread.name for thread in threading.enumerate()]
        raise ValueError("at the first batch")

    monkeypatch.setattr(RankingMetrics, "update", fail)
    with pytest.raises(ValueError, match="at the first batch") as failed:
        evaluated(tiny, "validation_data.valid.global_batch_size=2")
    assert failed.tb  # holds every frame, so it is no garbage collection that ends the thread
    assert "recap-prefetch" not in [thread.name for thread in threading.enumerate()]


def test_an_evaluation_that_is_to_stop_ends_at_a_batch_and_is_empty(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
):
    experiment = prepare(tiny.config())
    stop, updates, update = [], [], RankingMetrics.update

    def stop_at_the_second(*arguments) -> None:
        updates.append(update(*arguments))
        if len(updates) == 2:
            stop.append("now")

    monkeypatch.setattr(RankingMetrics, "update", stop_at_the_second)
    data = experiment.validation_data
    assert evaluate(experiment.ranker, data, experiment.training, stop) == {}
    assert len(updates) == 2  # of 8 batches


RESULTS = {
    "valid": {"like": {"auroc": 0.5}, "reply": {"auroc": 0.75}},
    "train": {"like": {"auroc": 0.875}},
}


def test_metrics_are_tracked_by_partition_task_and_name():
    assert flat(RESULTS) == {
        "valid/like/auroc": 0.5,
        "valid/reply/auroc": 0.75,
        "train/like/auroc": 0.875,
    }


def test_an_objective_is_one_value_or_the_mean_over_tasks():
    assert objective(RESULTS, "train/like/auroc") == 0.875
    assert objective(RESULTS, "valid/mean/auroc") == 0.625


def test_a_person_is_shown_whole_numbers_of_examples(tiny: Tiny):
    row = shown(evaluated(tiny))["valid"]["like"]
    assert {"auroc", "log_loss", "examples", "positives"} <= set(row)
    assert row["examples"] == 60
    assert isinstance(row["examples"], int)


def test_a_run_ends_with_a_table_and_where_it_lies(tiny: Tiny):
    ended = tiny.train_elsewhere()
    assert ended.returncode == 0
    lines = (ended.stdout + ended.stderr).splitlines()
    heads = [line.split() for line in lines]
    table = next(i for i, head in enumerate(heads) if head[:2] == ["valid", "auroc"])
    assert [head[0] for head in heads[table + 1 : table + 4]] == ["like", "follow", "reply"]
    assert f"run: {tiny.root / 'run'}" in lines


def test_a_finished_run_is_evaluated_on_what_its_command_names_now(tiny: Tiny):
    first = tiny.train("training.objective=valid/like/auroc")
    again = tiny.train(
        "training.objective=other/like/auroc",
        "+validation_data.other={inputs: '${data_root}/valid/*.parquet'}",
    )
    assert again == first


def test_an_objective_that_is_nan_is_told_with_the_tasks_that_make_it_so():
    nan, counts = math.nan, {"examples": 4.0, "log_loss": 0.5}
    results = {
        "valid": {
            "like": {"auroc": 0.5, "positives": 2.0, **counts},
            "follow": {"auroc": nan, "positives": 0.0, **counts},
            "reply": {"auroc": nan, "positives": 4.0, **counts},
        }
    }
    follow, reply = "follow has no positives in valid", "reply has no negatives in valid"
    assert undefined(results, "valid/mean/auroc") == f"{follow}, {reply}"
    assert undefined(results, "valid/follow/auroc") == follow
    assert undefined(results, "valid/like/auroc") == ""
    assert undefined(results, "valid/mean/log_loss") == ""
    results["valid"]["like"] |= {"auroc": nan}
    assert undefined(results, "valid/like/auroc") == "like has no defined auroc in valid"


def test_the_end_of_a_run_says_why_its_objective_is_nan(
    tiny: Tiny, caplog: pytest.LogCaptureFixture
):
    columns = rows(60, seed=2)
    columns["is_follow"] = pa.array([0] * 60)
    write(tiny.root / "valid/part-0.parquet", columns)
    caplog.set_level("INFO")
    value = tiny.train("training.num_train_steps=0", "training.objective=valid/mean/auroc")
    assert value is not None
    assert math.isnan(value)
    told = "objective valid/mean/auroc: nan: follow has no positives in valid"
    assert told in caplog.messages
