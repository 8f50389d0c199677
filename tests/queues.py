"""The queues of hydra/launcher=submitit_local that a test has started."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import psutil


def end_queues(folder: Path) -> None:
    """Kills every queue whose record lies below the folder, and its jobs with it."""
    for record in folder.rglob("queue.json"):
        told = json.loads(record.read_text())
        with suppress(psutil.Error):
            process = psutil.Process(told["pid"])
            if str(record.parent) in process.cmdline():
                for child in process.children(recursive=True):
                    child.kill()
                process.kill()
