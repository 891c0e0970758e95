"""What the algorithms with a server have in common: one at rank 0, or one on every rank for a shard each."""

from __future__ import annotations

from typing import Any, ClassVar

from mpisqueeze.algorithms.base import Algorithm, Setup
from mpisqueeze.comm.counters import Phase
from mpisqueeze.comm.root import RootExchange
from mpisqueeze.comm.sharded import ShardedExchange


class ServerAlgorithm(Algorithm):
    """Workers send gradients up, a server answers with a direction; with `--server sharded`, shard by shard.

    The vector is cut into parts, each with its server: with `root` one part, served by rank 0, with `sharded` one for
    each rank. The equations hold for each part.

    Attributes:
        compresses_up, compresses_down: whether workers and server compress, or send full vectors.
        parts: the slices of the vector, by server.
        serves: whether this rank is a server of a part with any elements.

    Memory a rank: one vector, for what a server adds up and for the answer.
    """

    compresses_up: ClassVar[bool] = True
    compresses_down: ClassVar[bool] = True

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        sharded = setup.server == "sharded"
        self.parts = setup.parts()
        lengths = [part.stop - part.start for part in self.parts]
        up, down = self.compresses_up, self.compresses_down
        self.up = [setup.worker_codec(s, n) if up else setup.identity_codec(n) for s, n in enumerate(lengths)]
        self.down = [setup.server_codec(s, n) if down else setup.identity_codec(n) for s, n in enumerate(lengths)]
        up_bytes, down_bytes = ([codec.payload_bytes for codec in codecs] for codecs in (self.up, self.down))
        self.exchange: RootExchange | ShardedExchange
        if sharded:
            self.exchange = ShardedExchange(setup.network, up_bytes, down_bytes)
        else:
            self.exchange = RootExchange(setup.network, up_bytes[0], down_bytes[0])
        self._server = setup.rank if sharded else 0
        self.serves = self._server == setup.rank and lengths[self._server] > 0
        self._mine = self.parts[self._server]
        # Full vectors through a root are summed and received in the buffer that MPI is handed.
        self._in_place = not (down or sharded)
        self._vector = self.exchange.down[0].view(setup.dtype) if self._in_place else setup.zeros()

    def server_memory(self) -> Any:
        """A vector of zeros as long as this rank's part, or None where it serves none."""
        return self.setup.zeros(self._mine.stop - self._mine.start) if self.serves else None

    def send_up(self, v: Any, delta: Any = None) -> None:
        """Compress v (d) for the servers; with a memory δ (d), v + δ is compressed and δ keeps what that lost."""
        for codec, part, payload in zip(self.up, self.parts, self.exchange.up, strict=True):
            if delta is None:
                codec.encode(v[part], payload)
            else:
                codec.encode_feedback(v[part], delta[part], payload)

    def mean_at_server(self) -> Any:
        """Send the payloads. On a server: the mean of all ranks' decoded payloads of its part, added in rank order."""
        mean = self._vector[self._mine]
        codec = self.up[self._server]
        decode = codec.decode
        for payload in self.exchange.gather():
            decode(payload, mean)
            decode = codec.decode_add
        if self.serves:
            mean /= self.setup.size
            self.setup.network.clock.lap(Phase.DECODE)
        return mean

    def send_down(self, v: Any, delta: Any = None) -> None:
        """On a server: compress v, this rank's part, for everybody; δ as in `send_up`."""
        if not self.serves or self._in_place:
            return
        codec, payload = self.down[self._server], self.exchange.down[self._server]
        if delta is None:
            codec.encode(v, payload)
        else:
            codec.encode_feedback(v, delta, payload)

    def answer(self) -> Any:
        """The vector (d) that all ranks decode from what the servers sent down."""
        for s, payload in self.exchange.broadcast():
            if not self._in_place:
                self.down[s].decode(payload, self._vector[self.parts[s]])
        return self._vector

    def descend(self, x: Any, direction: Any, lr: float) -> None:
        """x ← x − lr·direction; `direction` is overwritten."""
        if lr != 1.0:
            direction *= direction.dtype.type(lr)
        x -= direction
        self.setup.network.clock.lap(Phase.UPDATE)

    @property
    def payload_bytes(self) -> int:
        return sum(codec.payload_bytes for codec in self.up)

    def bytes_per_iteration(self) -> int:
        return (self.setup.size - 1) * sum(codec.payload_bytes for codec in self.up + self.down)

    def close(self) -> None:
        self.exchange.close()
