"""A SLURM cluster of several hosts on this machine, each with network, UTS, IPC, PID and mount namespaces of its own.

    python nodes.py FOLDER HOSTS SHARED…      until its standard input is closed; needs root, iproute2 and util-linux

Hosts `n1`, `n2`, … and the head, which has slurmctld, are on a bridge. Each has a /tmp of its own, but for FOLDER and
the folders SHARED, as on a shared file system. FOLDER/n2 has the pid, on this machine, of the host's process 1: SIGKILL
is a power cut. On standard input, `up 2` starts the host anew. All ends when the input is closed, as in `one_node.py`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

from one_node import CONFIGURATION, key_options, kill_all, make_key, start, which

HEAD = "10.99.0.254"
#: GPUs that each host claims to have; their device files are like /dev/null.
GPUS = 2
#: Cores that each host claims to have.
CPUS = 4
#: The inside of a host. PMIx keeps folders in /tmp whose names are the same on each host.
HOST = """
set -e
hostname {name}
mount -t tmpfs -o size=64m shm /dev/shm
mkdir -p {folder}/tmp-{name}
for shared in {shared}; do
    mkdir -p {folder}/tmp-{name}/${{shared#/tmp/}}
    mount --rbind "$shared" {folder}/tmp-{name}/${{shared#/tmp/}}
done
chmod 1777 {folder}/tmp-{name}
mount --rbind {folder}/tmp-{name} /tmp
cd {folder}
# SLURM 22.05 does not start a step whose socket a power cut has left behind.
rm -f {folder}/spool-{name}/stepd.*
ip link set lo up
read -r go
# Whoever spoke to the host before its power cut still knows this address.
ip link set eth0 address 02:00:00:00:00:{number:02x}
ip addr add {address}/24 dev eth0
ip link set eth0 up
# As systemd does: one that is killed is started again. The first tells that the host was booted, which hosts of one
# machine do not see.
booted=-b
while :; do
    {slurmd} -D -f {folder}/slurm.conf -N {name} $booted || true
    booted=
    sleep 2
done
"""


def configuration(folder: Path, count: int) -> str:
    each = f"CPUs={CPUS} Gres=gpu:{GPUS} State=UNKNOWN"
    nodes = "".join(f"NodeName=n{i} NodeAddr=10.99.0.{i} {each}\n" for i in range(1, count + 1))
    return CONFIGURATION.format(
        folder=folder, head="head", address=HEAD, controller=6817, node=6818, user="root", timeout=10,
        nodes=f"GresTypes=gpu\n{nodes}", names="ALL",
    )  # fmt: skip


def run(*words: str) -> None:
    subprocess.run(words, check=True)


class Host:
    """A host that is up."""

    def __init__(self, folder: Path, number: int, shared: list[str]) -> None:
        self.folder, self.number, self.name = folder, number, f"n{number}"
        inside = HOST.format(
            folder=folder,
            name=self.name,
            shared=" ".join(shared),
            address=f"10.99.0.{number}",
            number=number,
            slurmd=which("slurmd"),
        )
        with open(folder / f"{self.name}.out", "ab") as out:
            # The host's process 1 dies with this unshare, and with it all processes of the host.
            flags = ("--mount", "--uts", "--ipc", "--net", "--pid", "--fork", "--kill-child", "--mount-proc")
            self.process = subprocess.Popen(
                ["unshare", *flags, "bash", "-c", inside], stdin=subprocess.PIPE, stdout=out, stderr=out
            )
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        while not (pids := children.read_text().split()):
            time.sleep(0.01)
        self.pid = pids[0]
        while os.readlink(f"/proc/{self.pid}/ns/net") == os.readlink("/proc/self/ns/net"):
            time.sleep(0.01)
        run("ip", "link", "add", f"v{number}", "type", "veth", "peer", "name", "eth0", "netns", self.pid)
        run("ip", "link", "set", f"v{number}", "master", "br0", "up")
        (folder / self.name).write_text(self.pid)
        assert self.process.stdin
        self.process.stdin.write(b"go\n")
        self.process.stdin.close()

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        subprocess.run(["ip", "link", "del", f"v{self.number}"], stderr=subprocess.DEVNULL, check=False)


def inside(folder: Path, count: int, shared: list[str]) -> None:
    """Be the head."""
    run("hostname", "head")
    run("mount", "--make-rprivate", "/")
    names = {"127.0.0.1": "localhost", HEAD: "head", **{f"10.99.0.{i}": f"n{i}" for i in range(1, count + 1)}}
    (folder / "hosts").write_text("".join(f"{address} {name}\n" for address, name in names.items()))
    run("mount", "--bind", str(folder / "hosts"), "/etc/hosts")
    run("ip", "link", "set", "lo", "up")
    run("ip", "link", "add", "br0", "type", "bridge")
    run("ip", "addr", "add", f"{HEAD}/24", "dev", "br0")
    run("ip", "link", "set", "br0", "up")
    for name in ("state", *(f"spool-n{i}" for i in range(1, count + 1))):
        (folder / name).mkdir()
    make_key(folder)
    devices = [folder / f"gpu{i}" for i in range(GPUS)]
    for device in devices:
        # SLURM wants devices; these are like /dev/null.
        os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    (folder / "gres.conf").write_text("".join(f"Name=gpu File={device}\n" for device in devices))
    (folder / "slurm.conf").write_text(configuration(folder, count))
    start(folder, "munged", *key_options(folder))
    start(folder, "slurmctld", "-D", "-f", str(folder / "slurm.conf"))
    hosts = {i: Host(folder, i, shared) for i in range(1, count + 1)}
    (folder / "head").write_text(str(os.getpid()))
    for line in sys.stdin:
        word, _, number = line.strip().partition(" ")
        if word == "up":
            hosts[int(number)].stop()
            hosts[int(number)] = Host(folder, int(number), shared)
    for host in hosts.values():
        host.stop()


def main() -> None:
    folder, count, shared = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    if "SLURM_NODES_INSIDE" not in os.environ:
        os.environ["SLURM_NODES_INSIDE"] = "1"
        os.execvp("unshare", ["unshare", "--mount", "--uts", "--net", sys.executable, __file__, *sys.argv[1:]])
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER, as in one_node
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    try:
        inside(folder, count, [str(folder), *shared])
    finally:
        kill_all()
        with contextlib.suppress(OSError):
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
