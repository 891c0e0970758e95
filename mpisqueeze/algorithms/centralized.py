"""The algorithms with a server: one at rank 0, or one on every rank for a part each."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, ClassVar

from mpisqueeze.algorithms.base import Algorithm, Codec, Gradient, Setup
from mpisqueeze.algorithms.linear import LinearExchange
from mpisqueeze.algorithms.sections import Section, ServerExchange
from mpisqueeze.settings import ALLREDUCE


@dataclass(frozen=True)
class _Vector:
    """A vector that an algorithm declares: of a server alone or of every rank; part of a checkpoint or scratch."""

    on_server: bool
    kept: bool


def worker_vector(kept: bool = True) -> Any:
    """Declares a vector (d) of every rank: `delta = worker_vector()` in the body of the class.

    It is 0 at the start, and in a checkpoint if it is `kept` from one iteration to the next. Each section has its view
    of it under the same name, to be changed in place.
    """
    return _Vector(False, kept)


def server_vector(kept: bool = True) -> Any:
    """Declares a vector of a server, as long as the part that it serves; None on ranks that serve none."""
    return _Vector(True, kept)


class ServerAlgorithm(Algorithm):
    """Workers send something made of their gradients, servers answer, all apply the answer: section by section.

    An algorithm is three moves on a `Section`, each the line of its paper. Here they are those of SGD:
    `send`: q = C(g). `answer`: p = C(mean q). `apply`: x ← x − γp.
    What travels when, through which server, in sections how long and over which tree is the exchange's affair, and so
    is what `--overlap` sends before the gradient is complete. The moves are called once for each section of an
    iteration, `answer` on the section's server alone, in any order of the sections.

    With `--server root` rank 0 serves all of the vector, with `sharded` each rank a part of it. The equations hold for
    each part. With `allreduce` nobody does: where the algorithm is `linear`, so that `answer` hands on the mean as it
    is, MPI_Allreduce brings the mean of linear payloads to all.

    Attributes:
        compresses_up, compresses_down: whether workers and servers compress, or send full vectors.
        passes: in-place additions of vectors that take as long as what a worker does besides coding, and a server.
        lr: γ of this iteration.
        exchange: what `step` uses; `turn` gives others, as for an iteration with full vectors.

    Memory of a server: one vector of its part's length, for the mean, unless it answers with full vectors.
    """

    route: ClassVar[str] = "servers"
    compresses_up: ClassVar[bool] = True
    compresses_down: ClassVar[bool] = True
    passes: ClassVar[tuple[int, int]] = (0, 0)
    overlaps = True

    _vectors: ClassVar[dict[str, _Vector]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        declared = {name: value for name, value in vars(cls).items() if isinstance(value, _Vector)}
        for name in declared:
            if Section.owns(name):
                raise TypeError(f"a section has {name!r} of its own: give the vector of {cls.__name__} another name")
        if not vars(cls).keys().isdisjoint(("answer", "compresses_down")) and "linear" not in vars(cls):
            cls.linear = False
        if declared:
            kept = [name for name, vector in declared.items() if vector.kept]
            cls.memory = tuple(dict.fromkeys((*super(cls, cls).memory, *kept, *vars(cls).get("memory", ()))))
            cls._vectors = cls._vectors | declared

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.lr = 0.0
        self._exchanges: list[ServerExchange | LinearExchange] = []
        self._plain = setup.identity_codec().compressor
        served = setup.served.stop - setup.served.start
        for name, vector in self._vectors.items():
            length = served if vector.on_server else setup.dimension
            setattr(self, name, setup.zeros(length) if length else None)
        self.exchange = self.make_exchange()
        #: The exchange whose turn it is, and its key.
        self._turn: tuple[Hashable, ServerExchange | LinearExchange] = (None, self.exchange)

    def make_exchange(self, full: bool = False, setup: Setup | None = None) -> ServerExchange | LinearExchange:
        """An exchange of what the algorithm compresses, or of full vectors in both directions.

        Args:
            setup: one with another compressor; None: the algorithm's.
        """
        setup = setup or self.setup
        full_up, full_down = full or not self.compresses_up, full or not self.compresses_down
        workers = {name: getattr(self, name) for name, vector in self._vectors.items() if not vector.on_server}
        servers = {name: getattr(self, name) for name, vector in self._vectors.items() if vector.on_server}
        straight = type(self).send is ServerAlgorithm.send
        made: ServerExchange | LinearExchange
        if ALLREDUCE in (setup.server, self.route):
            made = LinearExchange(setup, full_up, workers)
        else:
            made = ServerExchange(setup, full_up, full_down, straight, workers, servers)
        self._exchanges.append(made)
        return made

    def turn(self, key: Hashable = None, **how: Any) -> ServerExchange | LinearExchange:
        """The exchange of this iteration: for the key None the usual one, else one that is made as `how` says.

        All ranks ask for the same one. It stays until another key is asked for, when it is closed.
        """
        before, exchange = self._turn
        if key != before:
            if before is not None:
                exchange.close()
                self._exchanges.remove(exchange)
            self._turn = key, self.exchange if key is None else self.make_exchange(**how)
        return self._turn[1]

    def accumulate(self, g: Any, memory: Any, beta: float, scale: float = 1.0) -> None:
        """memory ← β·memory + scale·g, and g ← memory. A NaN is left to be found when either is encoded."""
        self._plain.kernels.momentum_step(g, memory, None, scale, 0.0, 0.0, beta, False)

    def step(self, x: Any, gradient: Gradient, lr: float) -> None:
        self.lr = lr
        self.exchange.run(self, x, gradient)

    def send(self, section: Section) -> None:
        """On each rank, when the section's gradient is there: encode this rank's payload."""
        section.encode(section.g)

    def answer(self, section: Section) -> None:
        """On the section's server, when the mean of all payloads is there: encode the answer."""
        section.encode(section.mean)

    def apply(self, section: Section) -> None:
        """On each rank, when the answer is there: move x by it."""
        section.descend(self.lr)

    @property
    def codec(self) -> Codec:
        """A worker's codec for its first section."""
        return self.exchange.up[0][0].codec

    @property
    def schedule(self) -> Any:
        """The cost model's choice of sections and tree."""
        return self.exchange.schedule

    @property
    def payload_bytes(self) -> int:
        return self.exchange.up_bytes

    def bytes_per_iteration(self) -> int:
        return self.exchange.bytes_per_iteration

    @property
    def later_bytes(self) -> int:
        return sum(exchange.later_bytes for exchange in self._exchanges)

    def close(self) -> None:
        for exchange in self._exchanges:
            exchange.close()
