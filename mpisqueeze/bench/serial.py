"""The results that ranks must end with: equations for all ranks in one loop, by plain encodes and decodes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mpisqueeze.algorithms.base import Setup
from mpisqueeze.compressors.base import Compressor
from mpisqueeze.settings import ALLREDUCE


def through_servers(
    setup: Setup, compressed: bool, start: np.ndarray, gradients: Sequence[np.ndarray], lr: float, runs: int
) -> np.ndarray:
    """x after `runs` iterations of `doublesqueeze`, or of `sgd` where nothing is compressed; the same on all ranks.

    With `--server allreduce` it is that of `memsgd`, which has no server that compresses, and γ/N is one factor.

    Args:
        setup: any rank's, with compressors of NumPy arrays.
        start: x₀ (d).
        gradients: g_r (d) of each rank, the same in each iteration.
    """
    x, size, serves = start.copy(), setup.size, setup.server != ALLREDUCE
    for s, part in enumerate(setup.parts()):
        length = part.stop - part.start
        if not length:
            continue
        workers = [setup.worker_codec(s, length, r).compressor for r in range(size)] if compressed else []
        server = setup.server_codec(s, length).compressor if compressed and serves else None
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
            if not serves:
                x[part] += x.dtype.type(-lr / size) * total
                continue
            p = total / x.dtype.type(size)
            if server:
                v = p + delta_bar
                p = _sent(server, v, t)
                delta_bar = v - p
            x[part] += x.dtype.type(-lr) * p
    return x


def gossip(
    setup: Setup,
    eta: float | None,
    start: np.ndarray,
    gradients: Sequence[np.ndarray],
    lr: float,
    runs: int,
) -> list[np.ndarray]:
    """Each rank's x after `runs` iterations of `deepsqueeze` with gossip step `eta`, or of `dpsgd` where it is None."""
    scalar, topology, ranks = start.dtype.type, setup.topology, range(setup.size)
    models = [start.copy() for _ in ranks]
    deltas = [np.zeros_like(start) for _ in ranks] if eta is not None else []
    senders = [setup.worker_codec(rank=i).compressor for i in ranks] if eta is not None else []
    for t in range(1, runs + 1):
        sent = []
        for i in ranks:
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
