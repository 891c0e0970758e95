"""A SLURM cluster of this machine: munged, slurmctld and slurmd in a folder of their own, on ports of their own.

    python one_node.py FOLDER      until its standard input is closed

`FOLDER/slurm.conf` is what SLURM_CONF has to name. Nothing else on the machine is touched, and when the input is
closed, be it that whoever held it was killed, all that ever ran in the cluster is killed and the folder removed.
"""

from __future__ import annotations

import contextlib
import ctypes
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel")
#: Cores that the node claims to have; ranks wait a lot.
CPUS = 8
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36

#: Everything is tried again at once, jobs may not wait, and a low partition's jobs are requeued for a high one's.
CONFIGURATION = """
ClusterName=one
SlurmctldHost={head}({address})
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
# A requeued job waits until a step's credential has expired; less than 5 s is refused.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MailProg=/bin/true
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1,sched_min_interval=0,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=10
SlurmdTimeout={timeout}
ReturnToService=2
# PMIx looks for a rank's host by the name that the host has itself.
{nodes}
PartitionName=low Nodes={names} Default=YES PriorityTier=1
PartitionName=high Nodes={names} PriorityTier=2
"""


def missing() -> list[str]:
    """The programs that are not installed; Debian has them in slurmctld, slurmd, slurm-client and munge."""
    return [name for name in PROGRAMS if which(name) is None]


def which(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def write_configuration(folder: Path) -> None:
    host = socket.gethostname().partition(".")[0]
    for name in ("state", f"spool-{host}"):
        (folder / name).mkdir()
    make_key(folder)
    controller, node = free_ports(2)
    text = CONFIGURATION.format(
        folder=folder, controller=controller, node=node, head=host, address="127.0.0.1", user=getpass.getuser(),
        timeout=300, nodes=f"NodeName={host} NodeAddr=127.0.0.1 CPUs={CPUS} State=UNKNOWN", names=host,
    )  # fmt: skip
    (folder / "slurm.conf").write_text(text)


def make_key(folder: Path) -> None:
    key = folder / "munge.key"
    key.touch(0o600)
    key.write_bytes(os.urandom(128))


def key_options(folder: Path) -> list[str]:
    """The options of munged. Its own rules for folders are for machines with other users."""
    files = {"key": "munge.key", "socket": "munge.socket", "pid": "munged.pid", "log": "munged.log", "seed": "seed"}
    options = [f"--{name}-file={folder / file}" for name, file in files.items() if name != "socket"]
    return ["--foreground", "--force", f"--socket={folder / 'munge.socket'}", *options]


def start(folder: Path, name: str, *arguments: str) -> subprocess.Popen[bytes]:
    """A daemon in the foreground, which the kernel kills should this process be killed."""
    prctl = ctypes.CDLL(None).prctl
    program = which(name)
    assert program is not None
    with open(folder / f"{name}.out", "wb") as out:
        return subprocess.Popen(
            [program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            preexec_fn=lambda: prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0),
        )


def kill_all() -> None:
    """Kill what descends from this process: whatever lost its parent has become its child."""
    while children := psutil.Process().children(recursive=True):
        for child in children:
            with contextlib.suppress(psutil.Error):
                child.kill()
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        psutil.wait_procs(children, timeout=0.1)


def main() -> None:
    folder = Path(sys.argv[1])
    # SLURM's steps are daemons, which nobody would know of once slurmd has ended.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    try:
        write_configuration(folder)
        conf = str(folder / "slurm.conf")
        start(folder, "munged", *key_options(folder))
        start(folder, "slurmctld", "-D", "-f", conf)
        start(folder, "slurmd", "-D", "-f", conf, "-N", socket.gethostname().partition(".")[0])
        sys.stdin.buffer.read()
    finally:
        kill_all()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
