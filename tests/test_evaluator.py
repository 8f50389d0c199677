"""``python -m recap.evaluate``: the run's own numbers again, beside the run and after it."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from mlflow import MlflowClient
from omegaconf import OmegaConf
from ranks import started
from tiny import ENVIRONMENT, HERE, Tiny

from recap import checkpoint
from recap.compose import CONF, Refused
from recap.compose.run_config import CONFIG_FILE, read_config
from recap.evaluation import Results, flat
from recap.evaluator import LastStepNotReached, evaluate_run
from recap.tracking.mlflow import MlflowTracker

SIX = "training.num_train_steps=6"
EACH_SECOND = "training.checkpoint_every_n=2"


def evaluated(tiny: Tiny, *overrides: str, run: str = "run") -> Results:
    """The command in this process."""
    given = [f"run={tiny.root / run}", *overrides]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("evaluate", [f"hydra.searchpath=[file://{HERE / 'conf'}]", *given])
    return evaluate_run(cfg, given)


def command(tiny: Tiny, *overrides: str) -> list[str]:
    config_dir = f"--config-dir={HERE / 'conf'}"
    return [sys.executable, "-m", "recap.evaluate", config_dir, *overrides]


def evaluated_elsewhere(tiny: Tiny, *overrides: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    return subprocess.run(
        command(tiny, *overrides),
        env=ENVIRONMENT,
        cwd=tiny.root,
        text=True,
        capture_output=True,
        timeout=120,
    )


def of_training(tiny: Tiny, step: int) -> dict[str, float]:
    """The metrics that training logged at a step."""
    values = {name: at[step] for name, at in tiny.logged().items() if step in at}
    return {name: value for name, value in values.items() if name.startswith("valid/")}


def same(one: dict[str, float], other: dict[str, float]) -> bool:
    """Bit for bit; nan is nan."""
    return {k: str(v) for k, v in one.items()} == {k: str(v) for k, v in other.items()}


def test_a_checkpoint_has_the_numbers_of_trainings_own_evaluation(tiny: Tiny):
    tiny.train(SIX, EACH_SECOND, "training.eval_log_every_n=2")
    for step in (2, 4, 6):
        own = of_training(tiny, step)
        assert len(own) > 10
        assert same(flat(evaluated(tiny, f"checkpoint={step}")), own)
    assert same(flat(evaluated(tiny)), of_training(tiny, 6))


def test_metrics_are_recorded_at_the_checkpoints_step_but_for_those_of_training(tiny: Tiny):
    tiny.train(SIX, EACH_SECOND)  # evaluated after the last step only
    before = (tiny.root / "run/logged.jsonl").read_text()
    evaluated(tiny)
    assert (tiny.root / "run/logged.jsonl").read_text() == before
    results = evaluated(tiny, "checkpoint=4")
    assert same(of_training(tiny, 4), flat(results))
    assert list(tiny.logged()["valid/like/auroc"]) == [6, 4]


def test_what_an_override_changes_is_shown_and_what_it_adds_is_recorded(
    tiny: Tiny, caplog: pytest.LogCaptureFixture
):
    tiny.train(SIX, EACH_SECOND)
    caplog.set_level("INFO")
    train_files = "${data_root}/train/*.parquet"
    changed = f"validation_data.valid.inputs='{train_files}'"
    results = evaluated(tiny, "checkpoint=4", changed)
    assert results["valid"]["like"]["examples"] == 96
    assert f"{changed}: only partitions that are added are recorded" in caplog.text
    assert list(tiny.logged()["valid/like/auroc"]) == [6]

    added = f"+validation_data.other={{inputs: '{train_files}'}}"
    results = evaluated(tiny, added)
    assert results["other"]["like"]["examples"] == 96
    assert tiny.logged()["other/like/examples"] == {6: 96}
    assert list(tiny.logged()["valid/like/auroc"]) == [6]


def test_the_partition_of_the_objective_may_be_left_out(tiny: Tiny):
    tiny.train(SIX, "training.objective=valid/like/auroc")
    added = "+validation_data.other={inputs: '${data_root}/train/*.parquet'}"
    results = evaluated(tiny, "~validation_data.valid", added)
    assert list(results) == ["other"]
    assert results["other"]["like"]["examples"] == 96


def test_fewer_batches_or_another_template_are_taken_from_the_command_line(tiny: Tiny):
    tiny.train(SIX)
    assert evaluated(tiny, "training.num_eval_steps=2")["valid"]["like"]["examples"] == 16
    fewer = evaluated(tiny, "training.num_eval_steps=2", "train_data.global_batch_size=4")
    assert fewer["valid"]["like"]["examples"] == 8  # a partition follows train_data


def test_a_run_is_evaluated_without_its_training_data_and_from_another_place(tiny: Tiny):
    tiny.train(SIX)
    wanted = of_training(tiny, 6)
    shutil.rmtree(tiny.root / "train")
    (tiny.root / "run").rename(tiny.root / "moved")
    (tiny.root / "moved").chmod(0o555)
    assert same(flat(evaluated(tiny, run="moved")), wanted)
    assert not (tiny.root / "run").exists()


def test_the_runs_config_is_what_it_was_last_started_with(tiny: Tiny):
    def kept() -> Any:
        return OmegaConf.to_container(read_config(tiny.root / "run"), resolve=True)

    tiny.train("training.num_train_steps=2")
    first = tiny.config("training.num_train_steps=2")
    assert kept() == OmegaConf.to_container(first, resolve=True)
    tiny.train("training.num_train_steps=3", "schedule.curve.learning_rate=0.5")
    assert kept()["training"]["num_train_steps"] == 3
    like = kept()["optimizer"]["multi_task_learning_rates"]["tower_learning_rates"]["like"]
    assert like["learning_rate"] == 0.5
    assert not list((tiny.root / "run").glob(f".{CONFIG_FILE}*"))


def test_a_refused_continuation_leaves_the_config_that_the_checkpoints_are_of(tiny: Tiny):
    tiny.train("training.num_train_steps=2")
    before = (tiny.root / "run" / CONFIG_FILE).read_text()
    with pytest.raises(Refused, match="another architecture"):
        tiny.train(SIX, "model.backbone.layer_sizes=[16,4]")
    assert (tiny.root / "run" / CONFIG_FILE).read_text() == before


def test_no_password_is_kept_in_the_folder(tiny: Tiny):
    tiny.train(
        "training.num_train_steps=1",
        "+x.uri=http://me:secret@host",
        "data_root=${x.root}",
        f"+x.root={tiny.root}",
    )
    assert "secret" not in (tiny.root / "run" / CONFIG_FILE).read_text()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["checkpoint=5"],
            r"checkpoint=5: the run has no checkpoint of this step; there is 2, 4, 6",
        ),
        (["checkpoint=first"], r"checkpoint=first: must be latest or a step"),
        (["follow=3"], r"follow=3: must be true or false"),
        (["training.sede=3"], r"training\.sede: there is no such key; close: training\.seed"),
        (["modle.tasks=3"], r"modle: there is no such key; close: model"),
        (["+trainng.seed=3"], r"trainng: nothing reads this section; close: training"),
        (["validation_data.valid.inputs=nowhere/*.parquet"], r"validation_data\.valid\.inputs: "),
        (
            ["model.backbone.layer_sizes=[16,4]"],
            r"step-00000006: the checkpoint is of another arch",
        ),
    ],
)
def test_what_cannot_be_evaluated_is_refused(tiny: Tiny, overrides: list[str], message: str):
    tiny.train(SIX, EACH_SECOND)
    with pytest.raises(Refused, match=message):
        evaluated(tiny, *overrides)


def test_a_run_that_is_not_there_is_refused(tiny: Tiny):
    with pytest.raises(Refused, match=r"run=.*/gone: there is no such folder; name the folder of"):
        evaluated(tiny, run="gone")
    (tiny.root / "empty").mkdir()
    with pytest.raises(Refused, match=r"run=.*/empty: it has no config\.yaml; name the folder of"):
        evaluated(tiny, run="empty")
    (tiny.root / "empty" / CONFIG_FILE).write_text("a: [1")
    with pytest.raises(Refused, match=r"run=.*/empty: config\.yaml cannot be read"):
        evaluated(tiny, run="empty")
    (tiny.root / "empty" / CONFIG_FILE).write_text("a: 1")
    with pytest.raises(Refused, match=r"run=.*/empty: config\.yaml is not the config of a run"):
        evaluated(tiny, run="empty")


def test_a_run_without_a_checkpoint_is_refused_unless_one_is_waited_for(tiny: Tiny):
    tiny.train(SIX)
    shutil.rmtree(tiny.root / "run/checkpoints")
    with pytest.raises(Refused, match=r"run=.*/run: it has no checkpoint yet; follow=true waits"):
        evaluated(tiny)
    timeout = "training.eval_timeout_in_s=0"
    with pytest.raises(
        LastStepNotReached, match=r"eval_timeout_in_s=0; the last one is of step no"
    ):
        evaluated(tiny, "follow=true", timeout)


def test_following_from_a_step_evaluates_each_to_the_last(
    tiny: Tiny, caplog: pytest.LogCaptureFixture
):
    tiny.train(SIX, EACH_SECOND)
    caplog.set_level("INFO")
    evaluated(tiny, "follow=true", "checkpoint=0")
    assert [f"run, step {step}\n" in caplog.text for step in (2, 4, 6)] == [True] * 3
    assert sorted(tiny.logged()["valid/like/auroc"]) == [2, 4, 6]
    caplog.clear()
    evaluated(tiny, "follow=true")  # begins at the latest, which is the last
    assert ["step 4\n" in caplog.text, "step 6\n" in caplog.text] == [False, True]


def test_following_a_run_that_does_not_go_on_ends(tiny: Tiny):
    tiny.train(SIX, EACH_SECOND)
    message = r"no further checkpoint came within training\.eval_timeout_in_s=0; .* step 6 of 8$"
    with pytest.raises(LastStepNotReached, match=message):
        evaluated(tiny, "follow=true", "training.num_train_steps=8", "training.eval_timeout_in_s=0")


def test_a_checkpoint_that_is_pruned_before_it_is_read_is_passed_over(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    tiny.train(SIX, EACH_SECOND)
    caplog.set_level("INFO")
    weights = checkpoint.weights

    def pruned_meanwhile(folder: Path) -> Any:
        if folder.name == "step-00000002":
            shutil.rmtree(folder)
        return weights(folder)

    monkeypatch.setattr(checkpoint, "weights", pruned_meanwhile)
    evaluated(tiny, "follow=true", "checkpoint=0")
    assert "step-00000002 was removed before it could be read" in caplog.text
    assert sorted(tiny.logged()["valid/like/auroc"]) == [4, 6]


def test_a_damaged_checkpoint_is_named(tiny: Tiny):
    tiny.train(SIX)
    state = tiny.root / "run/checkpoints/step-00000006/__0_0.distcp"
    state.write_bytes(state.read_bytes()[:1000])
    ended = evaluated_elsewhere(tiny, f"run={tiny.root / 'run'}")
    assert ended.returncode == 1
    assert "step-00000006/__0_0.distcp cannot be loaded, it is damaged" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_run_is_followed_while_it_trains(tiny: Tiny):
    steps = [SIX, EACH_SECOND]
    tiny.train("training.num_train_steps=2", EACH_SECOND)  # which the follower begins with
    lines = []
    with subprocess.Popen(
        command(tiny, "run=run", "follow=true", SIX),
        env=ENVIRONMENT,
        cwd=tiny.root,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as follower:
        assert follower.stdout is not None
        for line in follower.stdout:
            lines.append(line)
            if line.endswith("run, step 2\n"):
                tiny.train(*steps)
    output = "".join(lines)
    assert follower.returncode == 0, output
    assert [f"run, step {step}\n" in output for step in (2, 4, 6)] == [True] * 3
    assert sorted(tiny.logged()["valid/like/auroc"]) == [2, 4, 6]
    tiny.train(*steps, "training.eval_log_every_n=2", run="other")
    own, other = tiny.logged(), tiny.logged("other")
    for name in other:
        if name.startswith("valid/"):
            assert str(own[name][4]) == str(other[name][4]), name


def test_the_command_prints_a_table_and_its_faults_without_a_trace(tiny: Tiny):
    tiny.train(SIX)
    ended = evaluated_elsewhere(tiny, f"run={tiny.root / 'run'}", "tracking=none")
    assert ended.returncode == 0, ended.stderr
    heads = [line.split()[:2] for line in (ended.stdout + ended.stderr).splitlines()]
    assert ["valid", "auroc"] in heads
    for given, fault in (
        ([], "run: missing; name the folder of a run, run=runs/…"),
        (["run=gone"], "gone: there is no such folder"),
        ([f"run={tiny.root / 'run'}", "optimizer=sgd"], "optimizer: the run's choice stands; its"),
    ):
        refused = evaluated_elsewhere(tiny, *given)
        assert refused.returncode == 1
        assert fault in refused.stderr
        assert refused.stderr.count(fault) == 1
        assert "Traceback" not in refused.stderr


def test_metrics_are_added_to_the_runs_record_and_its_outcome_stays(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tiny.root / "runs"
    mlflow = ("tracking=mlflow", f"tracking.folder={folder}", "tracking.system_metrics=false")
    tiny.train(SIX, EACH_SECOND, *mlflow)
    run_id = (tiny.root / "run/mlflow_run_id").read_text().splitlines()[0]
    client = MlflowClient(MlflowTracker(folder=str(folder)).store())
    client.update_run(run_id, status="RUNNING")  # as while it trains
    before = client.get_run(run_id)
    for _ in range(2):
        evaluated(tiny, "follow=true", "checkpoint=0")
    after = client.get_run(run_id)
    assert after.info.status == "RUNNING"
    assert after.data.tags == before.data.tags
    assert after.data.params == before.data.params
    history = client.get_metric_history(run_id, "valid/like/log_loss")
    assert sorted(metric.step for metric in history) == [2, 4, 6]

    (tiny.root / "run/mlflow_run_id").unlink()
    with pytest.raises(
        ValueError, match=r"tracking: .*/run has no run in tracking\.uri=sqlite.*none"
    ):
        evaluated(tiny, "checkpoint=4")
    evaluated(tiny, "checkpoint=4", "tracking=none")


def test_a_follower_that_is_stopped_leaves_at_once_and_says_so(tiny: Tiny):
    tiny.train("training.num_train_steps=2", "training.checkpoint_every_n=2")
    command = [sys.executable, "-m", "recap.evaluate", f"run={tiny.root / 'run'}", "follow=true"]
    with started([*command, "training.num_train_steps=9"], 1, tiny.root) as (follower,):
        assert follower.stdout is not None
        assert any("step 2" in line for line in follower.stdout)
        follower.send_signal(signal.SIGTERM)
        rest = follower.communicate(timeout=60)[0]
    assert "SIGTERM came; the same command continues" in rest
    assert follower.returncode == 128 + signal.SIGTERM


def test_a_launcher_evaluates_as_a_job_in_the_runs_folder(tiny: Tiny, monkeypatch):
    (tiny.root / "tmp").mkdir()
    monkeypatch.setitem(ENVIRONMENT, "TMPDIR", str(tiny.root / "tmp"))  # with devices of its own
    tiny.train(SIX)
    launcher = ("hydra/launcher=submitit_local", "launcher.gpus=[]", "follow=true")
    done = evaluated_elsewhere(tiny, f"run={tiny.root / 'run'}", *launcher)
    assert done.returncode == 0, done.stderr
    [log] = (tiny.root / "run/jobs").glob("*/*_0_log.out")
    assert f"{tiny.root / 'run'}, step 6" in log.read_text()
