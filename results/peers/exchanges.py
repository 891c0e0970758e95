"""A whole step through this program's exchanges beside what a user would pick instead, on the same vectors, in turns.

    mpirun -n 4 python results/peers/exchanges.py [--rounds COUNT] [--only TEXT] [SIZE…]
    mpisqueeze lab -n 4 --rate 100mbit --exec -- python results/peers/exchanges.py --rounds 5 4Mi

Needs torch. A step begins where a rank's gradient is at hand and ends where its parameters are updated, copying the
gradient to where it is wanted included. To torch and to `powersgd` the vector is a model of four square matrices (and a
vector of what is left), or with SIZE `resnet18` of that network's parameters for CIFAR-10; the backward pass gives the
same numbers. A time is the slowest rank's.
"""

from __future__ import annotations

import argparse
import gc
import math
import re
import sys
from collections.abc import Callable

import ddp
import numpy as np
import torch
import torch.distributed as dist
from mpi4py import MPI
from table import Others, header, show

import mpisqueeze.problems.neural.architectures as architectures
from mpisqueeze.algorithms.base import Setup
from mpisqueeze.algorithms.powersgd import PowerSGD
from mpisqueeze.bench.exchanges import LR, AllreduceCase, ByHand, Case, Stage, StepCase
from mpisqueeze.bench.kernels import make_compressor
from mpisqueeze.bench.timing import TimeStatistics, no_garbage_collection, rotated
from mpisqueeze.comm.exchange import Network
from mpisqueeze.comm.world import World
from mpisqueeze.compressors.base import Compressor
from mpisqueeze.devices.device import Device
from mpisqueeze.parts import registry
from mpisqueeze.quantities import counted, parse_size
from mpisqueeze.report.bench_view import numbers
from mpisqueeze.topology import Topology
from mpisqueeze.torch import distribute

MATRICES = 4
NETWORK = "resnet18"
#: Rounds before those that count; PowerSGD compresses from the third on, and then allocates.
WARMUP = 4
#: Of |x|, by which methods that send all bits may differ from one another after all rounds.
TOLERANCE = 1e-4
FLOAT32 = np.dtype(np.float32)


class Row:
    """A method: what is timed, what it sends, and where it has got to."""

    exact = True

    def __init__(self, name: str) -> None:
        self.name = name
        self.seconds: list[float] = []
        self.sent = 0

    def step(self) -> None:
        raise NotImplementedError

    def count(self) -> int:
        """Bytes sent so far."""
        return ddp.written()

    def point(self) -> np.ndarray:
        """x (d)."""
        raise NotImplementedError

    def close(self) -> None:
        pass


class Ours(Row):
    """An exchange as `bench comm` has it."""

    def __init__(self, name: str, case: Case, exact: bool) -> None:
        super().__init__(name)
        self._case, self.exact = case, exact

    def step(self) -> None:
        self._case.prepare()
        self._case.run()

    def count(self) -> int:
        return self._case.stage.network.counter.bytes_sent

    def point(self) -> np.ndarray:
        return self._case.output()

    def close(self) -> None:
        self._case.close()


class _Given(torch.autograd.Function):
    """A scalar of the parameters whose gradient is a given one."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, gradients: list[torch.Tensor], *parameters: torch.Tensor):
        ctx.gradients = gradients
        return parameters[0].new_zeros(())

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, _: torch.Tensor):
        return None, *ctx.gradients


Shapes = list[tuple[int, ...]]


def model_of(text: str) -> tuple[str, Shapes]:
    """(size for people, shapes) of a model: the largest square matrices that fit, and what is left; or a network's."""
    if text == NETWORK:
        shapes = [tuple(parameter.shape) for parameter in architectures.resnet18(3, 32, 32, 10).parameters()]
        return text, shapes
    size = parse_size(text)
    side = math.isqrt(size // MATRICES)
    rest = size - MATRICES * side * side
    return numbers(size), [(side, side)] * MATRICES + [(rest,)] * bool(rest)


def _layers(vector: np.ndarray, shapes: Shapes) -> list[torch.Tensor]:
    """Views of a vector."""
    parts = torch.from_numpy(vector).split([math.prod(shape) for shape in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


class _Model(torch.nn.Module):
    def __init__(self, start: np.ndarray, gradient: np.ndarray, shapes: Shapes) -> None:
        super().__init__()
        self._gradients = _layers(gradient, shapes)
        self.layers = torch.nn.ParameterList(layer.clone() for layer in _layers(start, shapes))

    def forward(self) -> torch.Tensor:
        return _Given.apply(self._gradients, *self.layers)


class Ddp(Row):
    """A training step of torch, as its manual has it; without a hook there is no exchange."""

    def __init__(self, name: str, stage: Stage, shapes: Shapes, hook: str | None) -> None:
        super().__init__(name)
        self.exact = hook == "fp32"
        self._model = _Model(stage.start, stage.gradient, shapes)
        self._module = self._model if hook is None else ddp.data_parallel(self._model, hook)
        self._optimizer = torch.optim.SGD(self._model.parameters(), lr=LR)

    def step(self) -> None:
        self._optimizer.zero_grad()
        self._module().backward()
        self._optimizer.step()

    def point(self) -> np.ndarray:
        return np.concatenate([layer.detach().numpy().ravel() for layer in self._model.layers])


class Distributed(Ddp):
    """The same step of torch with `distribute` around its optimizer, which exchanges by MPI."""

    def __init__(self, name: str, stage: Stage, shapes: Shapes, pair: str) -> None:
        super().__init__(name, stage, shapes, None)
        algorithm, compressor = pair.split("/")
        self._optimizer = distribute(self._optimizer, algorithm=algorithm, compressor=compressor, server="sharded")
        self._sent = 0

    def step(self) -> None:
        super().step()
        # The counter is of the last iteration.
        self._sent += self._optimizer._run.network.counter.bytes_sent

    def count(self) -> int:
        return self._sent

    def close(self) -> None:
        self._optimizer.finish()


class GlooAllreduce(Row):
    """One all-reduce of the whole vector, and the update."""

    def __init__(self, name: str, stage: Stage) -> None:
        super().__init__(name)
        self._gradient, self._x = torch.from_numpy(stage.gradient), torch.from_numpy(stage.start.copy())
        self._vector, self._factor = torch.empty_like(self._x), LR / stage.ranks

    def step(self) -> None:
        self._vector.copy_(self._gradient)
        dist.all_reduce(self._vector)
        self._x.add_(self._vector, alpha=-self._factor)

    def point(self) -> np.ndarray:
        return self._x.numpy()


def _step_case(stage: Stage, server: str, spec: str | None) -> StepCase:
    """`sgd`, or `doublesqueeze` with a compressor."""
    part = registry.compressors.find(spec or "identity")

    def make(dimension: int, seed: int) -> Compressor:
        return make_compressor(part, dimension, np, FLOAT32, seed)

    setup = Setup(stage.network, stage.size, FLOAT32, 1, make, Topology("ring", stage.ranks), server=server)
    return StepCase(stage, server, setup, spec, make)


class PowerSGDCase(AllreduceCase):
    """A step of `powersgd`."""

    algorithm = "powersgd"

    def __init__(self, stage: Stage, rank: int, shapes: Shapes) -> None:
        super().__init__(stage, f"powersgd:{rank}")
        make = registry.compressors.find("identity").cls
        graph = Topology("ring", stage.ranks)
        self._part = PowerSGD(Setup(stage.network, stage.size, FLOAT32, 1, make, graph, shapes=shapes), rank=rank)


def rows_of(stage: Stage, shapes: Shapes, only: str) -> list[Row]:
    """All methods at x₀, in the order of the table; the first two are what the others are compared with.

    Args:
        only: a regular expression of what the others have in their names, in capitals or not.
    """

    def ours(server: str, spec: str | None) -> tuple[str, Callable[[str], Row]]:
        name = f"doublesqueeze/{spec}" if spec else "sgd"
        return f"{name}, {server}", lambda name: Ours(name, _step_case(stage, server, spec), spec is None)

    def powersgd(rank: int) -> tuple[str, Callable[[str], Row]]:
        return f"powersgd:{rank}", lambda name: Ours(name, PowerSGDCase(stage, rank, shapes), False)

    def torchs(name: str, hook: str | None) -> tuple[str, Callable[[str], Row]]:
        return name, lambda name: Ddp(name, stage, shapes, hook)

    def distributed(pair: str) -> tuple[str, Callable[[str], Row]]:
        return f"torch, distribute {pair}", lambda name: Distributed(name, stage, shapes, pair)

    rows = [
        torchs("torch DDP, fp32", "fp32"),
        ("MPI_Allreduce fp32 + update", lambda name: Ours(name, ByHand(stage, "by-hand"), True)),
        torchs("torch DDP, fp16 hook", "fp16"),
        torchs("torch DDP, PowerSGD rank 1", "powersgd:1"),
        torchs("torch DDP, PowerSGD rank 2", "powersgd:2"),
        torchs("torch DDP, PowerSGD rank 4", "powersgd:4"),
        torchs("torch DDP, our hook doublesqueeze/onebit", "doublesqueeze/onebit"),
        torchs("torch DDP, our hook doublesqueeze/topk:0.01", "doublesqueeze/topk:0.01"),
        distributed("doublesqueeze/onebit"),
        distributed("doublesqueeze/topk:0.01"),
        ("gloo all_reduce fp32 + update", lambda name: GlooAllreduce(name, stage)),
        ("allreduce", lambda name: Ours(name, AllreduceCase(stage, "allreduce"), True)),
        powersgd(1),
        powersgd(2),
        powersgd(4),
        ours("sharded", None),
        ours("sharded", "fp16"),
        ours("sharded", "onebit"),
        ours("root", "onebit"),
        ours("sharded", "topk:0.01"),
        torchs("torch, no exchange", None),
    ]
    return [make(name) for i, (name, make) in enumerate(rows) if i < 2 or re.search(only, name, re.IGNORECASE)]


def check(rows: list[Row], stage: Stage, runs: int) -> None:
    """Methods that send all bits must be where the mean gradient leads; exits with 4 where one is not."""
    mean = np.zeros(stage.size)
    for gradient in stage.all_gradients():
        mean += gradient
    expected = stage.start - runs * LR * mean / stage.ranks
    scale = np.abs(expected).max()
    for row in rows:
        off = np.abs(row.point() - expected).max() / scale
        if not np.isfinite(off) or (row.exact and off > TOLERANCE):
            print(f"{row.name}: x is off by {off:.2g} of its largest number", file=sys.stderr, flush=True)
            MPI.COMM_WORLD.Abort(4)


def measure(world: World, network: Network, model: str, rounds: int, only: str) -> list[list[str]]:
    """The table's lines of one size, on rank 0; collective."""
    size, shapes = model_of(model)
    stage, comm = Stage(network, sum(map(math.prod, shapes)), FLOAT32), world.comm
    rows = rows_of(stage, shapes, only)
    with no_garbage_collection():
        for number in range(-WARMUP, rounds):
            for row in rotated(rows, number):
                seconds, sent = ddp.timed(comm, row.step, row.count)
                if number >= 0:
                    row.seconds.append(seconds)
                    row.sent = sent
    check(rows, stage, WARMUP + rounds)
    statistics: list[TimeStatistics] = []
    for row in rows:
        times = np.array(row.seconds)
        comm.Allreduce(MPI.IN_PLACE, times, MPI.MAX)
        statistics.append(TimeStatistics.of(times.tolist()))
    sent = [comm.allgather(row.sent) for row in rows]
    for row in rows:
        row.close()
    over: Callable[[TimeStatistics, int], str] = lambda found, of: f"{found.median / statistics[of].median:.2f}"  # noqa: E731
    return [
        [
            row.name,
            size,
            *(f"{1e3 * value:.2f}" for value in (found.median, found.std, found.fastest)),
            over(found, 0),
            over(found, 1),
            *(f"{value / 1e6:.3f}" for value in (sum(counts), max(counts))),
        ]
        for row, found, counts in zip(rows, statistics, sent, strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sizes", nargs="*", default=["1Mi", "4Mi"], help=f"numbers in a vector, or {NETWORK}")
    parser.add_argument("--only", default="", help="a regular expression of methods, beside the first two")
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    world = World()
    lines = header(world.size, MPI.Get_library_version().split(",")[0].strip()) if world.is_root else []
    ddp.start(world.comm)
    # Ranks meet where a time begins, and not once more within it.
    network = Network(world, Device(), barrier=False)
    table, others = [], Others()
    for size in arguments.sizes:
        table += measure(world, network, size, arguments.rounds, arguments.only)
        gc.collect()
    ours = world.comm.allreduce(others.mine())
    meanwhile = others.line(ours)
    dist.destroy_process_group()
    if not world.is_root:
        return
    lines += [
        f"# {world.size} ranks on {counted(world.hosts, 'host')}, {arguments.rounds} rounds in turns after {WARMUP}",
        "# a step: gradient copied, exchanged, x updated; ms: of the slowest rank; ×DDP, ×MPI: over the time of",
        "# torch DDP with fp32, and of MPI_Allreduce + update; MB sent in a step: ours, payloads; MPI_Allreduce's,",
        "# 2(N − 1)/N vectors a rank by definition; torch's, what it wrote to its sockets",
        meanwhile,
    ]
    print("\n".join(lines))
    titles = ["method", "size", "p50 ms", "± σ", "fastest", "×DDP", "×MPI", "MB, all ranks", "busiest rank"]
    show(titles, table)


if __name__ == "__main__":
    main()
