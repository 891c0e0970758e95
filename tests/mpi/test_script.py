"""`distribute` in a script of one's own, on real ranks: the numbers of `train`, of torch, and errors on all ranks."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed (extra torch)")

from torch import nn  # noqa: E402

import mpisqueeze  # noqa: E402
from mpisqueeze.compressors.base import NonFiniteError  # noqa: E402
from mpisqueeze.data.seeding import Stream  # noqa: E402
from mpisqueeze.kernels.random import derive_key  # noqa: E402
from mpisqueeze.mpi import MPI  # noqa: E402
from mpisqueeze.problems.neural import parts  # noqa: E402
from mpisqueeze.problems.neural.network import seeded  # noqa: E402
from mpisqueeze.problems.samples import BatchSampler  # noqa: E402

Call = Callable[..., None]
STEPS, BATCH, SEED, LR = 12, 16, 1, 0.3


def classes(rank: int, size: int, seed: int) -> Any:
    """A problem for `train` and for a script: (model, this rank's data, loss)."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(300, 5, generator=generator)
    model = nn.Sequential(nn.Linear(5, 40), nn.Tanh(), nn.Linear(40, 40), nn.Tanh(), nn.Linear(40, 3))
    return model, (inputs[rank::size], inputs[rank::size, :3].argmax(1)), nn.CrossEntropyLoss()


class Trial:
    """A script's model and data on this rank, as `train` would have them."""

    def __init__(self, seed: int = SEED) -> None:
        torch.set_num_threads(1)
        self.rank, self.size = MPI.COMM_WORLD.rank, MPI.COMM_WORLD.size
        with seeded(derive_key(seed, Stream.INITIAL_POINT)):
            self.model, (self.inputs, self.targets), self.loss = classes(self.rank, self.size, SEED)
        self.sampler = BatchSampler(len(self.inputs), BATCH, SEED, self.rank)

    def backward(self, t: int, scaled: Callable[[Any], Any] = lambda loss: loss) -> Any:
        """The loss of step t, whose gradient is added."""
        drawn = torch.from_numpy(self.sampler.batch(t))
        loss = self.loss(self.model(self.inputs[drawn]), self.targets[drawn])
        scaled(loss).backward()
        return loss

    def sgd(self, **options: Any) -> Any:
        return torch.optim.SGD(self.model.parameters(), **{"lr": LR, **options})

    @property
    def x(self) -> np.ndarray:
        return torch.cat([p.detach().reshape(-1) for p in self.model.parameters()]).numpy().copy()


def taken(trial: Trial, optimizer: Any, steps: Any = range(1, STEPS + 1)) -> np.ndarray:
    """Take steps; x afterwards."""
    for t in steps:
        optimizer.zero_grad()
        optimizer.step(loss=trial.backward(t))
    return trial.x


def everyones(x: Any) -> list[Any]:
    return MPI.COMM_WORLD.allgather(x)


def lines_of(folder: str, *names: str) -> list[list[Any]]:
    text = Path(folder, "iterations.jsonl").read_text()
    return [[json.loads(line)[name] for name in names] for line in text.splitlines()]


def as_train() -> None:
    for number, (pair, options) in enumerate(
        [
            ("sgd", {}),
            ("allreduce", {}),
            ("doublesqueeze/onebit", {"server": "sharded"}),
            ("memsgd/topk:0.05", {}),
            ("csgd/qsgd:4", {}),
            ("signum", {}),
            ("dpsgd", {}),
            ("choco/uniform:4", {}),
            ("doublesqueeze/onebit", {"local_steps": 3}),
        ]
    ):
        algorithm, _, compressor = pair.partition("/")
        trial = Trial()
        optimizer = mpisqueeze.torch.distribute(
            trial.sgd(), algorithm=algorithm, compressor=compressor or None, out=f"script-{number}", **options
        )
        x = taken(trial, optimizer)
        mine = optimizer.finish()
        assert mine == optimizer.finish()
        theirs = mpisqueeze.train(
            pair, problem=f"{__file__}:classes", batch_size=BATCH, lr=LR, iterations=STEPS, out=f"train-{number}",
            save_model=True, eval_every=0, barrier=True, **options,
        )  # fmt: skip
        assert (x == np.load(f"train-{number}/model.npz")["x"][trial.rank]).all(), pair
        assert not (x == Trial().x).all()
        names = ("loss", "lr", "bytes_sent", "messages", "residual_norm")
        assert lines_of(f"script-{number}", *names) == lines_of(f"train-{number}", *names)
        assert theirs.path is not None
        for name in ("status", "iterations", "bytes_sent", "final_loss", "algorithm", "compressor", "payload_bytes"):
            assert mine[name] == theirs.summary[name], (pair, name)


def test_the_numbers_are_those_of_train_to_the_bit(on_ranks: Call) -> None:
    on_ranks(3, as_train)


class Exact:
    """What torch's optimizer does with the mean of all ranks' gradients, without compression."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial

    def average(self) -> None:
        for p in self.trial.model.parameters():
            p.grad = torch.from_numpy(sum(everyones(p.grad.numpy())) / self.trial.size)


def groups_of(model: Any) -> list[dict[str, Any]]:
    biases = [p for p in model.parameters() if p.ndim == 1]
    return [{"params": biases, "lr": 0.05}, {"params": [p for p in model.parameters() if p.ndim > 1]}]


def as_torch() -> None:
    """Groups, momentum, a schedule, accumulation and clipping of the mean gradient."""
    made = {
        "momentum": lambda model: torch.optim.SGD(groups_of(model), lr=0.1, momentum=0.9, weight_decay=0.01),
        "adamw": lambda model: torch.optim.AdamW(groups_of(model), lr=0.01),
    }
    for name, make in made.items():
        for clips in (False, True):
            results = []
            for distributed in (True, False):
                trial = Trial()
                exact, optimizer = Exact(trial), make(trial.model)
                if distributed:
                    optimizer = mpisqueeze.torch.distribute(optimizer, algorithm="sgd", out=f"{name}-{clips}")
                schedule = torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.5)
                for t in range(1, 1 + STEPS, 2):
                    optimizer.zero_grad()
                    with optimizer.no_sync() if distributed else contextlib.nullcontext():
                        trial.backward(t)
                    trial.backward(t + 1)
                    if not distributed:
                        exact.average()
                    elif clips:
                        assert optimizer.exchange()
                    if clips:
                        nn.utils.clip_grad_norm_(trial.model.parameters(), 0.5)
                    optimizer.step()
                    schedule.step()
                if distributed:
                    optimizer.finish()
                results.append(trial.x)
            # All ranks are as torch alone would be.
            assert (everyones(results[0])[0] == results[0]).all()
            np.testing.assert_allclose(results[0], results[1], rtol=1e-4, atol=1e-6)
            assert [lr for (lr,) in lines_of(f"{name}-{clips}", "lr")] == [0.05, 0.05, 0.05, 0.025, 0.025, 0.025]


@pytest.mark.slow
def test_any_optimizer_takes_the_mean_gradient_as_it_would_alone(on_ranks: Call) -> None:
    on_ranks(2, as_torch)


def resumed() -> None:
    """A state that is saved and loaded goes on to the bit, with each rank's own model."""
    for number, (pair, options, local) in enumerate(
        [
            ("doublesqueeze/qsgd:4", {"momentum": 0.9}, 1),
            ("memsgd/topk:0.05", {}, 4),
            ("choco/topk:0.1", {"momentum": 0.9}, 1),
        ]
    ):
        algorithm, _, compressor = pair.partition("/")
        how = {"algorithm": algorithm, "compressor": compressor, "local_steps": local, "server": "sharded"}
        trial = Trial()
        optimizer = mpisqueeze.torch.distribute(trial.sgd(**options), **how, out=f"whole-{number}")
        whole = taken(trial, optimizer)
        optimizer.finish()

        trial = Trial()
        optimizer = mpisqueeze.torch.distribute(trial.sgd(**options), **how, out=f"first-{number}")
        taken(trial, optimizer, range(1, 8))
        torch.save((trial.model.state_dict(), optimizer.state_dict()), f"saved-{number}-{trial.rank}.pt")
        optimizer.finish()

        trial = Trial(seed=2)
        optimizer = mpisqueeze.torch.distribute(trial.sgd(**options), **how, out=f"second-{number}")
        model, state = torch.load(f"saved-{number}-{trial.rank}.pt", weights_only=True)
        trial.model.load_state_dict(model)
        optimizer.load_state_dict(state)
        assert optimizer.iteration == 7
        assert (taken(trial, optimizer, range(8, STEPS + 1)) == whole).all(), pair
        assert optimizer.finish()["resumed_after"] == [7]
        assert lines_of(f"second-{number}", "iteration", "loss") == lines_of(f"whole-{number}", "iteration", "loss")[7:]

        trial = Trial()
        optimizer = mpisqueeze.torch.distribute(trial.sgd(), algorithm="csgd", out=f"other-{number}")
        with refused("algorithm is "):
            optimizer.load_state_dict(state)
        optimizer.finish()


def test_a_state_goes_on_to_the_bit(on_ranks: Call) -> None:
    on_ranks(2, resumed)


def scaled() -> None:
    """An overflow on one rank is a step that no rank takes; else the numbers are those without a scaler."""
    for clips in (False, True):
        results = []
        for scales in (True, False):
            trial = Trial()
            optimizer = mpisqueeze.torch.distribute(
                trial.sgd(momentum=0.5), algorithm="doublesqueeze", out=f"scaled-{clips}-{scales}"
            )
            scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12, enabled=scales)
            for t in range(1, STEPS + 1):
                optimizer.zero_grad()
                overflows = t == 5
                if overflows and not scales:
                    continue
                spoilt_here = overflows and trial.rank == 1
                trial.backward(
                    t, lambda loss, by=scaler, factor=torch.inf if spoilt_here else 1.0: by.scale(loss * factor)
                )
                if clips:
                    scaler.unscale_(optimizer)
                    assert optimizer.exchange(scaler) != (overflows and scales)
                    nn.utils.clip_grad_norm_(trial.model.parameters(), 0.5)
                scaler.step(optimizer)
                scaler.update()
            results.append(trial.x)
            assert optimizer.finish()["iterations"] == STEPS - 1
        assert (results[0] == results[1]).all()


def test_grad_scaler(on_ranks: Call) -> None:
    on_ranks(2, scaled)


def averaged() -> None:
    """With gossip ranks differ; the mean model is the same on all, and what it was is put back."""
    trial = Trial()
    trial.model.append(nn.BatchNorm1d(3))
    optimizer = mpisqueeze.torch.distribute(trial.sgd(), algorithm="dpsgd", out="gossip", iterations_per_epoch=5)
    x = taken(trial, optimizer)
    everyone = np.stack(everyones(x))
    statistics = np.stack(everyones(trial.model[-1].running_mean.numpy()))
    assert (everyone != everyone[0]).any()
    assert (statistics != statistics[0]).any()
    with optimizer.mean_model(trial.model):
        np.testing.assert_allclose(trial.x, everyone.mean(axis=0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(trial.model[-1].running_mean, statistics.mean(axis=0), rtol=1e-5)
        optimizer.evaluated(test_accuracy=0.5)
    assert (trial.x == x).all()
    assert (trial.model[-1].running_mean.numpy() == statistics[trial.rank]).all()
    with refused("exchange: there is no mean gradient with dpsgd"):
        optimizer.exchange()
    summary = optimizer.finish()
    assert summary["test_accuracy"] == 0.5
    assert summary["topology"] == "ring"
    found = [value is not None for (value,) in lines_of("gossip", "consensus")]
    assert found == [t % 5 == 0 for t in range(1, STEPS + 1)]


def test_the_mean_model(on_ranks: Call) -> None:
    on_ranks(3, averaged)


@contextlib.contextmanager
def refused(text: str, kind: type[Exception] = mpisqueeze.UsageError) -> Iterator[None]:
    """An error that all ranks raise, with the same words."""
    try:
        yield
    except kind as error:
        found = str(error)
    else:
        found = "no error"
    assert text in found, found
    assert len({*everyones(found)}) == 1, everyones(found)


def wrong() -> None:
    """Each error is one on all ranks, and none of them hangs."""
    rank = MPI.COMM_WORLD.rank
    distribute = mpisqueeze.torch.distribute

    trial = Trial()
    parameters = [*trial.model.parameters()]
    with refused("rank 1 has another order of parameters than rank 0: number 0"):
        distribute(torch.optim.SGD(parameters[::-1] if rank == 1 else parameters, lr=0.1))
    # Of one shape, so that values alone tell.
    alike = [parameters[2], parameters[2].detach().clone().add_(1).requires_grad_()]
    with refused("rank 1 has another order of parameters than rank 0, from number 0 on"):
        distribute(torch.optim.SGD(alike[::-1] if rank == 1 else alike, lr=0.1))
    with refused("rank 1 has 2 parameters and rank 0 has 6"):
        distribute(torch.optim.SGD(alike if rank == 1 else parameters, lr=0.1))
    whole = torch.zeros(9)
    with refused("parameter 0 and parameter 1 share memory"):
        distribute(torch.optim.SGD([whole[:5].requires_grad_(), whole[4:].requires_grad_()], lr=0.1))
    with refused("--compressor: unknown compressor 'onebyte'"):
        distribute(trial.sgd(), compressor="onebyte")
    with refused("must be a whole number ≥ 1, got 0"):
        distribute(trial.sgd(), iterations_per_epoch=0)
    with refused("parameters have to be float32 or float64"):
        distribute(torch.optim.SGD(nn.Linear(2, 2).half().parameters(), lr=0.1))
    with refused("dgc has a momentum of its own"):
        distribute(trial.sgd(momentum=0.9), algorithm="dgc")
    with refused("LBFGS needs its gradient more than once"):
        distribute(torch.optim.LBFGS(parameters))
    with refused("SparseAdam takes sparse gradients"):
        distribute(torch.optim.SparseAdam(parameters))
    with refused("unexpected keyword argument 'batch_size'", TypeError):
        distribute(trial.sgd(), batch_size=3)

    for number, (algorithm, break_it, kind, text) in enumerate(
        [
            ("sgd", sparse, mpisqueeze.UsageError, "rank 1, iteration 3: parameter 0 has a sparse gradient"),
            ("doublesqueeze", added, mpisqueeze.UsageError, "the optimizer had 6 parameters, and has 7"),
            ("choco", moved, mpisqueeze.UsageError, "parameter 0 has other memory than before"),
            ("csgd", replaced, mpisqueeze.UsageError, "parameter 0 was replaced by another tensor"),
            ("allreduce", thawed, mpisqueeze.UsageError, "parameter 1 required no gradient at first, and does now"),
            ("memsgd", spoilt, NonFiniteError, "NaN"),
            ("dpsgd", spoilt, NonFiniteError, "NaN"),
        ]
    ):
        trial = Trial()
        trial.model[0].bias.requires_grad_(break_it is not thawed)
        optimizer = distribute(trial.sgd(), algorithm=algorithm, out=f"wrong-{number}")
        with refused("it has made already"):
            distribute(optimizer)
        taken(trial, optimizer, range(1, 3))
        trial.backward(3)
        if rank == 1:
            break_it(trial, optimizer)
        with refused(text, kind):
            optimizer.step()
        with refused("the run has ended"):
            optimizer.step()
        summary = optimizer.finish()
        assert summary["status"] == ("diverged" if kind is NonFiniteError else "failed")
        assert text in summary["reason"]
        with refused("no parameter can be added later"):
            optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(2))]})

    # A rank that left a step out is found out at the end, whatever the others do then.
    for number, algorithm in enumerate(["doublesqueeze", "allreduce", "choco"]):
        trial = Trial()
        optimizer = distribute(trial.sgd(), algorithm=algorithm, out=f"skipped-{number}")
        with refused("rank 0 is in step 12, and rank 1 has ended after 11 steps"):
            taken(trial, optimizer, [t for t in range(1, STEPS + 1) if (rank, t) != (1, 5)])
            optimizer.finish()
    trial = Trial()
    optimizer = distribute(trial.sgd(), algorithm="doublesqueeze", out="aside")
    with refused("--out: aside is being written by a run of this process"):
        distribute(Trial().sgd(), out="aside")
    with refused("rank 0 evaluates the mean model after 0 steps, and rank 1 is in step 1"):
        if rank == 1:
            taken(trial, optimizer)
        with optimizer.mean_model():
            pass


def sparse(trial: Trial, optimizer: Any) -> None:
    first = trial.model[0].weight
    first.grad = torch.sparse_coo_tensor(torch.tensor([[0], [0]]), torch.tensor([1.0]), first.shape)


def added(trial: Trial, optimizer: Any) -> None:
    optimizer.inner.add_param_group({"params": [nn.Parameter(torch.zeros(2))]})


def moved(trial: Trial, optimizer: Any) -> None:
    trial.model[0].weight.data = trial.model[0].weight.data.clone()


def replaced(trial: Trial, optimizer: Any) -> None:
    optimizer.param_groups[0]["params"][0] = nn.Parameter(torch.zeros(40, 5))


def thawed(trial: Trial, optimizer: Any) -> None:
    trial.model[0].bias.requires_grad_(True)


def spoilt(trial: Trial, optimizer: Any) -> None:
    trial.model[0].weight.grad[0, 0] = float("nan")


def test_errors_are_those_of_all_ranks(on_ranks: Call) -> None:
    on_ranks(2, wrong)


def overlapped() -> None:
    """Sections that leave during the backward pass give the numbers of those that leave afterwards."""
    parts.BUCKET = 64
    for number, algorithm in enumerate(["sgd", "allreduce", "doublesqueeze"]):
        results = []
        for overlap in (False, True):
            trial = Trial()
            make = torch.optim.Adam if number else torch.optim.SGD
            optimizer = make(trial.model.parameters(), lr=0.01)
            out = f"overlapped-{number}-{overlap}"
            optimizer = mpisqueeze.torch.distribute(
                optimizer, algorithm=algorithm, overlap=overlap, out=out, chunk=1024
            )
            for t in range(1, STEPS + 1):
                drawn = torch.from_numpy(trial.sampler.batch(t))
                loss = trial.loss(trial.model(trial.inputs[drawn]), trial.targets[drawn])
                if overlap:
                    optimizer.backward(loss)
                else:
                    optimizer.zero_grad()
                    loss.backward()
                    assert optimizer.exchange(loss=loss)
                nn.utils.clip_grad_norm_(trial.model.parameters(), 0.3)
                optimizer.step()
            if overlap:
                with refused("it is optimizer.backward(loss) that exchanges"):
                    optimizer.step()
            optimizer.finish()
            results.append((trial.x.tolist(), lines_of(out, "loss", "bytes_sent")))
        assert results[0] == results[1]
    trial = Trial()
    optimizer = mpisqueeze.torch.distribute(trial.sgd(), algorithm="doublesqueeze", overlap=True, out="left-out")
    with refused("rank 0 is in step 12, and rank 1 has ended after 11 steps"):
        for t in range(1, STEPS + 1):
            if (trial.rank, t) != (1, 5):
                optimizer.backward(trial.loss(trial.model(trial.inputs[:8]), trial.targets[:8]))
                optimizer.step()
        optimizer.finish()
    with refused("choco sends nothing before its gradient is complete"):
        mpisqueeze.torch.distribute(trial.sgd(), algorithm="choco", overlap=True)


@pytest.mark.slow
def test_overlap(on_ranks: Call) -> None:
    on_ranks(2, overlapped, alone=True)


def test_it_works_alone(empty_folder: Path) -> None:
    """In a process that no launcher has started, several times over, as in a notebook."""
    for algorithm in ("doublesqueeze", "choco", "onebit-adam"):
        trial = Trial()
        optimizer = mpisqueeze.torch.distribute(trial.sgd(), algorithm=algorithm, out=algorithm)
        x = taken(trial, optimizer)
        with refused("there have been steps"):
            optimizer.load_state_dict(optimizer.state_dict())
        assert optimizer.step(lambda trial=trial: trial.backward(1)) > 0
        assert optimizer.iteration == STEPS + 1
        assert (trial.x != x).any()
        optimizer.zero_grad()
        optimizer.step()
        summary = optimizer.finish()
        assert (summary["ranks"], summary["bytes_sent"], summary["iterations"]) == (1, 0, STEPS + 2)
        assert summary == mpisqueeze.load(algorithm).summary  # type: ignore[union-attr]
    with pytest.raises(mpisqueeze.UsageError, match="doublesqueeze is not empty"):
        mpisqueeze.torch.distribute(trial.sgd(), out="doublesqueeze")


def started_apart() -> None:
    """Ranks that begin with models of their own go on from rank 0's."""
    trial = Trial(seed=MPI.COMM_WORLD.rank + 1)
    first = everyones(trial.x)
    assert (first[0] != first[1]).any()
    optimizer = mpisqueeze.torch.distribute(trial.sgd(), algorithm="dpsgd", out="apart")
    assert (trial.x == first[0]).all()
    optimizer.finish()


def test_all_ranks_start_from_rank_0s_parameters(on_ranks: Call) -> None:
    on_ranks(2, started_apart)
