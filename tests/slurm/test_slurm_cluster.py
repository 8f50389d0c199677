"""The cluster of the tests itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
from slurm_cluster import Cluster, wait_for

STARTS_A_JOB = """
import sys
from slurm_cluster import Cluster

cluster = Cluster.started()
job = cluster.run("sbatch", "--parsable", "--nodes=2", "--output=/dev/null",
                  "--wrap=srun --ntasks-per-node=1 sleep 1000").stdout.strip()
print(cluster.folder, job, flush=True)
sys.stdin.read()
"""


def test_a_command_runs_on_both_nodes(cluster: Cluster):
    said = cluster.run("srun", "--nodes=2", "printenv", "SLURMD_NODENAME")
    assert sorted(said.stdout.split()) == ["n1", "n2"]


def test_a_cluster_whose_tests_are_killed_ends_with_its_jobs_and_another_one_stays(
    cluster: Cluster,
):
    killed = subprocess.Popen(
        [sys.executable, "-c", STARTS_A_JOB],
        cwd=Path(__file__).parent,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with killed:
        assert killed.stdout is not None
        folder, job = killed.stdout.readline().split()
        assert folder != str(cluster.folder)
        supervisor = psutil.Process(int((Path(folder) / "supervisor.pid").read_text()))
        sleeping = wait_for(
            lambda: [p for p in supervisor.children(recursive=True) if p.name() == "sleep"][1:],
            f"job {job} on both nodes",
            seconds=30,
        )
        theirs = supervisor.children(recursive=True)
        killed.kill()
    wait_for(lambda: not Path(folder).exists(), "the cluster to end", seconds=30)
    assert not [process for process in (*sleeping, *theirs) if process.is_running()]
    assert cluster.run("scontrol", "ping").returncode == 0
