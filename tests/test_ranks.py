"""Several ranks train one run: the losses of one rank, and nothing lost whatever happens to one."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Sequence

import pytest
from ranks import outputs, run, started
from tiny import Tiny

SGD = ("optimizer=sgd", "schedule=single_task", "schedule.curve.learning_rate=0.05")
NO_DROPOUT = ("model.backbone.dropout=null", "model.tasks.follow.tower.dropout=null")
TWELVE = ("train_data.global_batch_size=12", "validation_data.valid.global_batch_size=12")
TWO_LANES = "train_data.interleave_num_parallel_calls=2"
THOUSAND = "training.num_train_steps=1000"


def logged_steps(tiny: Tiny, name: str = "run") -> int:
    """How many steps a run has logged so far."""
    path = tiny.root / name / "logged.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    whole = [json.loads(line) for line in lines if line.endswith("\n")]
    return max((line["step"] for line in whole if line["name"] == "loss"), default=0)


def reach(tiny: Tiny, step: int, ranks: Sequence[subprocess.Popen]) -> None:
    """Returns when the run has come to the step; it is lost where a rank ends before."""
    while logged_steps(tiny) < step:
        for rank in ranks:
            try:
                rank.wait(timeout=0.05)
            except subprocess.TimeoutExpired:
                continue
            pytest.fail(f"ended early:\n{rank.communicate()[0]}")


@pytest.mark.parametrize(
    ("world_size", "settings"),
    [
        (2, (TWO_LANES,)),
        (3, ("training.loss_reduction=max",)),
        (2, ("training.gradient_accumulation=2", "training.gradient_clip_norm=0.1")),
    ],
    ids=["two", "the worst task", "micro-batches"],
)
def test_ranks_train_as_one(tiny: Tiny, world_size: int, settings: tuple[str, ...]):
    overrides = (*SGD, *NO_DROPOUT, *TWELVE, *settings, "training.num_train_steps=50")
    run(tiny.command(*overrides, run="shared"), world_size, tiny.root)
    tiny.train(*overrides, run="alone")
    alone, shared = tiny.logged("alone"), tiny.logged("shared")
    assert list(alone) == list(shared)
    assert len(alone["loss"]) == 50
    for name in [name for name in alone if name.startswith(("loss", "valid"))]:
        assert alone[name] == pytest.approx(shared[name], abs=1e-5, rel=1e-4), name
    for name in ("loss", "loss/like", "loss/follow", "loss/reply"):
        assert alone[name] == pytest.approx(shared[name], abs=1e-5), name


def test_ranks_that_evaluate_a_checkpoint_have_the_metrics_of_one(tiny: Tiny):
    tiny.train("training.num_train_steps=3")
    evaluate = [sys.executable, "-m", "recap.evaluate", f"run={tiny.root / 'run'}"]
    said = run([*evaluate, f"+validation_data.again.inputs={tiny.root}/valid"], 2, tiny.root)
    assert "again" in said[0]
    assert said[1] == ""
    logged = tiny.logged()
    metrics = [name for name in logged if name.startswith("valid/")]
    assert len(metrics) == 30
    for name in metrics:
        shared = logged[name.replace("valid/", "again/")][3]
        assert logged[name][3] == pytest.approx(shared, rel=1e-6), name
        if name.endswith(("examples", "positives", "auroc")):
            assert logged[name][3] == shared, name


def test_a_signal_to_one_rank_stops_all_at_the_same_step(tiny: Tiny):
    with started(tiny.command(THOUSAND), 2, tiny.root) as ranks:
        reach(tiny, 2, ranks)
        ranks[1].send_signal(signal.SIGTERM)
        said = outputs(ranks)
    assert [rank.returncode for rank in ranks] == [128 + signal.SIGTERM] * 2, said
    (step,) = tiny.steps()
    assert f"SIGTERM came; step {step} is saved" in said[0]
    end = f"training.num_train_steps={step + 3}"
    tiny.train(end)  # and one process goes on
    run(tiny.command(end, run="at once"), 1, tiny.root)
    assert list(tiny.logged()["loss"]) == list(tiny.logged("at once")["loss"])


def test_a_rank_that_stands_still_ends_all_and_is_named(tiny: Tiny):
    with started(tiny.command(THOUSAND, "training.rank_timeout_in_s=4"), 2, tiny.root) as ranks:
        reach(tiny, 2, ranks)
        ranks[1].send_signal(signal.SIGSTOP)
        said = ranks[0].communicate(timeout=60)[0]
    assert ranks[0].returncode == 75, said
    assert "more than training.rank_timeout_in_s=4; leaving with exit code 75" in said
    assert "rank 1 on " in said
    assert "last step" in said


def test_a_fault_of_the_config_is_told_once(tiny: Tiny):
    nine = ("train_data.global_batch_size=9", "train_data.interleave_num_parallel_calls=1")
    with started(tiny.command(*nine), 2, tiny.root) as ranks:
        said = outputs(ranks)
    assert [rank.returncode for rank in ranks] == [1, 1]
    assert "train_data.global_batch_size=9 does not divide over 2 ranks; 8 and 10 do" in said[0]
    assert said[1] == ""
