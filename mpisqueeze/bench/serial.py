"""The equations of an exchange for all ranks in one loop, by plain encodes and decodes: what ranks must end with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from mpisqueeze.algorithms.base import Setup
from mpisqueeze.compressors.base import Compressor


@dataclass(frozen=True)
class _SetupOf(Setup):
    """The setup of rank `who`."""

    who: int = 0

    @property
    def rank(self) -> int:
        return self.who


def setups(setup: Setup, make_compressor: Callable[[int, int], Compressor]) -> list[Setup]:
    """The setup of every rank, with compressors of NumPy arrays by `make_compressor`."""
    mine = replace(setup, make_compressor=make_compressor)
    values = {field.name: getattr(mine, field.name) for field in fields(Setup)}
    return [_SetupOf(**values, who=rank) for rank in range(setup.size)]


def through_servers(
    ranks: Sequence[Setup], compressed: bool, start: np.ndarray, gradients: Sequence[np.ndarray], lr: float, runs: int
) -> np.ndarray:
    """x after `runs` iterations of `doublesqueeze`, or of `sgd` where nothing is compressed; the same on all ranks.

    Args:
        ranks: every rank's setup.
        start: x₀ (d).
        gradients: g_r (d) of each rank, the same in each iteration.
    """
    x, size = start.copy(), len(ranks)
    for s, part in enumerate(ranks[0].parts()):
        length = part.stop - part.start
        if not length:
            continue
        workers: list[Any] = [setup.worker_codec(s, length).compressor for setup in ranks] if compressed else []
        server = ranks[0].server_codec(s, length).compressor if compressed else None
        delta, delta_bar = np.zeros((size if compressed else 0, length), x.dtype), np.zeros(length, x.dtype)
        for t in range(1, runs + 1):
            total = np.zeros(length, x.dtype)
            for r in range(size):
                g = gradients[r][part]
                if compressed:
                    v = g + delta[r]
                    q = _sent(workers[r], v, t)
                    delta[r] = v - q
                else:
                    q = g
                total = total + q if r else q
            p = total / x.dtype.type(size)
            if server:
                v = p + delta_bar
                p = _sent(server, v, t)
                delta_bar = v - p
            x[part] += x.dtype.type(-lr) * p
    return x


def gossip(
    ranks: Sequence[Setup],
    eta: float | None,
    start: np.ndarray,
    gradients: Sequence[np.ndarray],
    lr: float,
    runs: int,
) -> list[np.ndarray]:
    """Each rank's x after `runs` iterations of `deepsqueeze` with gossip step `eta`, or of `dpsgd` where it is None."""
    scalar, topology = start.dtype.type, ranks[0].topology
    models = [start.copy() for _ in ranks]
    deltas = [np.zeros_like(start) for _ in ranks] if eta is not None else []
    senders: list[Any] = [setup.worker_codec().compressor for setup in ranks] if eta is not None else []
    for t in range(1, runs + 1):
        sent = []
        for i in range(len(ranks)):
            models[i] = models[i] - scalar(lr) * gradients[i]
            if eta is None:
                sent.append(models[i])
            else:
                v = models[i] + deltas[i]
                sent.append(_sent(senders[i], v, t))
                deltas[i] = v - sent[i]
        for i, x in enumerate(list(models)):
            own, around = topology.weights(i)
            mixed = sent[i] * (scalar(own) if eta is None else scalar(own) - scalar(1))
            for j, weight in around:
                mixed += sent[j] * scalar(weight)
            models[i] = mixed if eta is None else x + mixed * scalar(eta)
    return models


def _sent(compressor: Compressor, v: np.ndarray, t: int) -> np.ndarray:
    """C(v) of iteration t."""
    payload, out = np.empty(compressor.payload_bytes, np.uint8), np.empty_like(v)
    compressor.iteration = t
    compressor.encode(v, payload)
    compressor.decode(payload, out)
    return out
