"""The file that ties a run directory to the run recorded for it."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from recap.tracking.provenance import without_passwords

log = logging.getLogger(__name__)

RUN_ID_FILE = "mlflow_run_id"


def read_run_id(run_dir: Path, uri: str) -> str | None:
    """Id of the run recorded for the directory in this store; None where there is none."""
    try:
        run_id, recorded_in = (Path(run_dir) / RUN_ID_FILE).read_text().splitlines()
    except FileNotFoundError:
        return None
    if recorded_in != without_passwords(uri):
        log.warning(
            "tracking: %s names run %s in %s; tracking.uri=%s begins a new one",
            Path(run_dir) / RUN_ID_FILE,
            run_id,
            recorded_in,
            without_passwords(uri),
        )
        return None
    return run_id


def write_run_id(run_dir: Path, run_id: str, uri: str) -> None:
    """Keep the run's id and its store in the directory; a crash leaves the old file or the new."""
    run_dir.mkdir(parents=True, exist_ok=True)
    aside = run_dir / f"{RUN_ID_FILE}.tmp"
    with aside.open("w") as file:
        file.write(f"{run_id}\n{without_passwords(uri)}\n")
        file.flush()
        os.fsync(file.fileno())
    aside.replace(run_dir / RUN_ID_FILE)
