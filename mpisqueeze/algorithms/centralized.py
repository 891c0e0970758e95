"""What the algorithms with a server have in common: one at rank 0, or one on every rank for a part each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate, pairwise
from typing import Any, ClassVar

from mpisqueeze.algorithms.base import Algorithm, Codec, Gradient, Setup
from mpisqueeze.comm.root import RootExchange
from mpisqueeze.comm.sharded import ShardedExchange
from mpisqueeze.costs.sections import choose_sections
from mpisqueeze.devices.clock import Phase


class Sections:
    """A part of the vector, cut where its payload can be cut, each section with what compresses it.

    Args:
        make: (length) → a codec for sections of so many numbers.
        part: of the vector.
        length: of a section; the last one may be shorter.
        backwards: list the last section first.
    """

    def __init__(self, make: Callable[[int], Codec], part: slice, length: int, backwards: bool = False) -> None:
        codecs: dict[int, Codec] = {}
        #: (codec, the numbers of the vector, where in the part they begin)
        self.items: list[tuple[Codec, slice, int]] = []
        for start in range(part.start, part.stop, length):
            stop = min(start + length, part.stop)
            if stop - start not in codecs:
                codecs[stop - start] = make(stop - start)
            self.items.append((codecs[stop - start], slice(start, stop), start - part.start))
        if backwards:
            self.items.reverse()

    @property
    def sizes(self) -> list[int]:
        """Payload bytes of each section."""
        return [codec.payload_bytes for codec, _, _ in self.items]

    def of(self, row: Any) -> list[Any]:
        """A vector of the part's length cut into one for each section, as they are listed."""
        cuts = accumulate((numbers.stop - numbers.start for _, numbers, _ in self.items), initial=0)
        return [row[start:stop] for start, stop in pairwise(cuts)]


class ServerAlgorithm(Algorithm):
    """Workers send gradients up, a server answers with a direction; with `--server sharded`, part by part.

    The vector is cut into parts, each with its server: with `root` one part, served by rank 0, with `sharded` one for
    each rank. The equations hold for each part. Parts travel in sections (`comm.pipeline`).

    Attributes:
        compresses_up, compresses_down: whether workers and server compress, or send full vectors.
        parts: the slices of the vector, by server.
        serves: whether this rank is a server of a part with any elements.

    Memory of a server: one vector of its part's length, for what it adds up, unless it answers with full vectors.
    """

    route: ClassVar[str] = "servers"
    compresses_up: ClassVar[bool] = True
    compresses_down: ClassVar[bool] = True
    overlaps = True

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        sharded = setup.server == "sharded"
        self.parts = setup.parts()
        whole_up = setup.worker_codec() if self.compresses_up else setup.identity_codec()
        whole_down = setup.server_codec() if self.compresses_down else setup.identity_codec()
        sections = choose_sections(
            setup.network.terms,
            setup.dimension,
            (whole_up.compressor.grain, whole_down.compressor.grain),
            whole_up.payload_bytes,
            whole_down.payload_bytes,
            by_root=not sharded,
        )
        self.schedule = sections.schedule
        full = setup.identity_codec
        # Backpropagation finds the end of a gradient first. A vector that goes up whole cannot leave before it ends.
        backwards = setup.overlap and sections.up == sections.down
        self.up, self.down = [], []
        for s, part in enumerate(self.parts):
            make_up = partial(setup.worker_codec, s) if self.compresses_up else full
            make_down = partial(setup.server_codec, s) if self.compresses_down else full
            self.up.append(Sections(make_up, part, sections.up, backwards))
            self.down.append(Sections(make_down, part, sections.down, backwards))
        up_bytes, down_bytes = ([sections.sizes for sections in parts] for parts in (self.up, self.down))
        alignment = setup.dtype.itemsize
        self.exchange: RootExchange | ShardedExchange
        if sharded:
            self.exchange = ShardedExchange(setup.network, up_bytes, down_bytes, alignment, setup.overlap)
        else:
            way = self.schedule.way
            self.exchange = RootExchange(setup.network, up_bytes[0], down_bytes[0], alignment, way, setup.overlap)
        departing = self.exchange.departure.order if self.exchange.departure else []
        #: Where in the vector each payload begins, in the order of leaving.
        self._begins = [self.up[s].items[j][1].start for s, j in departing]
        server = setup.rank if sharded else 0
        self.serves = server == setup.rank and bool(self.up[server].items)
        mine = self.parts[server]
        self._served = mine.stop - mine.start
        self._sums: list[Any] = []
        self._means: list[Any] = []
        if self.serves:
            # Full vectors are added up in the buffer that MPI is handed.
            row = self.exchange.answers[server]
            total = setup.zeros(self._served) if self.compresses_down else row.view(setup.dtype)
            self._sums, self._means = self.up[server].of(total), self.down[server].of(total)
        #: The mean of this section is one already.
        self._divided = False
        self._v: Any = None
        self._delta: Any = None
        self._delta_bar: Any = None
        self._out: Any = None
        self._factor: float | None = None

    def server_memory(self) -> Any:
        """A vector of zeros as long as the part that this rank serves, or None where it serves none."""
        return self.setup.zeros(self._served) if self.serves else None

    def follow(
        self,
        x: Any,
        lr: float,
        gradient: Gradient,
        delta: Any = None,
        delta_bar: Any = None,
        scale: float | None = None,
    ) -> None:
        """`descend` with v = g, this rank's gradient at x, or scale·g; with `--overlap`, while it is computed."""
        if self.exchange.departure is None:
            g = gradient(x)
            if scale is not None:
                g *= g.dtype.type(scale)
        else:
            g = self._leave_early(x, gradient, delta, delta_bar, scale)
        self.descend(x, lr, g, delta, delta_bar)

    def _leave_early(self, x: Any, gradient: Gradient, delta: Any, delta_bar: Any, scale: float | None) -> Any:
        """The gradient, whose sections have left. Raises HaltError."""
        departure = self.exchange.departure
        assert departure is not None
        self._delta, self._delta_bar = delta, delta_bar
        final, count, failure = self.setup.dimension, 0, None

        def ready(g: Any, start: int) -> None:
            nonlocal final, count, failure
            # What computes the gradient is not to meet our errors: they would look like its own.
            if failure is not None:
                return
            try:
                if scale is not None:
                    g[start:final] *= g.dtype.type(scale)
                final, self._v = start, g
                while count < len(self._begins) and self._begins[count] >= start:
                    count += 1
                departure.leave(self, count)
            except Exception as error:
                failure = error

        g = gradient(x, ready)
        ready(g, 0)
        if failure is not None:
            raise failure
        return g

    def descend(self, x: Any, lr: float, v: Any, delta: Any = None, delta_bar: Any = None) -> None:
        """x ← x − lr·p, p the answer of the servers to all ranks' v; each section as soon as it is there.

        p is the mean, in rank order, of what the ranks' compressed v decode to, compressed again where the algorithm
        does so.

        Args:
            x, v: (d,); v is kept.
            delta: this rank's memory δ (d): v + δ is what is compressed, and δ keeps what that lost.
            delta_bar: a server's memory δ̄ (of its part's length), likewise.
        """
        self._exchange(x, -lr, v, delta, delta_bar)

    def answer_to(self, v: Any, out: Any, delta: Any = None, delta_bar: Any = None) -> None:
        """out (d) ← p, see `descend`."""
        self._exchange(out, None, v, delta, delta_bar)

    def _exchange(self, out: Any, factor: float | None, v: Any, delta: Any, delta_bar: Any) -> None:
        self._v, self._delta, self._delta_bar = v, delta, delta_bar
        self._out, self._factor = out, factor
        self.exchange.run(self)

    # What the exchange asks for, section by section.

    def encode(self, part: int, section: int) -> None:
        codec, numbers, first = self.up[part].items[section]
        payload = self.exchange.up[part][section]
        if self._delta is None:
            codec.encode(self._v[numbers], payload, first)
        else:
            codec.encode_feedback(self._v[numbers], self._delta[numbers], payload, first)

    def accumulate(self, part: int, section: int, payload: Any, first: bool) -> None:
        codec = self.up[part].items[section][0]
        if first:
            codec.decode(payload, self._sums[section])
        else:
            codec.decode_add(payload, self._sums[section])

    def combines(self, part: int) -> bool:
        # Where ranks share cores, what is there is worth adding up while others have yet to get a core. A payload that
        # came up whole is a mean of answers in sections.
        if self.setup.network.crowded:
            return False
        alike = len(self.up[part].items) == len(self.down[part].items)
        return alike and all(codec.fuses_mean for codec, _, _ in self.up[part].items)

    def combine(self, part: int, section: int, payloads: Sequence[Any]) -> None:
        self.up[part].items[section][0].decode_mean(payloads, self._means[section])
        self._divided = True

    def answer(self, part: int, section: int) -> None:
        mean = self._means[section]
        if not self._divided:
            mean /= self.setup.size
            self.setup.network.clock.lap(Phase.DECODE)
        self._divided = False
        if not self.compresses_down:
            return
        codec, _, first = self.down[part].items[section]
        payload = self.exchange.down[part][section]
        if self._delta_bar is None:
            codec.encode(mean, payload, first)
        else:
            codec.encode_feedback(mean, self._delta_bar[first : first + mean.size], payload, first)

    def decode(self, part: int, section: int) -> None:
        codec, numbers, _ = self.down[part].items[section]
        payload = self.exchange.down[part][section]
        if self._factor is None:
            codec.decode(payload, self._out[numbers])
        else:
            codec.decode_add(payload, self._out[numbers], self._factor)

    @property
    def codec(self) -> Codec:
        """What a worker compresses its first section with."""
        return self.up[0].items[0][0]

    @property
    def payload_bytes(self) -> int:
        return sum(sum(part.sizes) for part in self.up)

    def bytes_per_iteration(self) -> int:
        return (self.setup.size - 1) * sum(sum(part.sizes) for part in self.up + self.down)

    def close(self) -> None:
        self.exchange.close()
