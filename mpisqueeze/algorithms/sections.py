"""The sections of a vector on their way to the servers and back, and what an algorithm does with each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from mpisqueeze.algorithms.base import Codec, Descent, Gradient, Setup
from mpisqueeze.comm.pipeline import Inbox, Moves, Parts
from mpisqueeze.comm.servers import ServerPipeline
from mpisqueeze.costs.sections import choose_sections
from mpisqueeze.devices.clock import Phase
from mpisqueeze.virtual.servers import SharedPipeline


class Section:
    """A range of the vector, in one direction, whose payload stands for itself.

    The vectors are views of a section's length. Those that the algorithm declares (`worker_vector`, `server_vector`)
    are attributes under their own names.

    Attributes:
        span: its elements of the vector.
        payload: uint8 on the device: this rank's payload, or a server's answer.
        x: this rank's parameters.
        g: of a section that is sent, this rank's gradient. It may be overwritten.
        mean: of an answer, at its server, the mean of what the ranks' payloads decode to. It may be overwritten.
    """

    codec: Codec
    span: slice
    payload: Any = None
    x: Any = None
    g: Any = None
    mean: Any = None
    #: At its server, the sum of the payloads; and whether they are added up in one pass.
    total: Any = None
    combines: bool = False
    #: The mean lies in the payload: the answer is a full vector.
    in_place: bool = False
    #: Answers alone have what moves x, and the place where that reads them decoded, None for a full vector.
    descent: Descent
    decoded: Any = None

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...
        def __setattr__(self, name: str, value: Any) -> None: ...

    def __init__(self, codec: Codec, span: slice, first: int) -> None:
        self.codec, self.span, self._first = codec, span, first

    @classmethod
    def owns(cls, name: str) -> bool:
        """A section has an attribute of that name, so that no vector of an algorithm can have it."""
        return name in cls.__annotations__ or hasattr(cls, name)

    @property
    def payload_bytes(self) -> int:
        return self.codec.payload_bytes

    # The operations that an algorithm's moves are made of.

    def encode(self, vector: Any) -> None:
        """payload ← C(vector); `vector` is kept."""
        if not (self.in_place and vector is self.mean):
            self.codec.encode(vector, self.payload, self._first)

    def encode_feedback(self, vector: Any, memory: Any) -> None:
        """v = vector + memory; payload ← C(v); memory ← v − D(payload). `vector` is kept."""
        self.codec.encode_feedback(vector, memory, self.payload, self._first)

    def decode(self, out: Any) -> None:
        """out ← D(payload)."""
        self.codec.decode(self.payload, out)

    def decode_add(self, out: Any, factor: float = 1.0) -> None:
        """out ← out + factor·D(payload)."""
        self.codec.decode_add(self.payload, out, factor)

    def clear(self, out: Any) -> None:
        """out ← 0 at the elements that the payload holds; only where the compressor `sparsifies`."""
        self.codec.clear(self.payload, out)

    def descend(self, lr: float, direction: Any = None) -> None:
        """x ← x − γp, or the step of the run's optimizer along p, which is `direction` or D(payload). p is kept."""
        if direction is None and self.descent.plain:
            self.decode_add(self.x, -lr)
            return
        if direction is None:
            direction = self.payload.view(self.x.dtype) if self.decoded is None else self.decoded
            if direction is self.decoded:
                self.decode(direction)
        self.descent.move(self.x, direction, lr, self.span.start)

    # The steps of the exchange at the section's server.

    def add_up(self, inbox: Inbox | SharedPipeline) -> bool:
        """Add up all ranks' payloads, in rank order; True if the sum is divided by their number, too."""
        world = self.codec.network.world
        if self.combines and inbox.holds_sections:
            payloads = inbox.next(world.size - 1)
            payloads.insert(world.rank, self.payload)
            self.codec.combine(payloads, self.total)
            return True
        arriving = (self.payload if rank == world.rank else inbox.next()[0] for rank in range(world.size))
        self.codec.add_up(arriving, self.total)
        return False

    def divide(self, ranks: int) -> None:
        """Make the sum a mean."""
        self.mean /= ranks
        self.codec.network.clock.lap(Phase.DECODE)


class ServerExchange:
    """The vector in sections, what compresses them in both directions, and the exchange that carries them.

    Args:
        full_up, full_down: full vectors travel to the servers, or back, whatever the compressor.
        straight: with `full_up`, what is sent is the gradient, so that it need not be copied.
        worker_vectors: (d,), by name; each section has its view of them.
        server_vectors: as long as the part that this rank serves, by name, for the sections that it answers.

    Attributes:
        up, down: the sections by part, then in the order of sending; as many of both, or a part in one piece up.
        schedule: how they travel, by the cost model.
    """

    def __init__(
        self,
        setup: Setup,
        full_up: bool,
        full_down: bool,
        straight: bool,
        worker_vectors: Mapping[str, Any],
        server_vectors: Mapping[str, Any],
    ) -> None:
        self.setup, self._full_up, self._full_down = setup, full_up, full_down
        # With overlap the gradient goes on while sections of it travel.
        self._straight = full_up and straight and not setup.overlap
        self._server_vectors = server_vectors
        make_up = setup.identity_codec if full_up else setup.worker_codec
        make_down = setup.identity_codec if full_down else setup.server_codec
        whole_up, whole_down = make_up(), make_down()
        cut = choose_sections(
            setup.network.terms,
            setup.dimension,
            (whole_up.compressor.grain, whole_down.compressor.grain),
            whole_up.payload_bytes,
            whole_down.payload_bytes,
            by_root=setup.server == "root",
        )
        self.schedule = cut.schedule
        # Backpropagation finds the end of a gradient first. A vector that goes up whole cannot leave before it ends.
        backwards = setup.overlap and cut.up == cut.down
        parts = setup.parts()
        self.up = [_sections(make_up, s, part, cut.up, backwards) for s, part in enumerate(parts)]
        self.down = [_sections(make_down, s, part, cut.down, backwards) for s, part in enumerate(parts)]
        self._all_up, self._all_down = (list(chain(*sections)) for sections in (self.up, self.down))
        #: The sections of both directions by their elements: those of the same ones share views of vectors.
        self._alike: dict[tuple[int, int], list[Section]] = {}
        for section in (*self._all_up, *self._all_down):
            self._alike.setdefault((section.span.start, section.span.stop), []).append(section)
        for name, vector in worker_vectors.items():
            self._view(name, vector)
        self._prepare_descent(setup.descent())
        self.carrier: ServerPipeline | SharedPipeline | None = None
        #: Where in the vector each payload begins, in the order of leaving.
        self._begins: list[int] = []
        self._x: Any = None
        self._g: Any = None
        if not self._straight:
            self._build()

    def _view(self, name: str, vector: Any) -> None:
        """Give each section its view of a vector of d elements, under this name."""
        for (start, stop), sections in self._alike.items():
            view = vector[start:stop]
            for section in sections:
                setattr(section, name, view)

    def _prepare_descent(self, descent: Descent) -> None:
        """Give the answers' sections what moves x, and a vector to decode into where that takes one."""
        longest = max(section.span.stop - section.span.start for section in self._all_down)
        decoded = None if self._full_down or descent.plain else self.setup.zeros(longest)
        for section in self._all_down:
            section.descent = descent
            section.decoded = None if decoded is None else decoded[: section.span.stop - section.span.start]

    def _build(self, memory: Any = None) -> None:
        """Make the carrier; `memory` is uint8, where this rank's payloads lie already."""
        setup = self.setup
        self.close()
        parts = Parts(self.up, self.down, setup.dtype.itemsize, self.schedule.way or "flat", memory)
        made: ServerPipeline | SharedPipeline
        if setup.network.shares_memory and not setup.overlap:
            made = SharedPipeline(setup.network, parts)
        else:
            made = ServerPipeline(setup.network, parts, setup.overlap)
        self.carrier = made
        if setup.served.stop > setup.served.start:
            self._serve(made.answers[setup.rank], setup.served)
        self._begins = [section.span.start for section in made.departure.order] if made.departure else []

    def _serve(self, row: Any, span: slice) -> None:
        """Give the sections of the part that this rank serves what its server needs; `row` holds its answers."""
        setup, up, down = self.setup, self.up[self.setup.rank], self.down[self.setup.rank]
        # Full vectors are added up in the buffer that MPI is handed.
        total = row.view(setup.dtype) if self._full_down else setup.zeros(span.stop - span.start)
        # Where ranks share cores, what is there is worth adding up while others have yet to get a core, unless that
        # takes a pass over full vectors for each. A payload that came up whole is a mean of answers in sections.
        early = setup.network.crowded and not self._full_up
        combines = len(up) == len(down) and not early and all(s.codec.combines for s in up)
        for section, view in zip((*up, *down), (*_views(up, total), *_views(down, total)), strict=True):
            section.total = section.mean = view
            section.combines, section.in_place = combines, self._full_down
        for section in down:
            here = slice(section.span.start - span.start, section.span.stop - span.start)
            vars(section).update({name: vector[here] for name, vector in self._server_vectors.items()})

    @property
    def up_bytes(self) -> int:
        """Size of a rank's payloads together."""
        return sum(section.payload_bytes for section in self._all_up)

    @property
    def bytes_per_iteration(self) -> int:
        """Bytes that all ranks together send."""
        return (self.setup.size - 1) * sum(section.payload_bytes for section in (*self._all_up, *self._all_down))

    @property
    def later_bytes(self) -> int:
        """Bytes of the answers, whose buffer is made when it is known where the gradient lies."""
        return 0 if self.carrier else sum(section.payload_bytes for section in self._all_down)

    def run(self, moves: Moves, x: Any, gradient: Gradient) -> None:
        """Exchange this rank's gradient at x; with `--overlap`, while it is computed. Raises HaltError."""
        if x is not self._x:
            self._x = x
            self._view("x", x)
        early = self.carrier.departure if self.carrier else None
        if early:
            early.watch(moves, x, gradient, self._take, self._begins)
        else:
            self._take(gradient(x))
        assert self.carrier is not None
        self.carrier.run(moves)

    def _take(self, g: Any) -> None:
        if g is not self._g:
            self._g = g
            if self._straight:
                self._build(g.view(np.uint8))
            for section in self._all_up:
                section.g = g[section.span]

    def close(self) -> None:
        """Free what MPI holds."""
        if self.carrier is not None:
            self.carrier.close()


def _sections(make: Callable[[int, int], Codec], part: int, span: slice, length: int, backwards: bool) -> list[Section]:
    """A part of the vector in sections of `length` elements, the last one perhaps shorter, in the order of sending."""
    codecs: dict[int, Codec] = {}
    found = []
    for start in range(span.start, span.stop, length):
        stop = min(start + length, span.stop)
        if stop - start not in codecs:
            codecs[stop - start] = make(part, stop - start)
        found.append(Section(codecs[stop - start], slice(start, stop), start - span.start))
    return found[::-1] if backwards else found


def _views(sections: Sequence[Section], row: Any) -> list[Any]:
    """A vector of the part's length cut into one for each section, in the order of sending."""
    views, start = [], 0
    for section in sections:
        stop = start + section.span.stop - section.span.start
        views.append(row[start:stop])
        start = stop
    return views
