"""What `python -m recap.check` tells, and that it leaves nothing behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from test_bad_input import damage
from tiny import ENVIRONMENT, HERE, Tiny, rows, write
from torch import nn

from recap import footprint
from recap.batch import Batch
from recap.checker import check
from recap.compose import Refused
from recap.loss import MultiTaskLoss
from recap.optimizer import RecapAdamConfig, RecapOptimizerConfig
from recap.plot import save_plot
from recap.schedule import Constant, LinearRampToConstant, LinearRampToCosine, PiecewiseConstant


def command(tiny: Tiny, *overrides: str) -> subprocess.CompletedProcess[str]:
    """`python -m recap.check` in a folder of its own, with a run directory named by it."""
    folder = tiny.root / "elsewhere"
    folder.mkdir(exist_ok=True)
    module = [sys.executable, "-m", "recap.check", f"--config-dir={HERE / 'conf'}"]
    return subprocess.run(
        [*module, "experiment=tiny", f"data_root={tiny.root}", *overrides],
        env=ENVIRONMENT,
        cwd=folder,
        text=True,
        capture_output=True,
        timeout=120,
    )


def left(tiny: Tiny) -> list[str]:
    return sorted(path.name for path in (tiny.root / "elsewhere").iterdir())


def faults(tiny: Tiny, *overrides: str) -> list[str]:
    with pytest.raises(Refused) as refused:
        check(tiny.config(*overrides))
    return [fault.replace(f"{tiny.root}/", "") for fault in refused.value.faults]


def test_a_task_is_told_with_its_label_its_rates_its_tower_and_its_learning_rate(tiny: Tiny):
    columns = rows(48, seed=0)
    columns["is_follow"] = pa.array([1, 1, 1, 1] + [0] * 12 + [1] * 32)  # 4 of the first row group
    write(tiny.root / "train/part-0.parquet", columns)
    _, text = check(
        tiny.config(
            "+train_data.tasks.follow={neg_downsampling_rate: 0.25}",
            "training.sampling_correction=weights",
        )
    )
    assert (
        "task follow\n"
        "  label column        is_follow\n"
        "  rate in the sample  0.25000 of 16 rows\n"
        "  sampling rates      1 of positives, 0.25 of negatives kept\n"
        "  tower               MLP 8 → 8 → 1 with BatchNorm1d, Dropout 0.1\n"
        "  parameters          81\n"  # 8 · 8 + 8 and 8 · 1 + 1
        "  learning rate       0 → 0.01 over 4 steps, then constant\n"
    ) in text
    assert "  sampling rates      all kept\n" in text
    assert "  learning rate       0 → 0.02 over 4 steps, then constant\n" in text


def test_the_rate_in_the_sample_is_of_the_rows_as_stored_whatever_steps_leave_out(tiny: Tiny):
    columns = rows(48, seed=0)
    columns["is_follow"] = pa.array([0] * 12 + [1] * 4 + [0] * 32)
    write(tiny.root / "train/part-0.parquet", columns)
    _, text = check(
        tiny.config(
            "preprocess=downsample_negatives",
            "train_data.preprocess.downsample_negatives.engagements_list=[follow]",
            "train_data.global_batch_size=8",
        )
    )
    assert "  label column        is_follow\n  rate in the sample  0.25000 of 16 rows\n" in text


def test_widths_parameter_groups_and_memory_are_told(tiny: Tiny):
    _, text = check(tiny.config("optimizer=adamw"))
    assert (
        "widths\n"
        "  input featurization       6  DoubleNormLog\n"
        "  input embeddings          2  EmbeddingTables\n"
        "  features in all           8\n"
        "  backbone                  8  MLP 8 → 16 → 8 with Dropout 0.2\n"
        "  each tower reads          8\n"
    ) in text
    rows_of_groups = {tuple(line.split()) for line in text.splitlines()}
    assert ("backbone", "256", "2", "0.01", "AdamW") in rows_of_groups  # 8 · 16 + 16 · 8
    assert ("backbone", "44", "6", "0", "AdamW") in rows_of_groups  # 16 + 8, and two norms
    assert ("video", "42", "1", "0", "AdamW") in rows_of_groups  # 21 slots of 2
    # four floats, two integers and three labels a row, an id and its offset, and one offset more
    assert "\n  a batch of 8         488 B\n" in text  # 8 · (16 + 16 + 12 + 8 + 8) + 8
    assert not (tiny.root / "run").exists()
    assert tiny.steps() == []


def test_a_run_that_would_continue_is_told(tiny: Tiny):
    tiny.train("training.num_train_steps=2")
    _, text = check(tiny.config())
    assert f"run {tiny.root / 'run'}\n  continues after step 2, ends at step 6; 96 rows" in text
    (fault,) = faults(tiny, "model.backbone.layer_sizes=[16,7]")
    assert "the checkpoint is of another architecture" in fault


def test_the_first_row_group_of_every_data_set_is_read_whatever_else_is_wrong(tiny: Tiny):
    columns = rows(60, seed=2)
    columns["is_like"] = pa.array([0] * 3 + [2] + [0] * 56)
    write(tiny.root / "valid/part-0.parquet", columns)
    damage(tiny.root / "train/part-0.parquet", 0)
    found = faults(tiny, "training.seed=-1")
    assert found[0] == "training.seed=-1 must be 0 or more"
    assert found[1].startswith("train_data: train/part-0.parquet, row group 0: ")
    assert found[2].startswith("validation_data.valid: valid/part-0.parquet, row group 0: ")
    assert "is_like" in found[2]
    assert len(found) == 3


def test_rows_are_read_though_the_model_cannot_be_built(tiny: Tiny):
    damage(tiny.root / "valid/part-0.parquet", 0)
    model, data = faults(tiny, "model.multi_task_type=share_none")
    assert model.startswith("model.multi_task_type=share_none has no backbone")
    assert data.startswith("validation_data.valid: valid/part-0.parquet, row group 0: ")


class Unfit(nn.Module):
    """A backbone that fails on every batch."""

    out_features = 8

    def __init__(self, in_features: int, embedded: object = ()) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features + 1, 8)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.linear(features)


def test_a_model_that_does_not_come_through_a_batch_is_refused(tiny: Tiny):
    backbone = "{_target_: test_check.Unfit, _partial_: true}"
    (fault,) = faults(tiny, "model/backbone=none", f"model.backbone={backbone}")
    assert fault.startswith("model: fails on the first 8 rows: RuntimeError: mat1 and mat2 shapes")


def test_the_command_ends_with_0_and_leaves_the_plot_only(tiny: Tiny):
    ended = command(tiny)
    assert ended.returncode == 0, ended.stderr
    assert f"run {tiny.root}/elsewhere/runs/tiny/data_root=" in ended.stdout
    assert f"learning rates: plotted in {tiny.root}/elsewhere/learning_rates.png" in ended.stdout
    assert left(tiny) == ["learning_rates.png"]


def test_all_faults_end_the_command_with_1_and_nothing_is_left(tiny: Tiny):
    ended = command(tiny, "training.seed=a", "train_data.inputs=nowhere", "tracking=mlflow")
    assert ended.returncode == 1
    assert "training.seed='a': must be int\ntrain_data.inputs: nowhere: no" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert left(tiny) == []


def test_every_point_of_a_sweep_is_checked_and_nothing_is_left(tiny: Tiny):
    ended = command(tiny, "optimizer=adm,sgd", "training.seed=0,-1", "tracking=mlflow", "-m")
    assert ended.returncode == 1, ended.stderr
    assert (
        "point\n"
        "optimizer=adm training.seed=0   1 fault\n"
        "optimizer=adm training.seed=-1  1 fault\n"
        "optimizer=sgd training.seed=0   ok\n"
        "optimizer=sgd training.seed=-1  1 fault\n\n"
    ) in ended.stdout
    assert "optimizer=sgd training.seed=-1\ntraining.seed=-1 must be 0 or more\n" in ended.stdout
    assert ended.stdout.endswith("1 of 4 points can be trained\n")
    assert left(tiny) == []


def test_a_plot_is_written_where_it_is_said_or_not_at_all(tiny: Tiny):
    assert "plotted in" not in command(tiny, "check.plot=null").stdout
    assert left(tiny) == []
    assert (
        "check.plt: nothing reads this key; close: plot"
        in command(tiny, "+check.plt=x.png", "check.plot=3").stderr
    )
    assert left(tiny) == []
    ended = command(tiny, "check.plot=there/p.png")
    assert ended.returncode == 1
    assert "check.plot=there/p.png: cannot be written (No such file or directory)" in ended.stderr


def test_curves_of_all_kinds_are_plotted_together(tmp_path: Path):
    curves = {
        "like": Constant(learning_rate=3e-4),
        "follow": LinearRampToConstant(learning_rate=1e-3, num_ramp_steps=2000),
        "backbone": LinearRampToCosine(
            learning_rate=8e-4,
            final_learning_rate=0.0,
            num_ramp_steps=1000,
            final_num_steps=20000,
        ),
        "video": PiecewiseConstant(
            learning_rate_boundaries=[5000], learning_rate_values=[1e-1, 3e-2]
        ),
        "still": Constant(learning_rate=0.0),
    }
    for number, steps in enumerate((0, 10, 20000, 1_000_000)):
        save_plot(curves, steps, tmp_path / f"{number}.png")
        assert (tmp_path / f"{number}.png").read_bytes().startswith(b"\x89PNG")
    save_plot({"still": curves["still"]}, 0, tmp_path / "still.png")


# Memory, by hand.


def small() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Linear(2, 1))


def test_weights_and_gradients_are_counted_in_bytes():
    model = small()  # 3·2 + 2, 2 + 2 and 2·1 + 1 parameters; mean, variance and a count of 8 bytes
    assert footprint.gradient_bytes(model) == 4 * (8 + 4 + 3)
    assert footprint.weight_bytes(model) == 4 * (8 + 4 + 3) + 4 * (2 + 2) + 8
    assert footprint.gradient_bytes(model.double()) == 8 * (8 + 4 + 3)
    model[0].requires_grad_(False)
    assert footprint.gradient_bytes(model) == 8 * (4 + 3)


@pytest.mark.parametrize(
    ("algorithm", "expected"),
    [
        (RecapAdamConfig(), 2 * 4 * 1007 + 4 * 2),  # two moments and a step for each tensor
        (lambda groups: torch.optim.SGD(groups, momentum=0.9), 4 * 1007),
        (lambda groups: torch.optim.SGD(groups), 0),
        (lambda groups: torch.optim.Adagrad(groups), 4 * 1007 + 4 * 2),
        # a factor for each row and each column of a matrix, and all of a vector
        (lambda groups: torch.optim.Adafactor(groups), 4 * (100 + 10 + 7) + 4 * 2),
    ],
)
def test_the_state_of_an_optimizer_is_that_after_its_first_step(algorithm, expected: int):
    config = RecapOptimizerConfig(
        single_task_learning_rate=0.1,
        **({"adam": algorithm} if isinstance(algorithm, RecapAdamConfig) else {}),
        **({} if isinstance(algorithm, RecapAdamConfig) else {"algorithm": algorithm}),
    )
    weight, bias = nn.Parameter(torch.zeros(100, 10)), nn.Parameter(torch.zeros(7))
    parameters = {"towers": {"like": {"weight": weight}}, "backbone": {"bias": bias}}
    assert footprint.state_bytes(config, parameters) == expected
    assert not weight.any()


def test_activations_are_what_a_forward_pass_keeps_beside_weights_and_batch():
    class Ranker(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tower = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 1))

        def forward(self, batch: Batch) -> torch.Tensor:
            return self.tower(batch.dense["x"])

    ranker = Ranker()
    batch = Batch({"x": torch.ones(4, 3)}, {}, ("like",), torch.ones(4, 1))
    kept = footprint.activation_bytes(ranker, MultiTaskLoss(("like",)), batch)
    assert kept >= 4 * 4 * (2 + 1)  # the ReLU's output and the logits
    assert kept <= 4 * 4 * (2 + 5) + 64
