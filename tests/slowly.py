"""Steps of ``preprocess`` with which a test decides how long a job runs, and how it ends."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from recap.data.rows import Rows
from recap.schema import Schema


@dataclass(frozen=True, kw_only=True)
class Slowly:
    """Rows as they are, each row group of 16 after so many seconds for as long as a file exists."""

    seconds: float
    while_exists: str
    reads = ()

    def schema(self, schema: Schema) -> Schema:
        """As it is."""
        return schema

    def __call__(self, rows: Rows) -> Rows:
        """The rows themselves."""
        if Path(self.while_exists).exists():
            time.sleep(self.seconds)
        return rows


@dataclass(frozen=True, kw_only=True)
class FailsOnRank:
    """Rows as they are, but on one rank of a SLURM job an error."""

    rank: int
    reads = ()

    def schema(self, schema: Schema) -> Schema:
        """As it is."""
        return schema

    def __call__(self, rows: Rows) -> Rows:
        """The rows themselves.

        Raises:
            RuntimeError: on that rank.
        """
        if os.environ.get("SLURM_PROCID") == str(self.rank):
            raise RuntimeError(f"rank {self.rank} fails on purpose")
        return rows
