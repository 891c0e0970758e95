"""Vectors of gigabytes through every exchange: what a run says that its ranks take, and what they took.

    mpirun -n 2 python results/big/big.py SIZE ITERATIONS [WORDS…]

Each row is a run of `lean.py:Lean`, by the settings of CASES, or of those whose text holds one of
WORDS. `said` is what the run counted on before its first iteration (`ranks_memory_bytes` of environment.json), or what
it was refused for; `took` is what both ranks' memory grew by at its peak, as the system keeps it (VmHWM).
A run that would leave less than LEAVE bytes free is refused as if they were not there.
"""

from __future__ import annotations

import gc
import re
import resource
import shutil
import sys
import time
from pathlib import Path

from mpi4py import MPI

from mpisqueeze.comm.world import World
from mpisqueeze.control_groups import free_memory
from mpisqueeze.devices.device import Device
from mpisqueeze.errors import UsageError
from mpisqueeze.quantities import parse_size
from mpisqueeze.runs.plan import plan
from mpisqueeze.runs.training import train
from mpisqueeze.runs.view import View
from mpisqueeze.settings import Settings

CASES = (
    "allreduce",
    "sgd root",
    "sgd sharded",
    "doublesqueeze/onebit root",
    "doublesqueeze/onebit sharded",
    "memsgd/topk:0.01 root",
    "memsgd/topk:0.01 sharded",
    "csgd/qsgd:4 root",
    "csgd/qsgd:4 sharded",
    "csgd-double/qsgd:4 root",
    "csgd-double/qsgd:4 sharded",
    "memsgd/randomk:0.01,shared allreduce",
    "dpsgd",
    "dpsgd:order=awc",
    "deepsqueeze:eta=0.3/onebit",
    "choco:eta=0.3/topk:0.01",
    "choco:eta=0.3/qsgd:4",
    "dcd/uniform:8",
    "ecd/uniform:8",
    "doublesqueeze/topk:0.01 root",
    "doublesqueeze/topk:0.01 sharded",
    "doublesqueeze/identity root",
    "doublesqueeze/identity sharded",
    "ef21/topk:0.01 root",
    "ef21/topk:0.01 sharded",
    "ef21-bc/topk:0.01 sharded",
    "dgc/topk:0.01 root",
    "dgc/topk:0.01 sharded",
    "onebit-adam:freeze=1/onebit sharded",
    "signum root",
    "signum sharded",
    "powersgd:1",
    "dpsgd-naive/onebit",
    "beer:eta=0.3/onebit",
    "d2",
    "powergossip:1",
)
#: Bytes that stay free for others.
LEAVE = 2 << 30
FOLDER = Path("big-run")
LEAN = Path(__file__).with_name("lean.py")


class Watch(View):
    """Takes from a run what it counted on."""

    said = 0

    def start(self, run, environment) -> None:
        self.said = environment["ranks_memory_bytes"]


def memory(name: str) -> int:
    """Bytes of VmRSS, what this process has in memory, or of VmHWM, its peak."""
    return int(re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) << 10


def run(world: World, case: str, dimension: int, iterations: int) -> tuple[int, int, float, str]:
    """(bytes that it counted on, bytes at its peak of all ranks, seconds, status); on each rank."""
    method, _, server = case.partition(" ")
    algorithm, _, compressor = method.partition("/")
    watch, began = Watch(), time.monotonic()
    world.on_root(lambda: shutil.rmtree(FOLDER, ignore_errors=True))
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    try:
        settings = Settings(
            algorithm=algorithm,
            compressor=compressor or None,
            problem=f"{LEAN}:Lean,dimension={dimension}",
            iterations=iterations,
            eval_every=0,
            consensus_every=0,
            timeout="0",
            log="binary",
            out=FOLDER,
            **({"server": server} if server else {}),
        )
        summary = train(plan(settings), world, watch)
        status = f"{summary['status']}, loss {summary['final_loss']:.6g}"
    except UsageError as error:
        status = f"exit 2: {error}"
        told = re.search(r"take ([\d.]+) ([kMGT]?B)", status)
        watch.said = round(float(told[1]) * 1000 ** "BkMGT".index(told[2][0])) if told else 0
    took = world.comm.allreduce(memory("VmHWM") - before, MPI.SUM)
    return watch.said, took, time.monotonic() - began, status


def main(text: str, iterations: int, words: list[str]) -> None:
    world, dimension, free = World(), parse_size(text), Device.free_memory
    Device.free_memory = lambda device: max(0, free(device) - LEAVE)
    # A mistake of the estimate is not to be others' trouble.
    limit = free_memory() - LEAVE
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    run(world, "allreduce", 1 << 16, 1)
    if world.is_root:
        print(f"d = {text}, {world.size} ranks, a vector is {4 * dimension / 1e9:.3g} GB; {limit / 1e9:.1f} GB free\n")
        print("| run | said (GB) | took (GB) | said/took | s | |\n|---|--:|--:|--:|--:|---|", flush=True)
    for case in CASES:
        if words and not any(word in case for word in words):
            continue
        said, took, seconds, status = run(world, case, dimension, iterations)
        ratio = f"{said / took:.2f}" if status.startswith("ok") else ""
        if world.is_root:
            print(f"| {case} | {said / 1e9:.2f} | {took / 1e9:.2f} | {ratio} | {seconds:.0f} | {status} |", flush=True)
    world.on_root(lambda: shutil.rmtree(FOLDER, ignore_errors=True))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
