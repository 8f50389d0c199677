"""stub"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from recap.launcher.settings import LocalSettings
from recap.launcher.slurm import Entry
from recap.launcher.submission import Submission


def submit(submission: Submission, settings: LocalSettings, jobs: Sequence[tuple[Any, ...]], run: Callable[..., Any], environment: Mapping[str, str]) -> list[str]:
    raise NotImplementedError


def queue(submission: Submission) -> dict[str, Entry] | None:
    raise NotImplementedError


def plan(settings: LocalSettings, run_dirs: Sequence[str]) -> str:
    raise NotImplementedError
