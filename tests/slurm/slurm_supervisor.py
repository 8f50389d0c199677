"""The process that a SLURM of two nodes runs under: ``slurm_supervisor.py FOLDER``.

It is the parent of the daemons and of all that they start, and ends them as soon as no process
holds the folder's shared lock: at the end of the tests, and also when they are killed.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import pwd
import shutil
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil

PR_SET_CHILD_SUBREAPER = 36

# cred_expire: as long as a requeued job waits before it starts again
# config_overrides: two processors a node, whatever this machine has
CONFIG = """
ClusterName=recap
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=0
SlurmctldParameters=preempt_send_user_signal
SlurmdParameters=config_overrides
ReturnToService=2
MpiDefault=none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=20
MailProg=/bin/true
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdSpoolDir={folder}/spool-%n
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 RealMemory=8000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 RealMemory=8000
PartitionName=low Nodes=ALL Default=YES MaxTime=60 PriorityTier=1 GraceTime=20
PartitionName=high Nodes=ALL MaxTime=60 PriorityTier=10
"""


def main(folder: Path) -> None:
    """Returns at once; a process in the background starts the cluster and ends it.

    Once the cluster runs there is a file ``ready`` in the folder, or else one ``failed``.
    """
    if os.fork():
        return
    (folder / "supervisor.pid").write_text(str(os.getpid()))
    # what a daemon leaves behind, a job's step for one, becomes a child of this process
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    lock = os.open(folder, os.O_RDONLY)
    try:
        daemons = start(folder)
        while not up(folder) and alive(daemons):
            time.sleep(0.1)
        if alive(daemons):
            (folder / "ready").touch()
            while in_use(lock):
                time.sleep(0.2)
    finally:
        end_all()
    if (folder / "ready").exists():
        shutil.rmtree(folder)
    else:
        (folder / "failed").touch()


def start(folder: Path) -> list[subprocess.Popen]:
    """The daemons: munged, slurmctld and a slurmd for each node."""
    settings = folder / "slurm.conf"
    settings.write_text(
        CONFIG.format(
            folder=folder,
            host=socket.gethostname(),
            user=pwd.getpwuid(os.getuid()).pw_name,
            ports=free_ports(3),
        )
    )
    os.environ["SLURM_CONF"] = str(settings)
    for name in ("state", "spool-n1", "spool-n2"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    munge = [f"--{name}={folder}/munge.{name}" for name in ("socket", "pid-file", "seed-file")]
    commands = {
        # forced: it asks that its socket's folder be open to everyone
        "munged": ["munged", "--foreground", "--force", f"--key-file={key}", *munge],
        "slurmctld": ["slurmctld", "-D"],
        "slurmd-n1": ["slurmd", "-D", "-N", "n1"],
        "slurmd-n2": ["slurmd", "-D", "-N", "n2"],
    }
    with ExitStack() as logs:
        return [
            subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=(log := logs.enter_context((folder / f"{name}.log").open("w"))),
                stderr=log,
            )
            for name, command in commands.items()
        ]


def free_ports(number: int) -> list[int]:
    """Ports that no process listens on."""
    with ExitStack() as sockets:
        held = [sockets.enter_context(socket.socket()) for _ in range(number)]
        for each in held:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in held]


def up(folder: Path) -> bool:
    """Both nodes wait for jobs."""
    states = subprocess.run(
        ["sinfo", "--noheader", "--Node", "--format=%T"], capture_output=True, text=True
    )
    return states.stdout.split() == ["idle"] * 4  # of each partition


def alive(daemons: list[subprocess.Popen]) -> bool:
    """All of them."""
    return all(daemon.poll() is None for daemon in daemons)


def in_use(lock: int) -> bool:
    """Some process holds the lock; once none does, none can take it any more."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def end_all() -> None:
    """Ends every process under this one."""
    while children := psutil.Process().children(recursive=True):
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.kill()
        psutil.wait_procs(children, timeout=5)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
