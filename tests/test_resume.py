"""Runs that end early and go on: by a kill, a signal, a full disk; the result is the same."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
from typing import Any

import pytest
import torch
from filelock import FileLock, Timeout
from mlflow import MlflowClient
from tiny import ENVIRONMENT, HERE, Tiny, rows, write

import recap.run.fit
from recap.checkpoint import CheckpointError
from recap.compose import Refused
from recap.evaluation import evaluate
from recap.experiment import prepare
from recap.metrics import RankingMetrics
from recap.run.start import start
from recap.signals import Stopped, stop_signals
from recap.tracking.mlflow import MlflowTracker

SIX = "training.num_train_steps=6"
THREE = "training.num_train_steps=3"


def assert_same(one: Any, other: Any, place: str = "") -> None:
    """Bit for bit, at every place of two checkpoints."""
    assert type(one) is type(other), place
    if isinstance(one, dict):
        assert list(one) == list(other), place
        for key in one:
            assert_same(one[key], other[key], f"{place}.{key}")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), place
    else:
        assert one == other, place


def assert_same_runs(tiny: Tiny, one: str, other: str) -> None:
    """The last checkpoint and every logged loss and rate."""
    assert_same(tiny.state(one), tiny.state(other))
    for name in ("loss", "loss/like", "loss/follow", "loss/reply", "lr/backbone", "lr/reply"):
        assert tiny.logged(one)[name] == tiny.logged(other)[name], name


# A stop at a step, in this process.


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("training.gradient_accumulation=2",),
        ("train_data.prefetch_batches=16",),
        ("train_data.global_batch_size=24",),  # the third step is in the first epoch, the last not
        ("optimizer=adamw",),
        ("optimizer=sgd",),
        ("optimizer=adagrad",),
        ("optimizer/table_algorithm=adagrad",),
        ("optimizer=sgd", "optimizer/table_algorithm=adam"),
        (
            "+model/inputs=[position_debias,small_embeddings]",
            "model.inputs.position_debias.feature_name=binary",
            "model.inputs.position_debias.position_feature_index=0",
            "model.inputs.small_embeddings.feature_name=binary",
            "+model.inputs.small_embeddings.tables.flag="
            "{num_embeddings: 2, embedding_dim: 2, index: 1}",
            "+model.inputs.embeddings.tables.video.id_dropout=0.3",
            "optimizer/table_algorithm=adagrad",
        ),
        ("+model.inputs.embeddings.tables.video.trainable=false",),
        ("training.train_log_every_n=2", "training.precision=bf16"),
        (
            "preprocess=[downcast,downsample_negatives]",
            "+train_data.preprocess.downcast.features={continuous: bfloat16, binary: bool}",
            "train_data.preprocess.downsample_negatives.engagements_list=[like]",
            "+train_data.tasks.like.neg_downsampling_rate=0.5",
        ),
    ],
    ids=[
        "plain",
        "accumulation",
        "read-ahead",
        "epochs",
        "adamw",
        "sgd",
        "adagrad",
        "tables by adagrad",
        "tables by adam",
        "embeddings",
        "a frozen table",
        "bf16",
        "steps",
    ],
)
def test_six_steps_are_three_and_three(tiny: Tiny, settings: tuple[str, ...]):
    each = "training.checkpoint_every_n=3"  # a report is made at every save, so both make it there
    tiny.train(SIX, each, *settings, run="at once")
    tiny.train(THREE, each, *settings)
    tiny.train(SIX, each, *settings)
    assert tiny.steps() == [3, 6]
    assert_same_runs(tiny, "run", "at once")


def test_a_checkpoint_lies_within_an_epoch(tiny: Tiny):
    tiny.train(THREE, "training.gradient_accumulation=2")
    assert tiny.state()["position"] == 3 * 2 * 8  # rows, of 96


def test_a_finished_run_that_is_started_again_is_only_evaluated(tiny: Tiny):
    objective = "training.objective=valid/mean/log_loss"
    first = tiny.train(THREE, objective)
    state = tiny.state()
    assert tiny.train(THREE, objective) == first
    assert_same(tiny.state(), state)
    assert list(tiny.logged()["loss"]) == [1, 2, 3]


def test_a_rate_that_was_changed_in_between_wins(tiny: Tiny):
    tiny.train(THREE)
    before = tiny.state()["model"]
    tiny.train(SIX, "schedule.curve.learning_rate=0.0", "schedule.towers.reply.learning_rate=0.5")
    logged = tiny.logged()
    assert logged["lr/like"] == {1: 0.0, 2: 0.0025, 3: 0.005, 4: 0.0, 5: 0.0, 6: 0.0}
    assert logged["lr/reply"] == {1: 0.0, 2: 0.005, 3: 0.01, 4: 0.375, 5: 0.5, 6: 0.5}
    after = tiny.state()["model"]
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    trained = {name for name in moved if "running_" not in name and "num_batches" not in name}
    assert trained
    assert all(name.startswith("towers.reply.") for name in trained)


def test_an_architecture_that_was_changed_in_between_is_refused(tiny: Tiny):
    tiny.train(THREE)
    with pytest.raises(Refused) as refused:
        tiny.train(SIX, "model.backbone.layer_sizes=[16,4]", "~model.inputs.embeddings")
    first, *differences = str(refused.value).splitlines()
    assert first == (
        f"training.save_dir={tiny.root / 'run'}: the checkpoint is of another architecture; "
        "return to it or name another folder; these differ:"
    )
    table = "inputs.embeddings.collection.embedding_bags.video.weight"
    assert f"  {table}: in the checkpoint only" in differences
    assert "  towers.like.layers.0.weight: [8, 8] in the checkpoint, [8, 4] in the model" in (
        differences
    )
    assert tiny.steps() == [3]


def test_another_optimizer_is_refused(tiny: Tiny):
    tiny.train(THREE)
    with pytest.raises(Refused, match=r"holds moments of torch\.optim\.adam\.Adam, configured"):
        tiny.train(SIX, "optimizer=sgd")


@pytest.mark.parametrize(
    ("choices", "changed"),
    [
        (["optimizer=adam"], ["adam.beta_1=0.5", "adam.beta_2=0.9", "adam.epsilon=0.1"]),
        (["optimizer=adam"], ["table_settings={eps: 0.5, weight_decay: 0.3}"]),
        (["optimizer=adamw"], [f"algorithm.{row}" for row in ("betas=[0.5,0.9]", "eps=0.1")]),
        (["optimizer=adamw"], ["algorithm.weight_decay=0.3"]),
        (["optimizer=sgd"], ["algorithm.momentum=0.5", "algorithm.nesterov=true"]),
        (["optimizer=sgd", "optimizer/table_algorithm=adam"], ["table_algorithm.eps=0.1"]),
    ],
)
def test_settings_of_the_optimizer_that_were_changed_in_between_win(
    tiny: Tiny, choices: list[str], changed: list[str]
):
    def settings(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
        aside = ("params", "learning_rate", "lr")
        return [{k: v for k, v in g.items() if k not in aside} for g in optimizer.param_groups]

    tiny.train(THREE, *choices)
    before = prepare(tiny.config(*choices))
    overrides = [f"++optimizer.{row}" for row in changed]
    resumed = prepare(tiny.config(*choices, *overrides))
    configured = settings(resumed.optimizer)
    assert start(resumed).step == 3
    assert settings(resumed.optimizer) == configured != settings(before.optimizer)


def test_a_damaged_checkpoint_is_told_and_the_run_continues_from_the_one_before(
    tiny: Tiny, caplog: pytest.LogCaptureFixture
):
    each = "training.checkpoint_every_n=1"
    tiny.train(SIX, each, run="at once")
    tiny.train(THREE, each)
    last = tiny.root / "run/checkpoints/step-00000003"
    (last / "__0_0.distcp").write_bytes((last / "__0_0.distcp").read_bytes()[:1000])
    caplog.clear()
    tiny.train(SIX, each)
    told = rf"{last}/__0_0.distcp is damaged \(it has 1000 bytes, written were \d+\); the "
    assert re.search(told, caplog.text)
    assert last.with_name("damaged-step-00000003").is_dir()
    assert tiny.steps() == [1, 2, 3, 4, 5, 6]
    assert_same_runs(tiny, "run", "at once")


def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_anew(tiny: Tiny):
    tiny.train(THREE)
    (tiny.root / "run/checkpoints/step-00000003/.metadata").unlink()
    message = r"training\.save_dir=.*: every checkpoint is damaged, and none was changed; put back"
    with pytest.raises(Refused, match=message):
        tiny.train(SIX)
    assert tiny.steps() == [3]


def test_old_checkpoints_are_pruned(tiny: Tiny):
    tiny.train(SIX, "training.checkpoint_every_n=1", "training.checkpoint_max_to_keep=2")
    assert tiny.steps() == [5, 6]


# Weights from another run.


@pytest.mark.parametrize("named", ["first", "first/checkpoints/step-00000003"])
def test_a_warm_start_takes_the_weights_and_nothing_else(tiny: Tiny, named: str):
    tiny.train(THREE, run="first")
    tiny.train(f"training.initial_checkpoint_dir={tiny.root / named}", "training.num_train_steps=1")
    assert tiny.logged()["lr/like"] == {1: 0.0}  # the ramp begins anew, so nothing has moved yet
    state, first = tiny.state(), tiny.state("first")
    assert state["step"] == 1
    assert state["position"] == 8
    for name in first["optimizer"]:
        assert torch.equal(state["model"][name], first["model"][name])


def test_a_run_that_was_warm_started_continues_from_its_own_checkpoint(tiny: Tiny):
    tiny.train(THREE, run="first")
    warm = f"training.initial_checkpoint_dir={tiny.root / 'first'}"
    tiny.train(warm, SIX, run="at once")
    tiny.train(warm, THREE)
    tiny.train(warm, SIX)
    assert_same_runs(tiny, "run", "at once")


def test_a_warm_start_from_another_architecture_is_refused(tiny: Tiny):
    tiny.train(THREE, run="first")
    with pytest.raises(Refused, match=r"training\.initial_checkpoint_dir=.*another architecture"):
        tiny.train(
            f"training.initial_checkpoint_dir={tiny.root / 'first'}",
            "model.backbone.layer_sizes=[16,4]",
        )


def test_a_warm_start_from_nowhere_is_refused(tiny: Tiny):
    with pytest.raises(Refused, match=r"training\.initial_checkpoint_dir: nowhere is neither a"):
        tiny.train("training.initial_checkpoint_dir=nowhere")


# Kills, signals, a full disk.


DIES_IN_A_SAVE = """
import os, pathlib, signal, torch
from recap.train import main

def die_writing(tensor, file, save=torch.save):
    save(tensor, file)
    if ".writing-step-00000004" in file.raw.name:
        file.raw.flush()
        os.kill(os.getpid(), signal.SIGKILL)

def die_renaming(path, target, rename=pathlib.Path.rename):
    if path.name == ".writing-step-00000004":
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(path, target)

if os.environ["DIES"] == "writing":
    torch.save = die_writing
else:
    pathlib.Path.rename = die_renaming
main()
"""


@pytest.mark.parametrize("dies", ["writing", "renaming"])
def test_a_kill_in_the_middle_of_a_save_costs_the_steps_since_the_save_before(
    tiny: Tiny, dies: str
):
    each = "training.checkpoint_every_n=2"
    tiny.train(SIX, each, run="at once")
    arguments = [f"--config-dir={HERE / 'conf'}", *tiny.overrides(SIX, each)]
    killed = subprocess.run(
        [sys.executable, "-c", DIES_IN_A_SAVE, *arguments],
        env={**ENVIRONMENT, "DIES": dies},
        cwd=tiny.root,
        capture_output=True,
    )
    assert killed.returncode == -signal.SIGKILL
    assert tiny.steps() == [2]
    assert (tiny.root / "run/checkpoints/.writing-step-00000004").is_dir()
    tiny.train(SIX, each)
    assert tiny.steps() == [2, 4, 6]
    assert not list((tiny.root / "run/checkpoints").glob(".*"))
    assert_same_runs(tiny, "run", "at once")


def interrupted(tiny: Tiny, *overrides: str, by: signal.Signals) -> tuple[int, str]:
    """Exit code and output of an endless run that gets a signal after its third step."""
    lines = []
    with subprocess.Popen(
        tiny.command("training.num_train_steps=1000000", *overrides),
        env=ENVIRONMENT,
        cwd=tiny.root,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if line.startswith("step 3/"):
                process.send_signal(by)
    return process.returncode, "".join(lines)


@pytest.mark.parametrize(
    ("by", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"]
)
def test_a_signal_leaves_a_checkpoint_of_its_step(tiny: Tiny, by: signal.Signals, exit_code: int):
    ended, output = interrupted(tiny, "training.eval_log_every_n=1000000", by=by)
    assert ended == exit_code
    assert "Traceback" not in output
    assert f"{by.name}: stopping after this step; once more stops without saving" in output
    (last,) = tiny.steps()
    assert f"{by.name} came; step {last} is saved, the same command continues" in output
    assert list(tiny.logged()["loss"]) == list(range(1, last + 1))

    further = f"training.num_train_steps={last + 2}"
    tiny.train(further)
    tiny.train(further, run="at once")
    assert_same_runs(tiny, "run", "at once")


@pytest.mark.parametrize("each", [2, 100], ids=["saved before", "not saved yet"])
def test_a_signal_ends_an_evaluation_and_the_continued_run_makes_up_for_it(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, each: int
):
    settings = (SIX, "training.eval_log_every_n=2", f"training.checkpoint_every_n={each}")
    updates, update = [], RankingMetrics.update

    def interrupted_update(*arguments: Any) -> None:
        updates.append(update(*arguments))
        if len(updates) == 3:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(RankingMetrics, "update", interrupted_update)
        with pytest.raises(Stopped, match="SIGINT came; step 2 is saved"):
            tiny.train(*settings)
    assert len(updates) == 3  # of 8 batches
    assert tiny.steps() == [2]
    assert "valid/like/auroc" not in tiny.logged()

    tiny.train(*settings)
    tiny.train(*settings, run="at once")
    assert_same_runs(tiny, "run", "at once")
    assert tiny.logged()["valid/like/auroc"] == tiny.logged("at once")["valid/like/auroc"]


def test_a_signal_ends_the_last_evaluation_and_the_same_command_makes_up_for_it(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
):
    def interrupted_evaluate(*arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return evaluate(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(recap.run.fit, "evaluate", interrupted_evaluate)
        with pytest.raises(Stopped, match="SIGINT came; step 3 is saved"):
            tiny.train(THREE)
    tiny.train(THREE)
    assert list(tiny.logged()["valid/like/auroc"]) == [3]


def test_an_evaluation_that_fails_costs_no_step(tiny: Tiny, monkeypatch: pytest.MonkeyPatch):
    def failing_evaluate(*_: Any) -> Any:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(recap.run.fit, "evaluate", failing_evaluate)
        with pytest.raises(MemoryError):
            tiny.train(THREE)
    assert tiny.steps() == [3]


@pytest.mark.parametrize(
    ("first", "second"),
    [(signal.SIGINT, signal.SIGTERM), (signal.SIGTERM, signal.SIGINT)],
    ids=["SIGINT first", "SIGTERM first"],
)
def test_after_one_signal_either_takes_its_usual_effect(
    first: signal.Signals, second: signal.Signals
):
    usual = signal.getsignal(second)
    with stop_signals() as came:
        assert signal.getsignal(second) != usual
        os.kill(os.getpid(), first)
        assert came == [first]
        assert signal.getsignal(second) == usual


def test_a_folder_that_another_process_trains_in_is_refused(tiny: Tiny):
    (tiny.root / "run").mkdir()
    with FileLock(tiny.root / "run/.lock"):
        refused = tiny.train_elsewhere(THREE)
    assert refused.returncode == 1
    assert (
        f"training.save_dir={tiny.root / 'run'}: another process is training in this folder; "
        "wait for its end, or name another folder as training.save_dir"
    ) in refused.stderr
    assert "Traceback" not in refused.stderr
    assert tiny.steps() == []
    tiny.train(THREE)
    assert tiny.steps() == [3]


def test_a_run_that_fails_leaves_its_folder_free(tiny: Tiny, monkeypatch: pytest.MonkeyPatch):
    def look_and_fail(*_: Any) -> Any:
        with pytest.raises(Timeout):
            FileLock(tiny.root / "run/.lock").acquire(timeout=0)
        raise MemoryError

    monkeypatch.setattr(recap.run.fit, "evaluate", look_and_fail)
    with pytest.raises(MemoryError):
        tiny.train(THREE)
    with FileLock(tiny.root / "run/.lock", timeout=0):
        pass


def test_a_run_that_a_signal_ended_is_tracked_as_killed_and_its_continuation_as_finished(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tiny.root / "runs"
    tracker = MlflowTracker(folder=str(folder), system_metrics=False)
    tracker.open_sweep(tiny.root / "first")  # makes the database
    client = MlflowClient(tracker.store())
    mlflow = ("tracking=mlflow", f"tracking.folder={folder}", "tracking.system_metrics=false")
    ended, output = interrupted(tiny, *mlflow, by=signal.SIGTERM)
    assert ended == 143, output
    run_id = (tiny.root / "run/mlflow_run_id").read_text().splitlines()[0]
    assert client.get_run(run_id).info.status == "KILLED"
    (last,) = tiny.steps()
    tiny.train(*mlflow, f"training.num_train_steps={last + 1}")
    assert client.get_run(run_id).info.status == "FINISHED"
    history = client.get_metric_history(run_id, "loss")
    assert [metric.step for metric in history] == list(range(1, last + 2))


def test_a_full_disk_stops_the_run_and_with_room_it_continues(tiny: Tiny):
    each = "training.checkpoint_every_n=1"
    tiny.train(SIX, each, run="at once")
    tiny.train(THREE, each)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # a checkpoint has about 60 kB
    try:
        message = r"checkpoint of step 4 .* File too large; last good checkpoint: step-00000003"
        with pytest.raises(CheckpointError, match=message):
            tiny.train(SIX, each)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert tiny.steps() == [1, 2, 3]
    tiny.train(SIX, each)
    assert_same_runs(tiny, "run", "at once")


def test_a_data_set_that_changed_is_noticed_when_the_run_goes_on(
    tiny: Tiny, caplog: pytest.LogCaptureFixture
):
    tiny.train(THREE)
    tiny.train(SIX, "training.checkpoint_every_n=1")
    assert "has changed" not in caplog.text
    write(tiny.root / "train/part-2.parquet", rows(16, seed=3))
    tiny.train("training.num_train_steps=7")
    assert "train_data has changed since step-00000006: other files" in caplog.text
