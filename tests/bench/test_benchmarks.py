"""Every benchmark runs, in a setting so small that its numbers say nothing."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from bench import cost, local_prod, machine, products, start_up, step_parts
from bench.__main__ import COMMANDS

BLOCK = "{output_size: 8, aggregation_size: 8, reduction_factor: null, input_layer_norm: false}"
NARROW = (f"model.backbone.mask_blocks=[{BLOCK}]", "model.backbone.mlp.layer_sizes=[8]")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine, "SHAPES", {"cpu": ((8, 8, 8),), "cuda": ((8, 8, 8),)})
    monkeypatch.setattr(machine, "STREAM_VALUES", 1000)


def printed(
    module: ModuleType,
    *arguments: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> str:
    """What the benchmark's command prints."""
    monkeypatch.setattr(sys, "argv", [module.__name__, *arguments])
    module.main()
    return capsys.readouterr().out


def test_the_machines_rates(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    out = printed(machine, "times=1", monkeypatch=monkeypatch, capsys=capsys)
    assert "| 8 × 8 × 8 " in out
    assert "| fused Adam " in out


def test_the_products_of_a_step(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    arguments = ("batch_sizes=8", "repetitions=1", *NARROW)
    out = printed(products, *arguments, monkeypatch=monkeypatch, capsys=capsys)
    rows = [line.split("|")[1].strip() for line in out.splitlines() if line.startswith("|")]
    assert rows[2:] == ["outputs", "gradients of inputs", "gradients of weights", "all"]


def test_the_parts_of_training(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    small = (f"directory={tmp_path}", "rows=48", "batch_sizes=8", "part_rows=16", "repetitions=1")
    arguments = (*small, *NARROW, "tracking=none")
    out = printed(local_prod, *arguments, monkeypatch=monkeypatch, capsys=capsys)
    rows = [line.split("|")[1].strip() for line in out.splitlines() if line.startswith("|")]
    assert [row for row in rows if row != "part" and not row.startswith("-")] == [
        "step alone",
        "whole training",
        "step of plain torch",
        "evaluation",
        "data alone",
    ]
    assert "32 rows in 1 files" in out
    assert "recap's step against plain torch: " in out


def test_seconds_to_the_first_step(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    small = (f"directory={tmp_path}", "rows=384", "repetitions=1", "tracking=none")
    out = printed(start_up, *small, *NARROW, monkeypatch=monkeypatch, capsys=capsys)
    assert "| first step, tracking=none " in out
    assert "| import of torch " in out


def test_the_parts_of_a_step(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    small = (f"directory={tmp_path}", "rows=48", "batch_sizes=8", "part_rows=16")
    arguments = (*small, *NARROW, "tracking=none")
    out = printed(step_parts, *arguments, monkeypatch=monkeypatch, capsys=capsys)
    parts = {
        cells[1].strip(): float(cells[2].split()[0].replace(",", ""))
        for line in out.splitlines()
        if len(cells := line.split("|")) == 4 and "(" in cells[2]
    }
    named = ("waiting for data", "featurization", "user embeddings", "backbone", "towers")
    for part in (*named, "loss", "backward", "optimizer", "logging"):
        assert parts[part] > 0, part
    assert any(name.startswith("aten::") for name in parts)


def test_the_plot_of_the_cost(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    points = ("widths=4", "tasks=11", "batch_sizes=4", "batch_size=8", "repetitions=1")
    small = (f"directory={tmp_path}", "rows=48", f"plot={tmp_path / 'cost.png'}", *NARROW)
    out = printed(cost, *points, *small, monkeypatch=monkeypatch, capsys=capsys)
    assert "| tasks 11 " in out
    assert (tmp_path / "cost.png").read_bytes().startswith(b"\x89PNG")


def test_all_benchmarks_are_run_by_make_bench():
    folder = Path(machine.__file__).parent
    commands = {path.stem for path in folder.glob("*.py") if "def main() ->" in path.read_text()}
    assert set(COMMANDS) == commands - {"__main__"}
