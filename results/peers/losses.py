"""The same problem trained through torch's DDP hooks and through this program's methods: what each ends with.

    mpirun -n 4 python results/peers/losses.py [--seeds COUNT] [--epochs COUNT] [--problem mlp:H1xH2]

Needs torch. All start from the same point and see the same batches in the same order: to torch the network is
`torch.nn.Linear` and ReLU layers with the initial point of this program's. Every method's last point is evaluated by
the same function.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import ddp
import numpy as np
import torch
import torch.distributed as dist
from mpi4py import MPI
from table import header, show

from mpisqueeze.comm.world import World
from mpisqueeze.data import Dataset, load_dataset
from mpisqueeze.data.partition import partition_indices
from mpisqueeze.problems.samples import BatchSampler
from mpisqueeze.runs.plan import plan
from mpisqueeze.runs.training import train
from mpisqueeze.runs.view import View
from mpisqueeze.settings import Settings

#: Of the largest number in x, by how much torch's fp32 and `sgd` may differ after the last step, since roundings grow.
TOLERANCE = 1e-2

#: (method, how)
PEERS = [
    ("torch DDP, fp32", "fp32"),
    ("torch DDP, fp16 hook", "fp16"),
    ("torch DDP, PowerSGD rank 1", "powersgd:1"),
    ("torch DDP, PowerSGD rank 2", "powersgd:2"),
    ("torch DDP, PowerSGD rank 4", "powersgd:4"),
    ("torch DDP, our hook doublesqueeze/onebit", "doublesqueeze/onebit"),
    ("torch DDP, our hook doublesqueeze/topk:0.01", "doublesqueeze/topk:0.01"),
]
OURS = [
    ("sgd", None),
    ("doublesqueeze", "fp16"),
    ("doublesqueeze", "onebit"),
    ("doublesqueeze", "topk:0.01"),
    ("csgd-double", "onebit"),
]


@dataclass
class Outcome:
    """Of one run: rank 0's x (d), and the bytes that all ranks sent in the last step."""

    x: np.ndarray
    sent: float


class Task:
    """What is trained, for one seed: the same for all methods."""

    def __init__(self, world: World, config: Settings) -> None:
        planned = plan(config)
        config = planned.config
        self.world, self.config = world, config
        self.data: Dataset = load_dataset(config.data, config.data_dir, config.seed)
        part = planned.problem
        self.problem = part.cls(
            world.rank, world.size, config.seed, np, planned.dtype, dataset=self.data, batch_size=config.batch_size,
            partition=planned.partition, **part.options,
        )  # fmt: skip
        self.mine = partition_indices(self.data.train_labels, world.size, planned.partition, config.seed)[world.rank]
        #: Ranks of unequal shares are weighed by them, as ours are.
        self.weight = len(self.mine) * world.size / len(self.data.train_labels)
        self.iterations = round(config.epochs * self.problem.iterations_per_epoch)

    def inputs(self, stored: np.ndarray) -> torch.Tensor:
        """What the network is fed."""
        return torch.from_numpy(stored.astype(np.float32) * self.data.scale + self.data.offset).float()

    def network(self, x: np.ndarray) -> torch.nn.Sequential:
        """torch's network with the parameters x (d): W_l (inputs × outputs, row by row), b_l, layer by layer."""
        layers: list[torch.nn.Module] = []
        start = 0
        for inputs, outputs in self.problem.shapes[::2]:
            linear = torch.nn.Linear(inputs, outputs)
            middle, stop = start + inputs * outputs, start + (inputs + 1) * outputs
            with torch.no_grad():
                linear.weight.copy_(torch.from_numpy(x[start:middle].reshape(inputs, outputs).T))
                linear.bias.copy_(torch.from_numpy(x[middle:stop]))
            layers += [linear, torch.nn.ReLU()]
            start = stop
        return torch.nn.Sequential(*layers[:-1])

    def flat(self, network: torch.nn.Sequential) -> np.ndarray:
        """x of `network`."""
        linears = [layer for layer in network if isinstance(layer, torch.nn.Linear)]
        parts = [part.ravel() for layer in linears for part in (layer.weight.detach().T, layer.bias.detach())]
        return torch.cat([part.reshape(-1) for part in parts]).numpy()

    def train_loss(self, x: np.ndarray) -> float:
        """Mean cross-entropy over the whole training set."""
        with torch.no_grad():
            logits = self.network(x)(self.inputs(self.data.train_inputs))
            return float(torch.nn.functional.cross_entropy(logits, torch.from_numpy(self.data.train_labels).long()))

    # -- the two ways to train

    def by_torch(self, hook: str) -> Outcome:
        config, world = self.config, self.world
        network = self.network(self.problem.initial_point())
        module = ddp.data_parallel(network, hook)
        optimizer = torch.optim.SGD(network.parameters(), lr=config.lr)
        sampler = BatchSampler(len(self.mine), config.batch_size, config.seed, world.rank)
        inputs = self.inputs(self.data.train_inputs[self.mine])
        labels = torch.from_numpy(self.data.train_labels[self.mine]).long()
        sent = 0
        for t in range(1, self.iterations + 1):
            batch, before = torch.from_numpy(sampler.batch(t)), ddp.written()
            optimizer.zero_grad()
            (self.weight * torch.nn.functional.cross_entropy(module(inputs[batch]), labels[batch])).backward()
            optimizer.step()
            sent = ddp.written() - before
        return Outcome(self.flat(network), world.comm.allreduce(sent))

    def by_ours(self, algorithm: str, compressor: str | None, folder: Path) -> Outcome:
        config = Settings(
            **{
                **vars(self.config), "algorithm": algorithm, "compressor": compressor, "out": folder,
                "iterations": self.iterations, "epochs": None,
            }
        )  # fmt: skip
        summary = train(plan(config), self.world, View())
        x = np.load(folder / "model.npz")["x"][0] if self.world.is_root else np.empty(0)
        return Outcome(x, summary["bytes_sent_per_iteration"])


def run_all(world: World, config: Settings, scratch: Path) -> tuple[Task, dict[str, Outcome]]:
    """Every method once; collective."""
    task = Task(world, config)
    runs: dict[str, Callable[[], Outcome]] = {name: lambda how=how: task.by_torch(how) for name, how in PEERS}
    for algorithm, compressor in OURS:
        name = f"{algorithm}/{compressor}" if compressor else algorithm
        folder = scratch / f"{config.seed}-{name.replace('/', '-')}"
        runs[name] = lambda a=algorithm, c=compressor, f=folder: task.by_ours(a, c, f)
    return task, {name: run() for name, run in runs.items()}


def deviation(values: list[float], digits: int) -> list[str]:
    """Mean and standard deviation over the seeds."""
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return [f"{statistics.mean(values):.{digits}f}", f"{spread:.{digits}f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=float, default=20)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--problem", default="mlp:256x256", help="mlp, with its hidden layers")
    arguments = parser.parse_args()
    world = World()
    lines = header(world.size, MPI.Get_library_version().split(",")[0].strip()) if world.is_root else []
    ddp.start(world.comm)
    found: dict[str, list[tuple[float, float, float, float]]] = {}
    same = []
    with tempfile.TemporaryDirectory() as scratch:
        for seed in range(1, arguments.seeds + 1):
            config = Settings(
                problem=arguments.problem, epochs=arguments.epochs, lr=arguments.lr, seed=seed, server="sharded",
                device="cpu", save_model=True, eval_every=0,
            )  # fmt: skip
            task, outcomes = run_all(world, config, Path(scratch))
            if not world.is_root:
                continue
            for name, outcome in outcomes.items():
                test = task.problem.evaluate(outcome.x)
                line = (task.train_loss(outcome.x), test["test_loss"], test["test_accuracy"], outcome.sent)
                found.setdefault(name, []).append(line)
            torchs, plain = outcomes[PEERS[0][0]].x, outcomes[OURS[0][0]].x
            same.append(float(np.abs(torchs - plain).max() / np.abs(plain).max()))
    dist.destroy_process_group()
    if not world.is_root:
        return
    settings = f"batch {config.batch_size} a rank, lr {config.lr:g}, {task.iterations} steps ({config.epochs:g} epochs)"
    lines += [
        f"# {config.problem} on {task.config.data}, d = {task.problem.dimension}, {world.size} ranks, {settings}",
        f"# of the last point: losses, accuracy; mean and standard deviation over seeds 1 to {arguments.seeds}",
        "# kB: sent by all ranks in a step, payloads of ours, through sharded servers; torch's, written to sockets",
        f"# x of torch's fp32 and of sgd differ by {max(same):.1e} of the largest number in x at the most",
        f"# PowerSGD compresses from step {ddp.FIRST_COMPRESSED + 1} on",
    ]
    print("\n".join(lines))
    rows = []
    for name, values in found.items():
        train_loss, test_loss, accuracy, sent = (list(column) for column in zip(*values, strict=True))
        sizes = [*deviation(train_loss, 5), *deviation(test_loss, 4), *deviation([100 * a for a in accuracy], 2)]
        rows.append([name, *sizes, f"{statistics.median(sent) / 1e3:.1f}"])
    show(["method", "train loss", "±", "test loss", "±", "accuracy %", "±", "kB a step"], rows)
    if not max(same) < TOLERANCE:
        sys.exit("torch's fp32 and sgd went different ways: they did not train the same problem")


if __name__ == "__main__":
    main()
