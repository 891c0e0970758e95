"""Plug-in problems on torch modules, right and wrong ones, for the tests."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import nn


class Layers(nn.Module):
    """A module with all that makes trouble: batch norm, dropout, a frozen parameter, and one under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.dropout = nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.2)
        self.middle, self.last = nn.Linear(8, 8), nn.Linear(8, 3)
        self.again = self.middle
        self.middle.bias.requires_grad = False

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden = self.dropout(torch.tanh(self.norm(self.first(inputs))))
        return self.last(torch.tanh(self.again(torch.tanh(self.middle(hidden)))))


def classes(rank: int, size: int, seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(400, 5, generator=generator)
    targets = inputs[:, :3].argmax(1)
    return (
        Layers(),
        (inputs[rank:300:size], targets[rank:300:size]),
        nn.CrossEntropyLoss(),
        (inputs[300:], targets[300:]),
    )


class Ramp(torch.utils.data.Dataset[Any]):
    """y = 2i + 1 at i/40, behind a dict; ranks have different numbers of samples."""

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def __len__(self) -> int:
        return 40 - 8 * self.rank

    def __getitem__(self, i: int) -> tuple[dict[str, Any], float]:
        return {"at": torch.full((1,), i / 40), "shift": 1.0}, 2 * i / 40 + 1


class Line(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.zeros(1))

    def forward(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        return (inputs["at"] * self.slope).squeeze(1) + inputs["shift"]


def regression(rank: int, size: int, seed: int) -> Any:
    return Line(), Ramp(rank), nn.functional.mse_loss, Ramp(0)


def no_tuple(rank: int, size: int, seed: int) -> Any:
    return nn.Linear(2, 1)


def no_module(rank: int, size: int, seed: int) -> Any:
    return len, (torch.zeros(4, 2), torch.zeros(4, 1)), nn.MSELoss()


def no_loss(rank: int, size: int, seed: int) -> Any:
    return nn.Linear(2, 1), (torch.zeros(4, 2), torch.zeros(4, 1)), "mse"


def lone_tensor(rank: int, size: int, seed: int) -> Any:
    return nn.Linear(2, 1), torch.zeros(4, 2), nn.MSELoss()


def uneven(rank: int, size: int, seed: int) -> Any:
    return nn.Linear(2, 1), (torch.zeros(4, 2), torch.zeros(5, 1)), nn.MSELoss()


def empty(rank: int, size: int, seed: int) -> Any:
    return nn.Linear(2, 1), [], nn.MSELoss()


def wrong_shape(rank: int, size: int, seed: int) -> Any:
    return nn.Linear(2, 1), (torch.zeros(4, 3), torch.zeros(4, 1)), nn.MSELoss()


def loss_by_sample(rank: int, size: int, seed: int) -> Any:
    return nn.Linear(2, 1), (torch.zeros(4, 2), torch.zeros(4, 1)), nn.MSELoss(reduction="none")


def loss_of_nothing(rank: int, size: int, seed: int) -> Any:
    return nn.Linear(2, 1), (torch.zeros(4, 2), torch.zeros(4, 1)), lambda outputs, targets: targets.sum()


def no_parameters(rank: int, size: int, seed: int) -> Any:
    return nn.ReLU(), (torch.zeros(4, 2), torch.zeros(4, 2)), nn.MSELoss()


def lazy(rank: int, size: int, seed: int) -> Any:
    return nn.LazyLinear(1), (torch.zeros(4, 2), torch.zeros(4, 1)), nn.MSELoss()


def raises(rank: int, size: int, seed: int) -> Any:
    raise KeyError("on purpose")


def no_arguments() -> Any:
    return None


def starts_differ(rank: int, size: int, seed: int) -> Any:
    torch.rand(rank)
    return nn.Linear(2, 1), (torch.zeros(4, 2), torch.zeros(4, 1)), nn.MSELoss()


class Delay(nn.Module):
    """A delay of a signal: multiplication of its spectrum by w, all of whose answer is in w's phase."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(3))
        self.w = nn.Parameter(torch.full((9,), 0.1, dtype=torch.cfloat))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.fft.irfft(torch.fft.rfft(inputs) * self.w, n=16) + 0.1 * self.shift.sum()


def delay(rank: int, size: int, seed: int) -> Any:
    inputs = torch.randn(256, 16, generator=torch.Generator().manual_seed(seed + rank))
    return Delay(), (inputs, torch.roll(inputs, 3, 1)), nn.MSELoss()


class Spectrum(nn.Module):
    """Complex inputs, weights and targets."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(4, dtype=torch.cfloat))
        self.register_buffer("window", torch.full((4,), 1j))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs * self.w * self.window


def spectrum(rank: int, size: int, seed: int) -> Any:
    inputs = torch.randn(64, 4, dtype=torch.cdouble, generator=torch.Generator().manual_seed(seed + rank))
    data = inputs, (2 - 1j) * inputs
    return Spectrum(), data, lambda found, wanted: ((found - wanted).abs() ** 2).mean(), data


def labelled(rank: int, features: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    inputs = torch.randn(64, features, generator=torch.Generator().manual_seed(5 + rank))
    return inputs, (inputs[:, 0] > 0).long()


def narrow(rank: int, size: int, seed: int) -> Any:
    """Parameters of half precision, and of whole numbers."""
    model = nn.Sequential(nn.Linear(8, 4).bfloat16(), nn.Linear(4, 2))
    model.register_parameter("table", nn.Parameter(torch.arange(3), requires_grad=False))
    return model, labelled(rank), nn.CrossEntropyLoss()


class Tied(nn.Module):
    def __init__(self, way: str) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(128, 128, bias=False), nn.Linear(128, 128, bias=False)
        if way == "data":
            self.b.weight.data = self.a.weight.data
        elif way == "transposed":
            self.b.weight.data = self.a.weight.data.t()
        elif way == "expanded":
            self.a.weight = nn.Parameter(torch.zeros(128, 1).expand(128, 128))
        else:
            self.b.weight = self.a.weight
        self.register_buffer("seen", self.a.weight.data)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        assert torch.equal(self.seen, self.a.weight)
        return self.b(torch.relu(self.a(inputs)))


def tied_by_data(rank: int, size: int, seed: int) -> Any:
    return Tied("data"), labelled(rank, 128), nn.CrossEntropyLoss()


def tied_by_name(rank: int, size: int, seed: int) -> Any:
    return Tied("name"), labelled(rank, 128), nn.CrossEntropyLoss()


def tied_in_part(rank: int, size: int, seed: int) -> Any:
    return Tied("transposed"), labelled(rank, 128), nn.CrossEntropyLoss()


def expanded(rank: int, size: int, seed: int) -> Any:
    return Tied("expanded"), labelled(rank, 128), nn.CrossEntropyLoss()


class Elsewhere(nn.Linear):
    """Its forward pass clips its weights, but not in place."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.weight.data = self.weight.data.clamp(-1, 1)
        return super().forward(inputs)


def moves(rank: int, size: int, seed: int) -> Any:
    return Elsewhere(8, 2), labelled(rank), nn.CrossEntropyLoss()


class Zeroing(nn.Linear):
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.zero_grad()
        return super().forward(inputs)


def zeroes(rank: int, size: int, seed: int) -> Any:
    return Zeroing(8, 2), labelled(rank), nn.CrossEntropyLoss()


class Augmented(torch.utils.data.Dataset[Any]):
    """Inputs scaled at random; `own` is a generator that is carried along."""

    def __init__(self, rank: int, how: str) -> None:
        self.inputs, self.targets = labelled(rank)
        self.own = random.Random(rank)
        self.how = how

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        draws = {
            "torch": lambda: float(torch.rand(())),
            "numpy": lambda: np.random.rand(),  # noqa: NPY002
            "python": random.random,
            "own": self.own.random,
        }
        return self.inputs[i] * (0.5 + draws[self.how]()), self.targets[i]


def by_torch(rank: int, size: int, seed: int) -> Any:
    return nn.Linear(8, 2), Augmented(rank, "torch"), nn.CrossEntropyLoss(), Augmented(9, "torch")


def by_numpy(rank: int, size: int, seed: int) -> Any:
    return nn.Linear(8, 2), Augmented(rank, "numpy"), nn.CrossEntropyLoss(), Augmented(9, "numpy")


def by_python(rank: int, size: int, seed: int) -> Any:
    return nn.Linear(8, 2), Augmented(rank, "python"), nn.CrossEntropyLoss(), Augmented(9, "python")


def by_its_own(rank: int, size: int, seed: int) -> Any:
    return nn.Linear(8, 2), Augmented(rank, "own"), nn.CrossEntropyLoss()


def loader(rank: int, size: int, seed: int) -> Any:
    data = torch.utils.data.DataLoader(Augmented(rank, "torch"), batch_size=7, shuffle=True, num_workers=2)
    return nn.Linear(8, 2), data, nn.CrossEntropyLoss()


def drawn_at_random(rank: int, size: int, seed: int) -> Any:
    """Everything is drawn from generators that nobody has seeded."""
    inputs = torch.as_tensor(np.random.standard_normal((64, 8)), dtype=torch.float32)  # noqa: NPY002
    targets = torch.tensor([random.randrange(2) for _ in range(64)])
    return nn.Linear(8, 2), (inputs, targets), nn.CrossEntropyLoss()


class Remembering(nn.Module):
    """A module that carries something over from one forward pass in training to the next, in one of many ways."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.linear = how, nn.Linear(8, 2)
        # A number may be all that there is.
        if how == "number":
            self.scale = 1
        else:
            self.register_buffer("scale", torch.ones(()))
        self.register_buffer("later", None)
        self.mean, self.steps, self.list = 1 if how == "number" else torch.ones(()), 0, [1.0]
        self.norm: nn.Module = nn.Identity()
        if how == "spectral":
            self.linear = nn.utils.parametrizations.spectral_norm(self.linear)
        elif how == "instance":
            self.norm = nn.InstanceNorm1d(2, track_running_stats=True)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        found = float(inputs.abs().mean())
        if self.training:
            if self.how == "buffer":
                self.scale.mul_(0.9).add_(0.3 * found)
            elif self.how == "rebound":
                self.scale = 0.9 * self.scale + 0.3 * found
            elif self.how == "attribute":
                self.mean = 0.9 * self.mean + 0.3 * found
            elif self.how == "number":
                self.steps += 1
            elif self.how == "later":
                self.later = torch.full((2,), found) if self.later is None else 0.5 * self.later + found
            elif self.how == "list":
                self.list[0] = 0.9 * self.list[0] + 0.3 * found
        shift = 0 if self.later is None else self.later.sum()
        scale = self.scale * self.mean * (1 + 0.1 * self.steps) * self.list[0] + shift
        return self.linear(self.norm((inputs / scale).view(-1, 2, 4)).flatten(1))


def _remembering(how: str) -> Any:
    def function(rank: int, size: int, seed: int) -> Any:
        return Remembering(how), labelled(rank), nn.CrossEntropyLoss(), labelled(9)

    return function


in_a_buffer, rebound, attribute, number, later, in_a_list, spectral, instance = (
    _remembering(how) for how in ("buffer", "rebound", "attribute", "number", "later", "list", "spectral", "instance")
)


class Slope(nn.Module):
    """Gives its derivative by the inputs, too."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        inputs = inputs.requires_grad_(True)
        (slope,) = torch.autograd.grad(self.body(inputs).sum(), inputs, create_graph=True)
        return slope


def slope(rank: int, size: int, seed: int) -> Any:
    at = torch.linspace(0, 6, 64)[:, None]
    return Slope(), (at[rank::size], torch.cos(at[rank::size])), nn.MSELoss(), (at, torch.cos(at))


def no_values(rank: int, size: int, seed: int) -> Any:
    return nn.Linear(8, 2, device="meta"), labelled(rank), nn.CrossEntropyLoss()


def no_values_in_a_buffer(rank: int, size: int, seed: int) -> Any:
    model = nn.Linear(8, 2)
    model.register_buffer("table", torch.empty(3, device="meta"))
    return model, labelled(rank), nn.CrossEntropyLoss()


def inference(rank: int, size: int, seed: int) -> Any:
    with torch.inference_mode():
        return nn.Linear(8, 2), labelled(rank), nn.CrossEntropyLoss()


class Rows(torch.utils.data.Dataset[Any]):
    """Items that are dicts, triples or tensors."""

    def __init__(self, kind: str) -> None:
        self.kind, (self.inputs, self.targets) = kind, labelled(0)

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, i: int) -> Any:
        if self.kind == "dicts":
            return {"pixel_values": self.inputs[i], "label": self.targets[i]}
        return (self.inputs[i], i, self.targets[i]) if self.kind == "triples" else self.inputs[i]


def dicts(rank: int, size: int, seed: int) -> Any:
    return nn.Linear(8, 2), Rows("dicts"), nn.CrossEntropyLoss()


def triples(rank: int, size: int, seed: int) -> Any:
    return nn.Linear(8, 2), Rows("triples"), nn.CrossEntropyLoss()


def tensors(rank: int, size: int, seed: int) -> Any:
    return nn.Linear(8, 2), Rows("tensors"), nn.CrossEntropyLoss()


def dicts_in_test(rank: int, size: int, seed: int) -> Any:
    return nn.Linear(8, 2), labelled(rank), nn.CrossEntropyLoss(), Rows("dicts")


def pairs_of_dicts(rank: int, size: int, seed: int) -> Any:
    data = Rows("dicts"), lambda item: (item["pixel_values"], item["label"])
    return nn.Linear(8, 2), data, nn.CrossEntropyLoss(), data


def pairs(rank: int, size: int, seed: int) -> Any:
    return nn.Linear(8, 2), labelled(0), nn.CrossEntropyLoss(), labelled(0)


class Broken(nn.Linear):
    """Fails in its backward pass, in that of the second batch, or in evaluation."""

    def __init__(self, where: str) -> None:
        super().__init__(8, 2)
        self.where, self.hidden = where, torch.zeros(())

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs = super().forward(inputs)
        if self.where == "backward":
            outputs = outputs.exp()
            outputs.add_(1)
        elif self.where == "second":
            self.hidden = outputs.tanh().mean() + self.hidden
            outputs = outputs + self.hidden
        elif self.where == "evaluation" and not self.training:
            raise RuntimeError("not without a teacher")
        return outputs


def fails_backward(rank: int, size: int, seed: int) -> Any:
    return Broken("backward"), labelled(rank), nn.CrossEntropyLoss()


def keeps_a_graph(rank: int, size: int, seed: int) -> Any:
    return Broken("second"), labelled(rank), nn.CrossEntropyLoss()


def fails_in_evaluation(rank: int, size: int, seed: int) -> Any:
    return Broken("evaluation"), labelled(rank), nn.CrossEntropyLoss(), labelled(9)


def other_test(rank: int, size: int, seed: int) -> Any:
    return nn.Linear(8, 2), labelled(rank), nn.CrossEntropyLoss(), labelled(9, 7)
