"""Messages longer than MPI's counts reach travel in pieces: here of 2 KiB, which changes no bit and no byte count."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpisqueeze.comm.world import World
from mpisqueeze.costs import sections
from mpisqueeze.costs.link import Link
from mpisqueeze.costs.sections import HOST_CODING, Terms, choose_sections, messages, pieces

LIMIT = 2048
RUN = ("--problem", "mlp:64x48", "--iterations", "3", "--lr", "0.05", "--consensus-every", "2", "--save-model")
#: The pairs of a comparison, and its options.
COMPARISONS = [
    ("sgd", "memsgd/topk:0.5", "dpsgd:order=awc", "dcd/topk:0.5", "allreduce"),
    ("doublesqueeze/qsgd:8,bucket=0", "memsgd/topk:0.5", "--server", "sharded", "--overlap", "--checksum"),
    ("memsgd/topk:0.5", "sgd", "--overlap"),
    ("choco/topk:0.5", "csgd/qsgd:8,bucket=0", "--checksum"),
    ("memsgd/topk:0.5", "dpsgd", "allreduce", "--link", "latency=10us,bandwidth=10gbit"),
]


class Watched:
    """A communicator that is handed no message of more than LIMIT bytes, and notes the longest."""

    longest = 0

    def __init__(self, comm: Any) -> None:
        self._comm = comm

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._comm, name)
        if name not in ("Send", "Recv", "Send_init", "Recv_init", "Allreduce", "Gather"):
            return found

        def call(*arguments: Any) -> Any:
            for argument in arguments:
                array = argument[0] if isinstance(argument, list) else argument
                if hasattr(array, "nbytes"):
                    Watched.longest = max(Watched.longest, array.nbytes)
                    assert array.nbytes <= LIMIT, (name, array.nbytes)
            return found(*arguments)

        return call


def logs(folder: str) -> dict[str, tuple[list[dict[str, Any]], np.ndarray]]:
    """The lines and the model of each run of a comparison."""
    found = {}
    for path in sorted(Path(folder).glob("*/iterations.jsonl")):
        with np.load(path.parent / "model.npz") as model:
            found[path.parent.name] = [json.loads(line) for line in path.read_text().splitlines()], model["x"]
    return found


def pieces_change_no_bit() -> None:
    from mpisqueeze.cli.app import run
    from mpisqueeze.cli.ranks import join

    plain = World.__init__

    def watched(self: World, comm: Any = None) -> None:
        plain(self, comm)
        self.comm = Watched(self.comm)  # type: ignore[assignment]

    for number, options in enumerate(COMPARISONS):
        assert run(["compare", *RUN, *options, "--out", f"whole-{number}"]) == 0, options
    sections.LONGEST, World.__init__ = LIMIT, watched  # type: ignore[method-assign]
    join.cache_clear()
    for number, options in enumerate(COMPARISONS):
        Watched.longest = 0
        assert run(["compare", *RUN, *options, "--out", f"pieces-{number}"]) == 0, options
        assert Watched.longest > LIMIT / 2, options
    world = World()
    if not world.is_root:
        return
    for number, options in enumerate(COMPARISONS):
        whole, cut = logs(f"whole-{number}"), logs(f"pieces-{number}")
        assert whole.keys() == cut.keys()
        assert whole
        extra = 4 if "--checksum" in options else 0
        for name, (lines, x) in whole.items():
            for line, other in zip(lines, cut[name][0], strict=True):
                # A checksum follows each message, and is one.
                counts = [each["bytes_sent"] - extra * each["messages"] // 2 for each in (line, other)]
                assert counts[0] == counts[1], name
                assert other["messages"] > line["messages"], name
            if "allreduce" in name:
                # The library may add up a shorter vector in another order.
                np.testing.assert_allclose(x, cut[name][1], rtol=1e-5, atol=1e-6)
            else:
                assert x.tobytes() == cut[name][1].tobytes(), (name, options)


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 3])
def test_pieces_change_no_bit(on_ranks: Callable[..., None], n: int) -> None:
    on_ranks(n, pieces_change_no_bit, alone=True)


def test_no_piece_reaches_what_an_int_cannot_count() -> None:
    """Pieces cover a message without a gap, cut no element, and are as many as are counted."""
    assert sections.LONGEST < 2**31
    for nbytes in (0, 1, sections.LONGEST, sections.LONGEST + 8, 2**31 + 16, 10**11 + 8):
        for alignment in (1, 4, 8):
            spans = pieces(nbytes, alignment)
            assert [spans[0].start, spans[-1].stop] == [0, nbytes]
            assert all(one.stop == other.start for one, other in pairwise(spans))
            assert all(span.stop - span.start <= sections.LONGEST for span in spans)
            assert all(span.start % alignment == 0 for span in spans)
            assert len(spans) == messages(nbytes)


@pytest.mark.parametrize("chunk", [None, 10**10])
def test_sections_stay_below_it_where_they_can(chunk: int | None) -> None:
    """A free link would have them whole; a payload that cannot be cut stays whole, for pieces to be made of it."""
    d, link = 2**31 - 1, Link(0.0, 1.0, 0.0)
    terms = Terms(2, link, HOST_CODING, chunk, chunk)
    for by_root in (True, False):
        cut = choose_sections(terms, d, (8, 8), 4 * d, 4 * d, by_root)
        assert 4 * cut.up <= sections.LONGEST
        assert choose_sections(terms, d, (None, None), 4 * d, 4 * d, by_root).up == -(-d // (1 if by_root else 2))
