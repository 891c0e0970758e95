"""Plug-in problems on torch modules, right and wrong ones, for the tests."""

from __future__ import annotations

from typing import Any

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
