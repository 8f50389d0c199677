"""The cluster that the tests of this folder share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from slurm_cluster import Cluster, missing


@pytest.fixture(scope="session")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A SLURM of two nodes, one for all of xdist's workers; it ends with the last of them."""
    if lack := missing():
        pytest.skip(lack)
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    with FileLock(folder / "slurm.lock"):
        where = folder / "slurm_cluster"
        cluster = Cluster.joined(Path(where.read_text())) if where.exists() else None
        if cluster is None:
            cluster = Cluster.started()
            where.write_text(str(cluster.folder))
    yield cluster
    cluster.leave()


@pytest.fixture
def cluster(shared_cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """The cluster, with no jobs, for this test alone; SLURM's commands and libraries find it."""
    for name, value in shared_cluster.environment.items():
        monkeypatch.setenv(name, value)
    with FileLock(shared_cluster.folder / "test.lock"):
        yield shared_cluster
        shared_cluster.cleared()
