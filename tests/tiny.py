"""A tiny experiment, ``conf/experiment/tiny.yaml``: its data, its runs, what they logged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from recap import checkpoint
from recap.compose import CONF
from recap.tracking import NoRun, NoTracker
from recap.trainer import train

HERE = Path(__file__).resolve().parent
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": f"{HERE.parent}:{HERE}",
    "OMP_NUM_THREADS": "1",
    "MLFLOW_TRACKING_URI": "",  # runs go where the test says
}


def rows(number: int, *, seed: int) -> dict[str, pa.Array]:
    """Columns of so many rows; every label follows from the first three continuous columns."""
    random = np.random.default_rng(seed)
    continuous = random.normal(size=(number, 4)).astype(np.float32)
    labels = random.random((number, 3)) < 1 / (1 + np.exp(-3 * continuous[:, :3]))
    binary = random.integers(0, 2, size=2 * number)
    return {
        "c": pa.FixedSizeListArray.from_arrays(pa.array(continuous.ravel()), 4),
        "b": pa.FixedSizeListArray.from_arrays(pa.array(binary), 2),
        "video_id": pa.array(random.integers(0, 20, size=number)),
        **{
            f"is_{task}": pa.array(labels[:, i].astype(np.int8))
            for i, task in enumerate(["like", "follow", "reply"])
        },
    }


def write(path: Path, columns: Mapping[str, pa.Array]) -> Path:
    """A file of the columns in row groups of 16."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(dict(columns)), path, row_group_size=16)
    return path


def write_data(root: Path, *, train_rows: int = 96, valid_rows: int = 60) -> None:
    """Two files of training rows and one of validation rows."""
    for part in range(2):
        write(root / f"train/part-{part}.parquet", rows(train_rows // 2, seed=part))
    write(root / "valid/part-0.parquet", rows(valid_rows, seed=2))


@dataclass(frozen=True)
class Tiny:
    """The experiment on the data of one folder; its runs are made in that folder, too."""

    root: Path

    def overrides(self, *more: str, run: str = "run") -> list[str]:
        """Of the command line, for the run directory ``run``."""
        return [
            "experiment=tiny",
            f"data_root={self.root}",
            f"training.save_dir={self.root / run}",
            *more,
        ]

    def config(self, *overrides: str, run: str = "run", config_name: str = "train") -> DictConfig:
        """The composed config of the command ``config_name``."""
        search = f"hydra.searchpath=[file://{HERE / 'conf'}]"
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose(config_name, [search, *self.overrides(*overrides, run=run)])

    def train(self, *overrides: str, run: str = "run") -> float | None:
        """Trains in this process."""
        return train(self.config(*overrides, run=run))

    def command(self, *overrides: str, run: str = "run") -> list[str]:
        """The command that trains in a process of its own."""
        module = [sys.executable, "-m", "recap.train", f"--config-dir={HERE / 'conf'}"]
        return [*module, *self.overrides(*overrides, run=run)]

    def train_elsewhere(self, *overrides: str, run: str = "run") -> subprocess.CompletedProcess:
        """Trains in a process of its own, to the end."""
        return subprocess.run(
            self.command(*overrides, run=run),
            env=ENVIRONMENT,
            cwd=self.root,
            text=True,
            capture_output=True,
            timeout=120,
        )

    def state(self, run: str = "run") -> dict:
        """The latest checkpoint of a run."""
        latest = checkpoint.latest(self.root / run)
        assert latest is not None
        return checkpoint.load(latest)

    def steps(self, run: str = "run") -> list[int]:
        """The steps that a run has checkpoints of."""
        folder = self.root / run / "checkpoints"
        return sorted(int(path.name.removeprefix("step-")) for path in folder.glob("step-*"))

    def logged(self, run: str = "run") -> dict[str, dict[int, float]]:
        """What a run logged: name → step → value."""
        values: dict[str, dict[int, float]] = defaultdict(dict)
        for line in (self.root / run / "logged.jsonl").read_text().splitlines():
            entry = json.loads(line)
            values[entry["name"]][entry["step"]] = entry["value"]
        return values


class FileTracker(NoTracker):
    """Records metrics in ``logged.jsonl`` of the run directory."""

    def run(
        self,
        run_dir: Path,
        *,
        overrides: Sequence[str] = (),
        config_yaml: str = "",
        tags: Mapping[str, str] | None = None,
        name: str | None = None,
        parent: Path | None = None,
        resume_step: int = 0,
    ) -> FileRun:
        """The run of the directory."""
        return FileRun(run_dir / "logged.jsonl")

    def join(self, run_dir: Path) -> FileRun:
        """The run of the directory."""
        return FileRun(run_dir / "logged.jsonl")


class FileRun(NoRun):
    """A run recorded line by line."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append the metrics."""
        with self._path.open("a") as file:
            for name, value in metrics.items():
                print(json.dumps({"step": step, "name": name, "value": value}), file=file)
