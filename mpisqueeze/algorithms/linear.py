"""The mean of linear payloads by MPI_Allreduce (`--server allreduce`), in place of an exchange with servers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mpisqueeze.algorithms.base import Codec, Gradient, Setup
from mpisqueeze.algorithms.sections import Section
from mpisqueeze.comm.allreduce import AllreduceExchange, EarlyAllreduce
from mpisqueeze.comm.pipeline import Moves
from mpisqueeze.comm.world import Signal
from mpisqueeze.compressors.base import NonFiniteError
from mpisqueeze.compressors.identity import Identity

_NONFINITE = "the sum of all ranks' gradients holds a NaN or an infinity"


class Total(Identity):
    """The sum of all ranks' gradients, which none of them has looked at before."""

    def nonfinite_message(self) -> str:
        return _NONFINITE


class LinearSection(Section):
    """A range of the vector. `payload` is this rank's, and then the sum of all ranks', which decodes to their mean.

    Full vectors are summed where the gradient lies (`in_place`), and none is looked at alone: a NaN is found in the
    sum, by all ranks. x is moved by it in one pass, which is booked as the update that it is, also by an optimizer.
    """

    def __init__(self, codec: Codec, span: slice, ranks: int, in_place: bool) -> None:
        super().__init__(codec, span, span.start)
        self._ranks, self.in_place = ranks, in_place

    def encode(self, vector: Any) -> None:
        if not (self.in_place and vector is self.g):
            super().encode(vector)

    def decode(self, out: Any) -> None:
        super().decode(out)
        out /= self._ranks

    def decode_add(self, out: Any, factor: float = 1.0) -> None:
        factor /= self._ranks
        if not self.in_place:
            super().decode_add(out, factor)
            return
        try:
            self.codec.compressor.decode_add(self.payload, out, factor)
        except NonFiniteError as error:
            self.codec.network.complain(Signal.NONFINITE, str(error))

    def descend(self, lr: float, direction: Any = None) -> None:
        if direction is None and self.decoded is None and not self.descent.plain:
            self.descent.move(self.x, self.payload.view(self.x.dtype), lr, self.span.start, self._ranks)
        else:
            super().descend(lr, direction)


class LinearExchange:
    """The payload of the whole vector, summed over all ranks in its own memory, and applied by each.

    Of an algorithm's moves `answer` is not called: all ranks have the mean, which is the answer. With `--overlap`
    buckets of full vectors are summed while the gradient is computed; what is compressed waits for all of it.

    Args:
        full: full vectors, whatever the compressor.
        worker_vectors: (d,), by name. Where there are none, full vectors are summed in the gradient's memory.

    Attributes:
        up: the sections, as `ServerExchange` has them, in the order of leaving.
        up_bytes: size of a rank's payload.
        schedule: None, since MPI chooses how payloads travel.
    """

    schedule = None

    def __init__(self, setup: Setup, full: bool, worker_vectors: Mapping[str, Any]) -> None:
        codec = setup.identity_codec() if full else setup.worker_codec()
        network, size = setup.network, setup.dtype.itemsize
        whole = isinstance(codec.compressor, Identity)
        in_place = whole and not worker_vectors
        self._overlap, self.up_bytes = setup.overlap, codec.payload_bytes
        values = self.up_bytes // size
        self._early = EarlyAllreduce(network, values, setup.dtype) if in_place and setup.overlap else None
        self._exchange = self._early or AllreduceExchange(network, values, setup.dtype)
        spans = [slice(0, setup.dimension)]
        if self._early:
            spans = [slice(span.start // size, span.stop // size) for span in self._early.buckets]
        if in_place:
            codec = Codec(Total(setup.dimension, network.device.xp, setup.dtype, 0), network)
        self._sections = [LinearSection(codec, span, setup.size, in_place) for span in spans]
        self.up = [self._sections]
        descent = setup.descent(_NONFINITE if in_place else "")
        decoded = None if whole or descent.plain else setup.zeros()
        for section in self._sections:
            section.descent, section.decoded = descent, decoded
            vars(section).update({name: vector[section.span] for name, vector in worker_vectors.items()})
        self._dtype = setup.dtype
        self._x: Any = None
        self._g: Any = None
        self._values: Any = None
        if not in_place:
            (section,) = self._sections
            section.payload = network.device.xp.zeros(self.up_bytes, np.uint8)
            self._values = section.payload.view(setup.dtype)

    @property
    def bytes_per_iteration(self) -> int:
        """Bytes that all ranks together send."""
        return self._exchange.total_bytes

    @property
    def later_bytes(self) -> int:
        """Bytes of the buffers in which the sum is made."""
        return self._exchange.later_bytes

    def run(self, moves: Moves, x: Any, gradient: Gradient) -> None:
        """Exchange this rank's gradient at x; with `--overlap`, while it is computed. Raises HaltError."""
        if x is not self._x:
            self._x = x
            for section in self._sections:
                section.x = x[section.span]
        if self._early:
            self._early.run(moves, self._sections, x, gradient, self._take)
            return
        self._take(gradient(x, _nothing) if self._overlap else gradient(x))
        (section,) = self._sections
        moves.send(section)
        self._exchange.sum(self._values)
        moves.apply(section)

    def _take(self, g: Any) -> None:
        if g is self._g:
            return
        self._g = g
        for section in self._sections:
            section.g = g[section.span]
            if section.in_place:
                section.payload = section.g.view(np.uint8)
        if self._sections[0].in_place:
            self._values = g

    def close(self) -> None:
        """Free what MPI holds."""
        self._exchange.close()


def _nothing(g: Any, start: int) -> None:
    """Nothing leaves before the gradient is complete."""
