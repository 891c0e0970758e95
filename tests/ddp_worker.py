"""A process of `test_ddp_hook`: `ddp_worker.py STORE RANK SIZE`."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import mpisqueeze

STORE, RANK, SIZE = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
#: MiB of a bucket, so that there are several.
CAP = 4e-3


def network() -> nn.Module:
    torch.manual_seed(1)
    layers = [nn.Linear(30, 40), nn.Tanh(), nn.Linear(40, 30), nn.Tanh(), nn.Linear(30, 7), nn.Tanh(), nn.Linear(7, 1)]
    return nn.Sequential(*layers)


def batch(t: int) -> torch.Tensor:
    return torch.randn(8, 30, generator=torch.Generator().manual_seed(100 * t + RANK))


class Trial:
    """A model under DDP with a hook, and without on the same weights; what the hook was given, and what came out."""

    def __init__(self, *hook: str, state: Any = None) -> None:
        self.model, self.alone = network(), network()
        self.state, function = mpisqueeze.torch.ddp_hook(*hook)
        if state is not None:
            self.state.load_state_dict(state)
        #: The sizes of the parameters of each bucket, by step.
        self.layouts: list[list[tuple[int, ...]]] = []

        def noted(state: Any, bucket: Any) -> Any:
            self.layouts[-1].append(tuple(p.numel() for p in bucket.parameters()))
            return function(state, bucket)

        noted.__annotations__.clear()
        self.parallel = DistributedDataParallel(self.model, bucket_cap_mb=CAP)
        self.parallel.register_comm_hook(self.state, noted)
        self.exact = self.given = 0.0

    def step(self, t: int, spoils: bool = False) -> None:
        """A step of SGD; the mean of all ranks' gradients, and what the hook gave for it, are added up.

        Where it `spoils`, rank 1's gradient is NaN, and no rank takes the step.
        """
        inputs = batch(t)
        self.layouts.append([])
        self.alone.load_state_dict(self.model.state_dict())
        grads = torch.autograd.grad(self.alone(inputs).square().mean(), [*self.alone.parameters()])
        mine = torch.cat([grad.reshape(-1) for grad in grads])
        dist.all_reduce(mine)
        self.model.zero_grad()
        loss = self.parallel(inputs).square().mean()
        (loss * float("nan") if spoils and RANK == 1 else loss).backward()
        found = torch.cat([p.grad.reshape(-1) for p in self.model.parameters()])
        other = found.clone()
        dist.broadcast(other, 0)
        assert np.array_equal(found.numpy(), other.numpy(), equal_nan=True)
        if spoils:
            assert found.isnan().all()
            return
        self.exact, self.given = self.exact + mine / SIZE, self.given + found
        with torch.no_grad():
            for p in self.model.parameters():
                p -= 0.1 * p.grad

    def kept(self) -> torch.Tensor:
        """Ω: the mean of all workers' memory, and the servers', in the order of the model's parameters."""
        state, total = self.state, {}
        for memory in [bucket.memory for bucket in state._buckets.values()] + state._orphans:
            vector = torch.zeros(sum(memory.sizes))
            if memory.delta is not None:
                vector = memory.delta.clone()
                dist.all_reduce(vector)
                vector /= SIZE
            if memory.delta_bar is not None:
                vector += state._whole(memory.delta_bar, vector.numel())
            total |= dict(zip(memory.indices, vector.split(list(memory.sizes)), strict=True))
        return torch.cat([total[state._numbers[id(p)]] for p in self.model.parameters()])


def check_exact(algorithm: str) -> None:
    """Without compression it is DDP's own mean."""
    trial = Trial(algorithm, "identity")
    for t in range(4):
        trial.step(t)
        torch.testing.assert_close(trial.given, trial.exact)


def check_feedback(algorithm: str, compressor: str) -> None:
    """Σ mean g = Σ p + Ω, whatever is lost on the way, when buckets change, and after a state is loaded."""
    trial = Trial(algorithm, compressor)
    for t in range(4):
        trial.step(t)
    assert len(trial.layouts[-1]) > 1
    torch.testing.assert_close(trial.given + trial.kept(), trial.exact, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(trial.given, trial.exact, rtol=1e-2, atol=1e-3)
    state = trial.state.state_dict()
    again = Trial(algorithm, compressor, state=state)
    again.exact, again.given = trial.exact, trial.given
    for t in range(4, 8):
        again.step(t)
    assert again.state.iteration == 8
    torch.testing.assert_close(again.given + again.kept(), again.exact, rtol=1e-4, atol=1e-5)
    for name, value in (("rank", 7), ("compressor", "fp16")):
        with pytest.raises(mpisqueeze.UsageError, match=f"{name} is "):
            Trial(algorithm, compressor, state={**state, name: value})


def check_rebuilt() -> None:
    """DDP arranges its buckets anew after the first iteration, or this tests nothing."""
    trial = Trial("doublesqueeze", "onebit")
    trial.step(0)
    trial.step(1)
    assert trial.layouts[0] != trial.layouts[1]


def check_nan() -> None:
    """A NaN on one rank is one on all, in that iteration alone."""
    for algorithm in ("doublesqueeze", "csgd"):
        trial = Trial(algorithm, "qsgd:4")
        for t in range(4):
            trial.step(t, spoils=t == 2)
        assert trial.model[0].weight.isfinite().all()


def check_bytes() -> None:
    """Payloads, each up to 16 bytes longer, to each of the others."""
    trial = Trial("doublesqueeze", "onebit:0")
    trial.step(0)
    trial.step(1)
    before = trial.state.bytes_sent
    trial.step(2)
    layout = trial.layouts[-1]
    payloads = sum(2 * (SIZE - 1) * (sum(sizes) / SIZE / 8 + 4) for sizes in layout)
    assert 0 <= trial.state.bytes_sent - before - payloads <= len(layout) * (2 * (SIZE - 1) * 17)


def check_group() -> None:
    """A hook on some of the ranks is those ranks' affair: a later one on all of them finds all of them."""
    some = dist.new_group([1])
    if RANK == 1:
        state, _ = mpisqueeze.torch.ddp_hook("doublesqueeze", "onebit", process_group=some)
        assert (state.rank, state.size) == (0, 1)
    Trial("doublesqueeze", "onebit").step(0)


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{STORE}", rank=RANK, world_size=SIZE)
    check_rebuilt()
    for algorithm in ("csgd", "memsgd", "doublesqueeze"):
        check_exact(algorithm)
    for pair in ("memsgd/topk:0.05", "doublesqueeze/topk:0.05", "doublesqueeze/onebit", "doublesqueeze/qsgd:4"):
        check_feedback(*pair.split("/"))
    check_nan()
    check_bytes()
    check_group()
    assert "mpi4py" not in sys.modules
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
