"""Hosts and links of a lab that fail while a run goes on: it ends in seconds with a line, or goes on as if nothing."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import wait_for
from test_lab import Lab, needs_namespaces

pytestmark = [pytest.mark.slow, needs_namespaces]

SLOW = f"{Path(__file__).parent / 'slurm' / 'slow_gradient.py'}:Slow"
#: Large messages, so that some are longer than a packet.
LARGE = ("--problem", "quadratic:20000", "--algorithm", "sgd")


class Faults:
    """A lab of three hosts whose ranks train.

    Attributes:
        head: process 1 of the cluster; hosts: process 1 of each host, by rank.
    """

    def __init__(self, lab: Lab, *options: str, iterations: int = 4000) -> None:
        self.lab, self.log = lab, lab.folder / "run" / "iterations.jsonl"
        command = ("train", "--problem", SLOW, "--iterations", str(iterations), "--out", "run", *options)
        process = lab.start("-n", "3", "--rate", "100mbit", "--", *command, SLOW_S="0.05")
        self.reaches(20)
        inside = [each for each in psutil.Process(process.pid).children(True) if "lab.hosts" in str(each.cmdline())]
        names = {each: self._name(each) for each in inside}
        self.head = next(each for each, name in names.items() if name == "head" and "unshare" not in each.name())
        hosts = {int(name[4:]): each for each, name in names.items() if name.startswith("host")}
        self.hosts = [hosts[rank] for rank in range(3)]

    def _name(self, process: psutil.Process) -> str:
        command = ["nsenter", "-t", str(process.pid), "-u", "hostname"]
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()

    def iterations(self) -> int:
        return self.log.read_text().count("\n") if self.log.exists() else 0

    def reaches(self, iteration: int) -> None:
        wait_for(lambda: self.iterations() >= iteration, f"iteration {iteration}")

    def on_head(self, *command: str) -> None:
        subprocess.run(["nsenter", "-t", str(self.head.pid), "-n", *command], check=True)

    def link(self, name: str, *state: str) -> None:
        self.on_head("ip", "link", "set", name, *state)

    def rank(self, number: int) -> psutil.Process:
        """A rank: the only process of its host that trains."""
        space = os.readlink(f"/proc/{self.hosts[number].pid}/ns/pid")
        for process in psutil.Process(self.lab.process.pid).children(True) if self.lab.process else ():
            there = os.readlink(f"/proc/{process.pid}/ns/pid") == space
            if there and "train" in process.cmdline() and Path(process.cmdline()[0]).name.startswith("python"):
                return process
        raise AssertionError("there is no such rank")


@pytest.fixture
def faults(tmp_path: Path) -> Iterator[Callable[..., Faults]]:
    lab = Lab(tmp_path)
    yield lambda *options, **more: Faults(lab, *options, **more)
    if lab.process and lab.process.poll() is None:
        lab.process.kill()
        lab.process.communicate()


def lose_towards(run: Faults) -> None:
    """Packets to host2 are lost, and those from there are not."""
    run.on_head("tc", "qdisc", "replace", "dev", "port2", "root", "tbf", "rate", "8kbit", "burst", "40", "limit", "40")


@pytest.mark.parametrize(
    ("fault", "options", "limit_s", "says"),
    [
        (lambda run: run.hosts[2].kill(), (), 15, r"mpisqueeze lab: host2 is gone"),
        (lambda run: run.link("control2", "down"), (), 20, r"the link by which mpirun reaches host2 is down"),
        (
            lambda run: run.link("port2", "down"),
            ("--heartbeat", "5s"),
            20,
            r"rank \d on host\d cannot be reached: nothing was acknowledged for --heartbeat 5 s; "
            r"\d+ s ago it was (computing the gradient|exchanging) in iteration \d+",
        ),
        (lose_towards, ("--heartbeat", "5s"), 20, r"rank \d on host\d cannot be reached: nothing was acknowledged"),
        (
            lambda run: run.link("port2", "mtu", "600"),
            ("--heartbeat", "5s", *LARGE),
            30,
            r"rank \d on host\d answers messages of 512 bytes, and none of 1024",
        ),
    ],
)
def test_a_fault_ends_the_lab_in_seconds(
    faults: Callable[..., Faults], fault: Callable[[Faults], Any], options: tuple[str, ...], limit_s: float, says: str
) -> None:
    run = faults(*options)
    began = time.monotonic()
    fault(run)
    done = run.lab.finish()
    took = time.monotonic() - began
    assert done.code == 4, done.err
    assert re.search(says, done.err), done.err
    assert "Traceback" not in done.err
    assert took < limit_s


def cut_for_5_s(run: Faults) -> None:
    run.link("port2", "down")
    time.sleep(5)
    run.link("port2", "up")


def stop_for_20_s(run: Faults) -> None:
    rank = run.rank(1)
    os.kill(rank.pid, signal.SIGSTOP)
    time.sleep(20)
    os.kill(rank.pid, signal.SIGCONT)


def slow_down(run: Faults) -> None:
    """A hundredth of the rate."""
    run.on_head(
        "tc", "qdisc", "replace", "dev", "port2", "root", "tbf", "rate", "1mbit", "burst", "9000", "limit", "1M"
    )


@pytest.mark.parametrize("fault", [cut_for_5_s, stop_for_20_s, slow_down])
def test_what_passes_is_no_fault(faults: Callable[..., Faults], fault: Callable[[Faults], Any]) -> None:
    run = faults(iterations=200)
    fault(run)
    done = run.lab.finish().well()
    assert "mpisqueeze:" not in done.err
    assert json.loads((run.log.parent / "summary.json").read_text())["iterations"] == 200
