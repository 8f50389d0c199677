"""Every benchmark runs, in a setting so small that its numbers say nothing."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from bench import machine


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
