"""Text as bytes, from a file or from a Markov source: samples are windows of it, each with the byte that follows."""

from __future__ import annotations

from bisect import bisect_right
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from mpisqueeze.data.dataset import Dataset, DataSource
from mpisqueeze.data.files import bad_file, find_data, open_data
from mpisqueeze.data.seeding import Stream, generator
from mpisqueeze.errors import UsageError
from mpisqueeze.files import path_of
from mpisqueeze.language import Kind, integer

#: One of so many parts of a text, the last one, is for tests.
TEST_PART = 10
#: `--partition` takes a sample's place in the text for its class: the text in so many parts of the same length.
PARTS = 100
#: The symbols of `synthetic-text`.
ALPHABET = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz ", np.uint8)
#: Concentration of the probabilities of a symbol's successors: a few of them have most.
_CONCENTRATION = 0.05

_Context = Annotated[int, integer(1, 1 << 16)]


def load_text(
    data_dir: Path | None, seed: int, *, file: Annotated[Path, Kind(path_of, "a file")], context: _Context = 64
) -> Dataset:
    """The bytes of any file, gzip-compressed or not. Raises UsageError.

    Args:
        context: bytes of a sample, each of which has to be told from those before it.
    """
    path = find_data(file, data_dir)
    with open_data(path) as stream:
        content = np.frombuffer(stream.read(), np.uint8)
    try:
        return _windows("text", content, context)
    except UsageError as error:
        raise bad_file(path, error.message, f"{content.size}") from None


def load_synthetic_text(
    data_dir: Path | None,
    seed: int,
    *,
    length: Annotated[int, integer(1, 1 << 30, "a size in bytes such as 256Ki")] = 1 << 18,
    context: _Context = 64,
) -> Dataset:
    """A Markov chain of order 2 over 27 symbols, whose probabilities and text the seed gives. Raises UsageError.

    Half of a symbol's probability depends on the one before it alone, so that a model learns something soon.
    No model's expected loss is below the chain's entropy rate (Shannon 1948, §7), which is the data set's `floor`.
    """
    rng = generator(seed, Stream.SYNTHETIC_TEXT)
    symbols = ALPHABET.size
    # Row a·27 + b holds the probabilities of what follows "ab".
    by_pair = rng.dirichlet(np.full(symbols, _CONCENTRATION), symbols * symbols)
    by_last = np.tile(rng.dirichlet(np.full(symbols, _CONCENTRATION), symbols), (symbols, 1))
    # All symbols can follow each pair, so that there is one stationary distribution.
    chances = 0.495 * (by_pair + by_last) + 0.01 / symbols
    bounds, draws = np.cumsum(chances, axis=1), rng.random(length)
    bounds[:, -1] = 1
    text, pair = bytearray(length), 0
    rows = bounds.tolist()
    for i, draw in enumerate(draws.tolist()):
        symbol = bisect_right(rows[pair], draw)
        text[i] = symbol
        pair = pair % symbols * symbols + symbol
    content = ALPHABET[np.frombuffer(text, np.uint8)]
    return _windows("synthetic-text", content, context, entropy_rate(chances))


def entropy_rate(chances: NDArray[Any]) -> float:
    """The entropy rate, in nats a symbol, of a chain of order 2 over s symbols.

    Args:
        chances: (s², s); row a·s + b holds the probabilities of what follows ab.
    """
    symbols = chances.shape[1]
    pairs = np.full(symbols * symbols, 1 / symbols**2)
    for _ in range(1000):
        # What follows ab makes pairs of b and it.
        after = (pairs[:, None] * chances).reshape(symbols, symbols, symbols).sum(axis=0).reshape(-1)
        done = np.abs(after - pairs).max() < 1e-15
        pairs = after
        if done:
            break
    logarithms = np.log(chances, where=chances > 0, out=np.zeros_like(chances))
    return float(-(pairs[:, None] * chances * logarithms).sum())


def _windows(name: str, content: NDArray[np.uint8], context: int, floor: float | None = None) -> Dataset:
    """Windows that meet, of `context` bytes and the next one, before and behind the cut. Raises UsageError."""
    least = TEST_PART * (context + 1)
    if content.size < least:
        raise UsageError(f"at least {least} bytes for windows of {context}")
    cut = content.size - content.size // TEST_PART
    train, test = (sliding_window_view(part, context + 1)[::context] for part in (content[:cut], content[cut:]))
    places = [(PARTS * np.arange(len(rows)) // len(rows)).astype(np.int32) for rows in (train, test)]
    return Dataset(name, train, places[0], test, places[1], classes=0, text=True, floor=floor)


TEXT = DataSource("text", "the bytes of a file, the first 90 % to train on: text:FILE[,context=64], for gpt", load_text)
SYNTHETIC_TEXT = DataSource(
    "synthetic-text",
    "a Markov source whose entropy rate is known and shown: synthetic-text[:BYTES][,context=64], for gpt",
    load_synthetic_text,
)
