"""Runs of an MLflow store: found, begun, continued."""

from __future__ import annotations

import hashlib
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Param, RunTag
from mlflow.entities import Run as StoredRun
from mlflow.exceptions import MlflowException
from mlflow.tracking.context.registry import resolve_tags
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from recap.tracking.mlflow import MlflowTracker, sqlite_path
from recap.tracking.provenance import parse_overrides, provenance, without_passwords
from recap.tracking.run_id import RUN_ID_FILE, read_run_id, write_run_id
from recap.tracking.sender import first_line

log = logging.getLogger(__name__)

CONFIG_DIGEST_TAG = "config_sha256"
MAX_PARAMS_PER_CALL = 100
MAX_PARAM_LENGTH = 6000
MAX_TAG_LENGTH = 8000
MAX_NAME_LENGTH = 250

logging.getLogger("alembic").setLevel(logging.WARNING)
logging.getLogger("mlflow").setLevel(logging.WARNING)
# It warns of every retry; recap.tracking.sender warns once.
logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)


def begin(
    settings: MlflowTracker,
    run_dir: Path,
    *,
    overrides: Sequence[str],
    config_yaml: str,
    tags: Mapping[str, str] | None = None,
    name: str | None = None,
    parent: Path | None = None,
    resume_step: int = 0,
) -> tuple[MlflowClient, StoredRun, bool]:
    """The client, the run, and whether a step done again must come out the same.

    Arguments as in ``recap.tracking.Tracker.run``, and what it raises.
    """
    uri = settings.store()
    run_dir = Path(run_dir).absolute()
    config_yaml = without_passwords(config_yaml)
    params = parse_overrides(overrides)
    facts = {
        key: value[:MAX_TAG_LENGTH]
        for key, value in {**provenance(run_dir), **(tags or {})}.items()
    }
    facts[CONFIG_DIGEST_TAG] = hashlib.sha256(config_yaml.encode()).hexdigest()
    with _explained(uri):
        client, experiment_id = _open(settings, uri)
        run_id = read_run_id(run_dir, uri)
        if run_id is not None:
            stored = _find(client, run_id, run_dir, uri)
            unchanged = _record_changes(client, stored, facts, params, config_yaml, resume_step)
            client.update_run(run_id, status="RUNNING")
            return client, stored, unchanged
        if parent is not None and (parent_id := read_run_id(parent, uri)):
            facts[MLFLOW_PARENT_RUN_ID] = parent_id
        elif parent is not None:
            log.warning("tracking: no run stands for sweep %s; %s has no parent", parent, name)
        stored = client.create_run(
            experiment_id,
            tags=resolve_tags(facts),
            run_name=settings.run_name or name or run_dir.name,
        )
        write_run_id(run_dir, stored.info.run_id, uri)
        _log_params(client, stored.info.run_id, params)
        client.log_text(stored.info.run_id, config_yaml, "config.yaml")
        return client, stored, True


def joined(settings: MlflowTracker, run_dir: Path, uri: str) -> tuple[MlflowClient, StoredRun]:
    """The client and the run recorded for the directory; raises as ``MlflowTracker.join`` does."""
    with _explained(uri):
        run_id = read_run_id(run_dir, uri)
        if run_id is None:
            raise ValueError(
                f"tracking: {run_dir} has no run in tracking.uri={without_passwords(uri)}; "
                "name its store with tracking.uri=…, or leave the record out with tracking=none"
            )
        client, _ = _open(settings, uri)
        return client, _find(client, run_id, run_dir, uri)


def end_sweep(
    settings: MlflowTracker,
    sweep_dir: Path,
    *,
    status: str,
    tags: Mapping[str, str],
    objective: float | None,
) -> None:
    """Records what a sweep came to; see ``recap.tracking.Tracker.close_sweep``."""
    uri = settings.store()
    run_id = read_run_id(sweep_dir, uri)
    if run_id is None:
        return
    with _explained(uri):
        client, _ = _open(settings, uri)
        facts = [RunTag(key, value[:MAX_TAG_LENGTH]) for key, value in tags.items()]
        client.log_batch(run_id, tags=facts)
        if objective is not None:
            client.log_metric(run_id, "objective", objective)
        if status == "RUNNING":
            client.update_run(run_id, status=status)
        else:
            client.set_terminated(run_id, status)


def _open(settings: MlflowTracker, uri: str) -> tuple[MlflowClient, str]:
    """The client and the experiment's id."""
    path = sqlite_path(uri)
    if path is None:
        return _open_experiment(settings.experiment, uri, Path(settings.folder).absolute())
    path.parent.mkdir(parents=True, exist_ok=True)
    # The first process creates the tables, and mlflow lets nobody else come in meanwhile.
    with FileLock(f"{path}.lock"):
        return _open_experiment(settings.experiment, uri, path.parent)


def _open_experiment(name: str, uri: str, folder: Path) -> tuple[MlflowClient, str]:
    with warnings.catch_warnings():
        # mlflow 3.17 uses what SQLAlchemy 2.1 calls deprecated: nothing that a run can act on.
        warnings.simplefilter("ignore", DeprecationWarning)
        client = MlflowClient(uri)
    served = uri.startswith(("http://", "https://", "databricks"))
    location = None if served else (folder / "mlartifacts").as_uri()
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            return client, client.create_experiment(name, location)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            experiment = client.get_experiment_by_name(name)
            assert experiment is not None
    if experiment.lifecycle_stage == "deleted":
        raise ValueError(
            f"tracking.experiment={name} was deleted from "
            f"tracking.uri={without_passwords(uri)}; `mlflow experiments restore "
            f"--experiment-id {experiment.experiment_id}` brings it back"
        )
    return client, experiment.experiment_id


def _find(client: MlflowClient, run_id: str, run_dir: Path, uri: str) -> StoredRun:
    """The run that the directory names, as the store has it."""
    way_out = f"remove {run_dir / RUN_ID_FILE} to begin a new run, or train with tracking=none"
    place = f"tracking: run {run_id} of {run_dir} is not in tracking.uri={without_passwords(uri)}"
    try:
        stored = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise ValueError(f"{place} any more; {way_out}") from error
    if stored.info.lifecycle_stage == "deleted":
        restore = f"`mlflow runs restore --run-id {run_id}` brings it back"
        raise ValueError(f"{place}: it was deleted; {restore}, {way_out}")
    return stored


def _record_changes(
    client: MlflowClient,
    stored: StoredRun,
    facts: Mapping[str, str],
    params: Mapping[str, str],
    config_yaml: str,
    resume_step: int,
) -> bool:
    """Tag what differs from the run's start; True if a step done again must come out the same."""
    tags, run_id = stored.data.tags, stored.info.run_id
    before = {**stored.data.params, **tags}
    now = {_param_name(key): value[:MAX_PARAM_LENGTH] for key, value in params.items()}
    gone = {key: "(not given)" for key in stored.data.params if key not in now}
    changes = {k: v for k, v in {**facts, **now, **gone}.items() if before.get(k) != v}
    digest = facts[CONFIG_DIGEST_TAG]
    changes.pop(CONFIG_DIGEST_TAG, None)
    for key, value in changes.items():
        client.set_tag(run_id, f"resumed_at_{resume_step}/{key}"[:MAX_NAME_LENGTH], value)
    same_config = tags.get(CONFIG_DIGEST_TAG) == digest
    if not same_config:
        client.log_text(run_id, config_yaml, f"config-{resume_step}.yaml")
        client.set_tag(run_id, CONFIG_DIGEST_TAG, digest)
    return same_config and "git.commit" not in changes


def _log_params(client: MlflowClient, run_id: str, params: Mapping[str, str]) -> None:
    entries = [Param(_param_name(key), value[:MAX_PARAM_LENGTH]) for key, value in params.items()]
    for start in range(0, len(entries), MAX_PARAMS_PER_CALL):
        client.log_batch(run_id, params=entries[start : start + MAX_PARAMS_PER_CALL])


def _param_name(key: str) -> str:
    """The override's key, without the characters that MLflow refuses (as in ``group@package``)."""
    return re.sub(r"[^\w\-. :/]", "_", key)[:MAX_NAME_LENGTH]


@contextmanager
def _explained(uri: str) -> Iterator[None]:
    """What the store raises comes out as ConnectionError with the setting and the ways out."""
    try:
        yield
    except Exception as error:  # mlflow, requests, sqlalchemy and the file system each have theirs
        if type(error) is ValueError:  # ours, which says more; json's and requests' are subclasses
            raise
        raise ConnectionError(
            f"tracking.uri={without_passwords(uri)} does not work: {first_line(error)}; "
            "start it, name another with tracking.uri=…, or train with tracking=none"
        ) from error
