"""The inside of a lab's namespaces: process 1 builds the cluster, starts the ranks and reads the counters.

`mpisqueeze lab` starts it under `unshare`. Each host is a child with network, UTS, IPC, mount and PID namespaces of its
own, and lives until this process ends; then the kernel ends all of them.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NoReturn

from mpisqueeze.errors import ExitCode, UsageError
from mpisqueeze.lab.shaping import (
    HEAD,
    LINK,
    Links,
    control_port,
    delay_queue,
    host_commands,
    host_name,
    names_file,
    port_commands,
    switch_commands,
    uplink_commands,
)

FOLDER = Path("/dev/shm")  # of every machine in the cluster its own, so that nothing stays behind
AGENT, HOSTFILE = FOLDER / "agent", FOLDER / "hostfile"
SYSTEM_PATH = ":/usr/sbin:/sbin"  # which not every user's PATH has

#: Seconds between two looks at the hosts, and those that mpirun has to find out by itself.
LOOK_S, GRACE_S = 2.0, 5.0

_OTHER_LAUNCHERS = ("SLURM_", "PBS_", "LSB_", "PMI_", "PMIX_RANK", "PMIX_NAMESPACE", "PMIX_SERVER")

# Its host's process 1 gives mpirun's remote shell the namespaces to enter.
_AGENT = f"""#!/bin/sh
host=$1
shift
read -r pid < {FOLDER}/$host.pid
exec nsenter --target "$pid" --net --uts --ipc --mount --pid -- sh -c "$*"
"""

_NEW_HOST = 0x00020000 | 0x04000000 | 0x08000000 | 0x20000000 | 0x40000000  # CLONE_NEW{NS,UTS,IPC,PID,NET}
_MS_BIND = 4096
_SIOCGIFFLAGS, _IFF_RUNNING = 0x8913, 0x40

# mpirun and its remote shell race for this, and nothing comes of it.
_OWN = f"[{HEAD}:".encode()
_NOISE = re.compile(rb"^\[%s:\d+\] plm:ssh: Warning: setpgid.*\n" % HEAD.encode(), re.MULTILINE)

_libc = ctypes.CDLL(None, use_errno=True)


class Host:
    """The host of a rank, as process 1 of the cluster sees it; `pid` is its own process 1."""

    def __init__(self, links: Links, rank: int) -> None:
        self.rank = rank
        # It tells its process id, is told that its interfaces are there, and tells whether they are configured.
        self._line, theirs = socket.socketpair()
        between = os.fork()
        if not between:
            self._line.close()
            _become_host(links, rank, theirs)
        theirs.close()
        os.waitpid(between, 0)
        told = self._line.recv(4096).decode()
        if not told.isdigit():
            raise OSError(told)
        self.pid = int(told)

    def start(self) -> None:
        """Let it configure its interfaces."""
        self._line.send(b".")

    def wait(self) -> None:
        """Wait until it is configured; raises OSError."""
        told = self._line.recv(4096).decode()
        if told != "ready":
            raise OSError(told or f"{host_name(self.rank)} died")

    def counters(self) -> dict[str, int]:
        """The bytes that its shaped interface has sent and received, Ethernet headers included."""
        for line in Path(f"/proc/{self.pid}/net/dev").read_text().splitlines():
            name, _, numbers = line.partition(":")
            if name.strip() == LINK:
                values = numbers.split()
                return {"bytes_sent": int(values[8]), "bytes_received": int(values[0])}
        raise OSError(f"{host_name(self.rank)} has no {LINK}")


def _become_host(links: Links, rank: int, line: socket.socket) -> NoReturn:
    """Make the namespaces in a child and, in a child of its own, be the host's process 1 until the end."""
    try:
        _check(_libc.unshare(_NEW_HOST), "unshare")
        init = os.fork()
        if init:
            line.send(str(init).encode())
            os._exit(0)
        socket.sethostname(host_name(rank))
        _mount("proc", "/proc", "proc")
        _mount("tmpfs", str(FOLDER), "tmpfs")
        _mount("sysfs", "/sys", "sysfs")
        _write_agent()  # Open MPI 4's daemons insist on it, although only the head node uses it
        line.recv(1)
        _configure(links, rank)
        line.send(b"ready")
        # Whatever loses its parent here becomes a child of this process, and must not stay as a zombie.
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        while True:
            signal.pause()
    except BaseException as error:
        line.send(str(error).encode()[:4096])
    os._exit(1)


def build(links: Links) -> list[Host]:
    """Build the cluster around this process, which becomes its head node.

    Raises:
        UsageError: the kernel lacks a part of it; names the option that asked for it.
    """
    _check_kernel(links)
    try:
        socket.sethostname(HEAD)
        _mount("tmpfs", str(FOLDER), "tmpfs")
        names = FOLDER / "hosts"
        names.write_text(names_file(links.hosts))
        if Path("/etc/hosts").exists():
            _check(_libc.mount(bytes(names), b"/etc/hosts", None, _MS_BIND, None), "mount /etc/hosts")
        hosts = [Host(links, rank) for rank in range(links.hosts)]
        _batch("ip", switch_commands(links, [host.pid for host in hosts]))
        _batch("tc", port_commands(links))
        for host in hosts:
            host.start()
        for host in hosts:
            host.wait()
        _write_agent()
        HOSTFILE.write_text("".join(f"{host_name(host.rank)} slots=1\n" for host in hosts))
        for host in hosts:
            (FOLDER / f"{host_name(host.rank)}.pid").write_text(f"{host.pid}\n")
    except OSError as error:
        raise UsageError(f"the hosts cannot be set up: {error}") from None
    return hosts


def _write_agent() -> None:
    AGENT.write_text(_AGENT)
    AGENT.chmod(0o700)


def _configure(links: Links, rank: int) -> None:
    _batch("ip", host_commands(links, rank))
    _batch("tc", uplink_commands(links))
    # A rank that computes for long would start slowly after it; an older kernel keeps this for itself.
    with contextlib.suppress(OSError):
        Path("/proc/sys/net/ipv4/tcp_slow_start_after_idle").write_text("0")


def _check_kernel(links: Links) -> None:
    """Try each part once, so that what is missing is named."""
    probes = [
        ("ip link add probe type veth peer name probe1", "veth interfaces", None),
        ("ip link add probe2 type bridge", "bridges", None),
        (
            "tc qdisc add dev probe root tbf rate 1mbit burst 9000 limit 9000",
            "the tbf queue that shapes a rate",
            "--rate",
        ),
        (f"tc qdisc add dev probe1 root {delay_queue(links)}", "the netem queue that makes a delay", "--delay"),
    ]
    for command, part, option in probes if links.delay else probes[:-1]:
        result = subprocess.run(command.split(), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if result.returncode:
            raise UsageError(f"this machine's kernel lacks {part} ({_reason(result.stderr)})", option)
    _batch("ip", ["link delete probe", "link delete probe2"])


def _batch(tool: str, lines: list[str]) -> None:
    """Run lines of `ip` or `tc`; raises OSError with the first that fails."""
    result = subprocess.run(
        [tool, "-batch", "-"], input="".join(f"{line}\n" for line in lines), capture_output=True, text=True, check=False
    )
    if result.returncode:
        found = result.stderr.rpartition("Command failed -:")[2].strip()
        at = int(found) - 1 if found.isdigit() else 0
        raise OSError(f"{tool} {lines[at]}: {_reason(result.stderr)}")


def _reason(stderr: str) -> str:
    """The line of `ip` or `tc` that says why."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    return lines[0].removeprefix("Error: ").removeprefix("RTNETLINK answers: ").rstrip(".") if lines else "no reason"


def _mount(source: str, target: str, kind: str) -> None:
    _check(_libc.mount(source.encode(), target.encode(), kind.encode(), 0, None), f"mount {target}")


def _check(result: int, what: str) -> None:
    if result:
        raise OSError(f"{what}: {os.strerror(ctypes.get_errno())}")


def _start(command: list[str], variables: dict[str, str], watch: _Watch) -> tuple[int, str]:
    """Run mpirun, and end it where it waits for a host that is lost; its exit code, and a sentence about the loss."""
    lost = ""
    with subprocess.Popen(command, env=variables, stderr=subprocess.PIPE) as process:
        assert process.stderr
        relay = threading.Thread(target=_relay, args=[process.stderr.fileno()], daemon=True)
        relay.start()
        while process.poll() is None and not lost:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(LOOK_S)
            lost = watch.lost()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_S)
        process.kill()
        process.wait()
        relay.join(1.0)  # a daemon that lost its mpirun may keep the pipe open
    return process.returncode, lost


class _Watch:
    """Looks whether mpirun can reach all hosts, for which it may wait for ever."""

    def __init__(self, hosts: list[Host]) -> None:
        self._hosts = hosts
        self._since: float | None = None

    def lost(self) -> str:
        """A sentence about a host that is lost, or an empty string."""
        for host in self._hosts:
            # The entry of a process that has ended is still there.
            with contextlib.suppress(OSError):
                os.readlink(f"/proc/{host.pid}/ns/net")
                continue
            return f"{host_name(host.rank)} is gone"
        cut = next((host for host in self._hosts if not _is_up(control_port(host.rank))), None)
        if cut is None:
            self._since = None
        elif self._since is None:
            self._since = time.monotonic()
        elif time.monotonic() - self._since > GRACE_S:
            return f"the link by which mpirun reaches {host_name(cut.rank)} is down"
        return ""


def _is_up(interface: str) -> bool:
    """An interface of this network namespace is up, and so is what it is connected to."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh14x", interface.encode(), 0)
        flags: int = struct.unpack("16sh14x", fcntl.ioctl(any_socket, _SIOCGIFFLAGS, request))[1]
    return bool(flags & _IFF_RUNNING)


def _relay(source: int) -> None:
    """Pass on the stderr of mpirun and the ranks, but for noise."""
    held = b""
    while chunk := os.read(source, 1 << 16):
        held = _NOISE.sub(b"", held + chunk)
        # A line of mpirun's own is looked at as a whole.
        ready = held.rfind(b"\n") + 1
        ready = ready if held.startswith(_OWN, ready) else len(held)
        _write(held[:ready])
        held = held[ready:]
    _write(held)


def _write(data: bytes) -> None:
    with contextlib.suppress(OSError):  # nobody reads it
        while data:
            data = data[os.write(2, data) :]


def main(arguments: list[str]) -> int:
    """Build, run, report; the exit code of mpirun.

    Args:
        arguments: as JSON the settings `links`, `variables` and `command`, and a descriptor to report on.
    """
    settings = json.loads(arguments[0])
    descriptor = int(arguments[1])
    os.set_inheritable(descriptor, False)
    os.environ["PATH"] = os.environ.get("PATH", os.defpath) + SYSTEM_PATH
    with open(descriptor, "w", encoding="utf-8") as report:
        try:
            hosts = build(Links(**settings["links"]))
        except UsageError as error:
            json.dump({"error": [error.message, error.option]}, report)
            return ExitCode.USAGE
        before = [host.counters() for host in hosts]
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_OTHER_LAUNCHERS)}
        watch = _Watch(hosts)
        code, lost = _start(settings["command"], {**kept, **settings["variables"]}, watch)
        if lost:
            _write(f"mpisqueeze lab: {lost}\n".encode())
            json.dump({"lost": lost}, report)
            return ExitCode.FAILED
        after = [host.counters() for host in hosts]
        traffic = [{key: b[key] - a[key] for key in a} for a, b in zip(before, after, strict=True)]
        json.dump({"interfaces": traffic}, report)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
