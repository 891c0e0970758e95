"""The kernels in NumPy, tile by tile: the definition that the compiled ones are tested against, and their fallback."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from mpisqueeze.kernels import random

Residual = np.ndarray | None
#: Elements in a tile, the part of a vector worked on at a time: its scratch stays in a core's cache.
TILE = 1 << 17
#: The longest run that one halving sum takes.
RUN = 1024


def blocks_of(dimension: int, block: int) -> tuple[int, int]:
    """(length of a block, number of blocks) of a vector cut into blocks of `block` elements; 0: one block."""
    length = min(block, dimension) if block else dimension
    return length, -(-dimension // length)


class _Scratch(threading.local):
    """The arrays that a thread's kernels work in; each thread has its own.

    Attributes:
        drawn: length, number and key of the positions that are there.
    """

    def __init__(self) -> None:
        self.arrays: dict[tuple[str, Any], np.ndarray] = {}
        self.drawn: tuple[int, int, int] | None = None


class ReferenceKernels:
    """See `mpisqueeze.kernels` for the conventions. Scratch is O(TILE), except where a method says otherwise."""

    name = "numpy"

    def __init__(self, dtype: Any) -> None:
        self.dtype = np.dtype(dtype)
        self._scratch = _Scratch()

    # -- scratch and sums

    def scratch(self, name: str, size: int, dtype: Any = None) -> np.ndarray:
        """A reusable array of `size` elements, this thread's; its content is undefined."""
        key, arrays = (name, dtype or self.dtype), self._scratch.arrays
        have = arrays.get(key)
        if have is None or have.size < size:
            have = arrays[key] = np.empty(max(size, 1), key[1])
        return have[:size]

    def _halving_rows(self, rows: np.ndarray, statistic: str) -> np.ndarray:
        """Halving sums of the rows of (m, n ≤ RUN): shape (m,), valid until the next call; see `_block_statistic`."""
        m, n = rows.shape
        width = 1 << (n - 1).bit_length() if n > 1 else 1
        dtype = np.dtype(np.float64) if statistic == "sq" else self.dtype
        work = self.scratch("halving", m * width, dtype).reshape(m, width)
        work[:, n:] = 0
        head = work[:, :n]
        if statistic == "sq":
            np.copyto(head, rows)
            np.multiply(head, head, out=head)
        elif statistic == "l1":
            np.abs(rows, out=head)
        else:
            (np.maximum if statistic == "above" else np.minimum)(rows, 0, out=head)
        while width > 1:
            width //= 2
            np.add(work[:, :width], work[:, width : 2 * width], out=work[:, :width])
        return work[:, 0]

    def _halving(self, v: np.ndarray, statistic: str) -> Any:
        """A halving sum over v of any length; see `_block_statistic`."""
        n = v.size
        if n <= RUN:
            return self._halving_rows(v.reshape(1, n), statistic)[0]
        full = n // RUN
        sums = np.empty(-(-n // RUN), np.float64 if statistic == "sq" else self.dtype)
        rows = v[: full * RUN].reshape(full, RUN)
        step = TILE // RUN
        for a in range(0, full, step):
            sums[a : a + step][: full - a] = self._halving_rows(rows[a : a + step], statistic)
        if full * RUN < n:
            sums[full] = self._halving_rows(v[full * RUN :].reshape(1, -1), statistic)[0]
        # Partial sums are added as they are; padding with zeros changes no sum.
        while sums.size > 1:
            padded = np.zeros((-(-sums.size // RUN), RUN), sums.dtype)
            padded.reshape(-1)[: sums.size] = sums
            for width in (512, 256, 128, 64, 32, 16, 8, 4, 2, 1):
                padded = padded[:, :width] + padded[:, width : 2 * width]
            sums = padded[:, 0]
        return sums[0]

    # -- walking a vector

    @staticmethod
    def _tiles(dimension: int, length: int) -> Iterator[tuple[int, int]]:
        """Ranges that cover a vector: whole blocks where a tile holds them, and always whole bytes of a stream."""
        step = max(8, TILE // length // 8 * 8) * length if length <= TILE // 8 else TILE
        for start in range(0, dimension, step):
            yield start, min(start + step, dimension)

    @staticmethod
    def _runs(start: int, stop: int, length: int) -> Iterator[tuple[int, int, int, int]]:
        """Cut [start, stop) into (first, last, block, blocks): `blocks` whole blocks, or a part of one (blocks = 1)."""
        while start < stop:
            block = start // length
            if start % length == 0 and stop - start >= length:
                whole = (stop - start) // length
                yield start, start + whole * length, block, whole
                start += whole * length
            else:
                end = min(stop, (block + 1) * length)
                yield start, end, block, 1
                start = end

    def _compensated(self, vector: np.ndarray, residual: Residual) -> np.ndarray:
        """v = vector + residual, written over the residual; the vector itself without error feedback."""
        if residual is None:
            return vector
        return np.add(vector, residual, out=residual)

    def _block_statistic(self, v: np.ndarray, length: int, statistic: str, out: np.ndarray) -> None:
        """Write a statistic of each block of v to `out`.

        `l1` ‖·‖₁, `sq` ‖·‖₂² (float64), `above` Σ max(v, 0), `below` Σ min(v, 0), `max` max|·|, `lo`, `hi`, and the
        number of `negatives`.
        """
        for start, stop in self._tiles(v.size, length) if length <= TILE // 8 else [(0, v.size)]:
            for a, b, block, count in self._runs(start, stop, length):
                rows = v[a:b].reshape(count, -1)
                target = out[block : block + count]
                if statistic == "lo":
                    np.minimum.reduce(rows, axis=1, out=target)
                elif statistic == "hi":
                    np.maximum.reduce(rows, axis=1, out=target)
                elif statistic in ("max", "negatives"):
                    target[:] = 0
                    step = max(1, TILE // count)
                    for i in range(0, rows.shape[1], step):
                        part = rows[:, i : i + step]
                        if statistic == "max":
                            work = self.scratch("halving", part.size).reshape(part.shape)
                            np.maximum(target, np.maximum.reduce(np.abs(part, out=work), axis=1), out=target)
                        else:
                            target += np.count_nonzero(part < 0, axis=1)
                elif rows.shape[1] <= RUN:
                    target[:] = self._halving_rows(rows, statistic)
                else:
                    for i in range(count):
                        target[i] = self._halving(rows[i], statistic)

    # -- identity

    def copy_encode(self, vector: np.ndarray, residual: Residual, payload: np.ndarray) -> bool:
        """Copy the elements. Payload: d values; it may be the vector itself, which is then only looked at."""
        values = payload.view(self.dtype)
        if residual is None:
            np.copyto(values, vector)
        else:
            np.add(vector, residual, out=values)
            residual.fill(0)
        return bool(np.isfinite(values).all())

    def copy_decode(self, payload: np.ndarray, out: np.ndarray, add: bool, factor: float = 1.0) -> bool:
        """Copy or add the elements; False if one was not finite, since not every vector that is sent was encoded."""
        values, finite = payload.view(self.dtype), True
        for start in range(0, out.size, TILE):
            tile = values[start : start + TILE]
            self._deliver(tile, out[start : start + TILE], add, factor)
            finite = finite and bool(np.isfinite(tile).all())
        return finite

    # -- signs

    def signs_encode(
        self, vector: np.ndarray, residual: Residual, payload: np.ndarray, block: int, each: int, l2: bool
    ) -> bool:
        """`each` scales a block, 0, 1 or 2, and a bit per element, 1 = negative.

        Payload: a block's scale s, ‖v‖₁/n or with `l2` ‖v‖₂/√n, for ±s; of two, the mean of its elements ≥ 0 and the
        mean of those < 0, each 0 where there are none; then the bits. Without scales they are those of ±1.
        """
        length, blocks = blocks_of(vector.size, block)
        scales, stream = self._scales_and_codes(payload, each * blocks)
        if not each:
            # They tell whether all elements are finite.
            scales = self.scratch("scales", blocks)
        fits = length <= TILE // 8
        if not fits:
            vector = self._compensated(vector, residual)
            self._signs_scales(vector, length, each == 2, l2, scales)
        for start, stop in self._tiles(vector.size, length):
            v = vector[start:stop]
            if fits:
                # Block sums are taken while the tile is still in the cache.
                v = self._compensated(v, None if residual is None else residual[start:stop])
                self._signs_scales(v, length, each == 2, l2, scales[max(1, each) * (start // length) :])
            negative = np.less(v, 0, out=self.scratch("negative", stop - start, np.bool_))
            stream[start // 8 : -(-stop // 8)] = np.packbits(negative, bitorder="little")
            if residual is not None:
                for elements, values in self._signed(negative, start, length, each, scales):
                    residual[elements] -= values
        return bool(np.isfinite(scales).all())

    def _signs_scales(self, v: np.ndarray, length: int, two: bool, l2: bool, scales: np.ndarray) -> None:
        """Fill the first scales with those of the blocks of v."""
        blocks = -(-v.size // length)
        last = v.size - (blocks - 1) * length
        if two:
            above, below = scales[0 : 2 * blocks : 2], scales[1 : 2 * blocks : 2]
            self._block_statistic(v, length, "above", above)
            self._block_statistic(v, length, "below", below)
            counts = self.scratch("counts", blocks, np.int64)
            self._block_statistic(v, length, "negatives", counts)
            below /= np.maximum(counts, 1).astype(self.dtype)
            np.subtract(length, counts, out=counts)
            counts[-1] -= length - last
            above /= np.maximum(counts, 1).astype(self.dtype)
            # A sum of zeros of either sign is 0.
            scales[: 2 * blocks] += self.dtype.type(0)
            return
        sums = self.scratch("sums", blocks, np.float64 if l2 else self.dtype)
        self._block_statistic(v, length, "sq" if l2 else "l1", sums)
        sums[:-1] /= sums.dtype.type(length)
        sums[-1] /= sums.dtype.type(last)
        with np.errstate(over="ignore"):
            np.copyto(scales[:blocks], np.sqrt(sums, out=sums) if l2 else sums, casting="same_kind")

    def _signed(
        self, negative: np.ndarray, start: int, length: int, each: int, scales: np.ndarray
    ) -> Iterator[tuple[slice, np.ndarray]]:
        """(elements, values) for the bits of a tile that begins at `start`, block by block."""
        one = np.ones((1, 1), self.dtype)
        for a, b, first, count in self._runs(start, start + negative.size, length):
            sides = scales[each * first : each * (first + count)].reshape(count, -1) if each else one
            values = self.scratch("signed", b - a)
            rows = values.reshape(count, -1)
            np.copyto(rows, sides[:, :1])
            np.copyto(
                rows, sides[:, 1:] if each == 2 else -sides, where=negative[a - start : b - start].reshape(count, -1)
            )
            yield slice(a, b), values

    def signs_decode(
        self, payload: np.ndarray, out: np.ndarray, block: int, each: int, add: bool, factor: float = 1.0
    ) -> None:
        length, blocks = blocks_of(out.size, block)
        scales, stream = self._scales_and_codes(payload, each * blocks)
        for start, stop in self._tiles(out.size, length):
            bits = np.unpackbits(stream[start // 8 : -(-stop // 8)], count=stop - start, bitorder="little")
            for elements, values in self._signed(bits.view(np.bool_), start, length, each, scales):
                self._deliver(values, out[elements], add, factor)

    def _scales_and_codes(self, payload: np.ndarray, scales: int) -> tuple[np.ndarray, np.ndarray]:
        """A payload's scales, as floats, and the bit stream behind them."""
        end = scales * self.dtype.itemsize
        return payload[:end].view(self.dtype), payload[end:]

    def _deliver(self, values: np.ndarray, out: np.ndarray, add: bool, factor: float) -> None:
        """out ← values, or out + factor·values."""
        if not add:
            np.copyto(out, values)
        elif factor == 1.0:
            np.add(out, values, out=out)
        else:
            times = self.scratch("times", values.size)
            np.multiply(values, self.dtype.type(factor), out=times)
            np.add(out, times, out=out)

    # -- quantization

    def quantize_encode(
        self, vector: np.ndarray, residual: Residual, payload: np.ndarray, bits: int, bucket: int, norm: str, key: int
    ) -> bool:
        """norm·sign·(level/s), s = 2^(bits−1) − 1, stochastic rounding of |v|/norm·s; `norm` is l2 or max.

        Payload: a norm per bucket, then a code of `bits` bits per element: the level, and the sign as its highest bit.
        """
        length, buckets = blocks_of(vector.size, bucket)
        v = self._compensated(vector, residual)
        norms, stream = self._scales_and_codes(payload, buckets)
        if norm == "l2":
            squares = np.empty(buckets)
            self._block_statistic(v, length, "sq", squares)
            with np.errstate(over="ignore"):
                norms[:] = np.sqrt(squares)
        else:
            self._block_statistic(v, length, "max", norms)
        if not np.isfinite(norms).all():
            return False
        levels = self.dtype.type((1 << (bits - 1)) - 1)
        table = self._quantize_table(bits)
        divisors = np.where(norms > 0, norms, self.dtype.type(1))
        for start, stop in self._tiles(vector.size, length):
            n = stop - start
            magnitude = self.scratch("magnitude", n)
            for a, b, first, count in self._runs(start, stop, length):
                rows = magnitude[a - start : b - start].reshape(count, -1)
                np.abs(v[a:b].reshape(count, -1), out=rows)
                np.divide(rows, divisors[first : first + count, None], out=rows)
            np.multiply(magnitude, levels, out=magnitude)
            # A float64 square can underflow, so that the norm is smaller than the element.
            np.minimum(magnitude, levels, out=magnitude)
            codes = self._round_stochastically(magnitude, start, key)
            negative = np.less(v[start:stop], 0, out=self.scratch("negative", n, np.bool_)).view(np.uint8)
            codes |= np.left_shift(negative, bits - 1, out=negative)
            self._pack(codes, bits, stream, start)
            if residual is not None:
                for elements, values in self._decoded(codes, start, length, table, norms):
                    residual[elements] -= values
        return True

    def _round_stochastically(self, levels: np.ndarray, start: int, key: int) -> np.ndarray:
        """⌊level⌋, or one more with the fractional part as probability, in uint8; `levels` is overwritten.

        One more if u, see `random`, is below the fractional part. Levels are fixed-point numbers here; a sum that ends
        in ones has a u that begins as the fractional part does.
        """
        n, ones = levels.size, (1 << random.FIRST_BITS) - 1
        index, fixed = self.scratch("index", n, np.uint32), self.scratch("hash", n, np.uint32)
        index[:] = np.arange(start, start + n, dtype=np.uint32)
        draws = random.hash32(index, key, fixed)
        np.right_shift(draws, 32 - random.FIRST_BITS, out=draws)
        np.subtract(ones, draws, out=draws)
        np.multiply(levels, self.dtype.type(ones + 1), out=levels)
        np.copyto(fixed, levels, casting="unsafe")
        draws += fixed
        codes = self.scratch("codes", n, np.uint8)
        np.right_shift(draws, random.FIRST_BITS, out=codes, casting="unsafe")
        np.bitwise_and(draws, ones, out=draws)
        for i in np.flatnonzero(np.equal(draws, ones, out=self.scratch("negative", n, np.bool_))):
            codes[i] += random.rest_is_below(float(levels[i]) - int(fixed[i]), key ^ (start + int(i)))
        return codes

    def _quantize_table(self, bits: int) -> np.ndarray:
        """±level/s for each code; the code of −0 stands for −0."""
        half = 1 << (bits - 1)
        levels = np.arange(half).astype(self.dtype) / self.dtype.type(half - 1)
        return np.concatenate([levels, -levels])

    def _decoded(
        self,
        codes: np.ndarray,
        start: int,
        length: int,
        table: np.ndarray,
        scales: np.ndarray,
        low: np.ndarray | None = None,
    ) -> Iterator[tuple[slice, np.ndarray]]:
        """(elements, table[code]·scale [+ low]) for the codes of a tile that begins at `start`, block by block."""
        for a, b, first, count in self._runs(start, start + codes.size, length):
            values = np.take(table, codes[a - start : b - start], out=self.scratch("signed", b - a), mode="clip")
            rows = values.reshape(count, -1)
            np.multiply(rows, scales[first : first + count, None], out=rows)
            if low is not None:
                rows += low[first : first + count, None]
            yield slice(a, b), values

    def quantize_decode(
        self, payload: np.ndarray, out: np.ndarray, bits: int, bucket: int, add: bool, factor: float = 1.0
    ) -> None:
        length, buckets = blocks_of(out.size, bucket)
        norms, stream = self._scales_and_codes(payload, buckets)
        table = self._quantize_table(bits)
        for start, stop in self._tiles(out.size, length):
            codes = self._unpack(stream, bits, start, stop)
            for elements, values in self._decoded(codes, start, length, table, norms):
                self._deliver(values, out[elements], add, factor)

    def uniform_encode(
        self, vector: np.ndarray, residual: Residual, payload: np.ndarray, bits: int, bucket: int, key: int
    ) -> bool:
        """lo + code/(2^bits − 1)·(hi − lo), stochastic rounding. Payload: lo, hi for each bucket, then the codes."""
        length, buckets = blocks_of(vector.size, bucket)
        v = self._compensated(vector, residual)
        ends, stream = self._scales_and_codes(payload, 2 * buckets)
        low, high = ends[0::2], ends[1::2]
        self._block_statistic(v, length, "lo", low)
        self._block_statistic(v, length, "hi", high)
        # Whether a reduction returns −0 or +0 depends on its order; adding +0 makes it +0.
        ends += self.dtype.type(0)
        with np.errstate(over="ignore", invalid="ignore"):
            spans = high - low
        if not np.isfinite(spans).all():
            return False
        table = self._uniform_table(bits)
        divisors = np.where(spans > 0, spans, self.dtype.type(1))
        for start, stop in self._tiles(vector.size, length):
            levels = self.scratch("magnitude", stop - start)
            for a, b, first, count in self._runs(start, stop, length):
                rows = levels[a - start : b - start].reshape(count, -1)
                np.subtract(v[a:b].reshape(count, -1), low[first : first + count, None], out=rows)
                np.divide(rows, divisors[first : first + count, None], out=rows)
            np.multiply(levels, self.dtype.type((1 << bits) - 1), out=levels)
            codes = self._round_stochastically(levels, start, key)
            self._pack(codes, bits, stream, start)
            if residual is not None:
                for elements, values in self._decoded(codes, start, length, table, spans, low):
                    residual[elements] -= values
        return True

    def _uniform_table(self, bits: int) -> np.ndarray:
        return np.arange(1 << bits).astype(self.dtype) / self.dtype.type((1 << bits) - 1)

    def uniform_decode(
        self, payload: np.ndarray, out: np.ndarray, bits: int, bucket: int, add: bool, factor: float = 1.0
    ) -> None:
        length, buckets = blocks_of(out.size, bucket)
        ends, stream = self._scales_and_codes(payload, 2 * buckets)
        low = ends[0::2]
        spans = ends[1::2] - low
        table = self._uniform_table(bits)
        for start, stop in self._tiles(out.size, length):
            codes = self._unpack(stream, bits, start, stop)
            for elements, values in self._decoded(codes, start, length, table, spans, low):
                self._deliver(values, out[elements], add, factor)

    def _pack(self, codes: np.ndarray, bits: int, stream: np.ndarray, start: int) -> None:
        """Write uint8 `codes` of `bits` bits into the stream from element `start` on, a multiple of 8."""
        first = start * bits // 8
        size = -(-codes.size * bits // 8)
        target = stream[first : first + size]
        if bits == 8:
            target[:] = codes
            return
        groups = -(-codes.size // 8)
        padded = self.scratch("padded", groups * 8, np.uint8)
        padded[: codes.size] = codes
        padded[codes.size :] = 0
        lanes = padded.reshape(groups, 8)
        words = self.scratch("words", groups, np.uint64)
        words[:] = lanes[:, 0]
        for lane in range(1, 8):
            words |= lanes[:, lane].astype(np.uint64) << np.uint64(lane * bits)
        octets = words.astype("<u8", copy=False).view(np.uint8).reshape(groups, 8)[:, :bits]
        target[:] = octets.reshape(-1)[:size]

    def _unpack(self, stream: np.ndarray, bits: int, start: int, stop: int) -> np.ndarray:
        """The codes of elements [start, stop) as uint8; start is a multiple of 8."""
        n = stop - start
        first = start * bits // 8
        source = stream[first : first + -(-n * bits // 8)]
        if bits == 8:
            return source
        groups = -(-n // 8)
        octets = np.zeros((groups, 8), np.uint8)
        whole = source.size // bits
        octets[:whole, :bits] = source[: whole * bits].reshape(whole, bits)
        if whole < groups:
            octets[whole, : source.size - whole * bits] = source[whole * bits :]
        words = octets.view("<u8").reshape(groups)
        codes = self.scratch("padded", groups * 8, np.uint8).reshape(groups, 8)
        mask = np.uint64((1 << bits) - 1)
        for lane in range(8):
            codes[:, lane] = (words >> np.uint64(lane * bits)) & mask
        return codes.reshape(-1)[:n]

    # -- a byte per element

    @property
    def _float(self) -> tuple[type[Any], int, int]:
        """(unsigned integers as long as the dtype, bits of its fraction, bias of its exponent)."""
        limits = np.finfo(self.dtype)
        return np.dtype(f"u{self.dtype.itemsize}").type, int(limits.nmant), int(limits.maxexp) - 1

    def natural_encode(self, vector: np.ndarray, residual: Residual, payload: np.ndarray, key: int) -> bool:
        """±2^(code − 109), ±0 for code 0: |v| is rounded to one of the two next to it, at random.

        Payload: a byte per element, the sign as its highest bit and the code, 0 … 127. False for |v| > 2¹⁸.
        """
        v = self._compensated(vector, residual)
        unsigned, fraction, bias = self._float
        ones, cut = (1 << random.FIRST_BITS) - 1, fraction - random.FIRST_BITS
        nothing, least, most = (unsigned((bias - 109 + code) << fraction) for code in (0, 1, 127))
        table = self._natural_table()
        for start, stop in self._tiles(v.size, 1):
            part, n = v[start:stop], stop - start
            bits = np.abs(part).view(unsigned)
            if (bits > most).any():
                return False
            # Fixed-point numbers, the code before the point. Below the smallest power of two they are that part of it.
            small = bits < least
            scaled = np.ldexp(np.where(small, np.abs(part), self.dtype.type(0)), 131)
            fixed = np.where(small, scaled, (bits - nothing) >> unsigned(cut)).astype(np.uint32)
            index, scratch = self.scratch("index", n, np.uint32), self.scratch("hash", n, np.uint32)
            index[:] = np.arange(start, stop, dtype=np.uint32)
            draws = random.hash32(index, key, scratch)
            np.right_shift(draws, 32 - random.FIRST_BITS, out=draws)
            np.subtract(ones, draws, out=draws)
            draws += fixed
            codes = payload[start:stop]
            np.right_shift(draws, random.FIRST_BITS, out=codes, casting="unsafe")
            np.bitwise_and(draws, ones, out=draws)
            for i in np.flatnonzero(draws == ones):
                rest = float(scaled[i]) - int(fixed[i]) if small[i] else int(bits[i]) % 2**cut / 2**cut
                codes[i] += random.rest_is_below(rest, key ^ (start + int(i)))
            codes |= np.left_shift(np.signbit(part).view(np.uint8), 7)
            if residual is not None:
                part -= np.take(table, codes)
        return True

    def _natural_table(self) -> np.ndarray:
        powers = np.ldexp(np.ones(128, self.dtype), np.arange(128) - 109)
        powers[0] = 0
        return np.concatenate([powers, -powers])

    def natural_decode(self, payload: np.ndarray, out: np.ndarray, add: bool, factor: float = 1.0) -> None:
        table = self._natural_table()
        for start, stop in self._tiles(out.size, 1):
            self._deliver(np.take(table, payload[start:stop]), out[start:stop], add, factor)

    def fp8_encode(self, vector: np.ndarray, residual: Residual, payload: np.ndarray, block: int) -> bool:
        """A scale s = max|v|/448 a block, at least the smallest normal number, and v/s in e4m3, to nearest even.

        Payload: the scales, then a byte per element. False where 448·s is not finite.
        """
        length, blocks = blocks_of(vector.size, block)
        v = self._compensated(vector, residual)
        scales, codes = self._scales_and_codes(payload, blocks)
        self._block_statistic(v, length, "max", scales)
        scales /= self.dtype.type(448)
        np.maximum(scales, np.finfo(self.dtype).tiny, out=scales)
        with np.errstate(over="ignore"):
            if not np.isfinite(scales * self.dtype.type(448)).all():
                return False
        table = self._fp8_table()
        for start, stop in self._tiles(v.size, length):
            quotients = self.scratch("magnitude", stop - start)
            for a, b, first, count in self._runs(start, stop, length):
                rows = quotients[a - start : b - start].reshape(count, -1)
                np.divide(v[a:b].reshape(count, -1), scales[first : first + count, None], out=rows)
            part = codes[start:stop]
            part[:] = self._fp8_codes(quotients)
            if residual is not None:
                for elements, values in self._decoded(part, start, length, table, scales):
                    residual[elements] -= values
        return True

    def _fp8_codes(self, x: np.ndarray) -> np.ndarray:
        """x in e4m3: four bits of exponent with bias 7, and three of fraction."""
        unsigned, fraction, bias = self._float
        cut = unsigned(fraction - 3)
        bits, one = np.abs(x).view(unsigned), unsigned(1)
        # Adding a number whose last bit is worth 2⁻⁹ rounds what is below 2⁻⁶.
        large = self.dtype.type(2.0 ** (fraction - 9))
        low = (np.abs(x) + large).view(unsigned) - large.view(unsigned)
        high = (bits - unsigned((bias - 7) << fraction) + ((one << (cut - one)) - one) + ((bits >> cut) & one)) >> cut
        codes = np.where(bits < unsigned((bias - 6) << fraction), low, high).astype(np.uint8)
        return codes | np.left_shift(np.signbit(x).view(np.uint8), 7)

    def _fp8_table(self) -> np.ndarray:
        codes = np.arange(128)
        normal = np.ldexp((8 + codes % 8).astype(self.dtype), codes // 8 - 10)
        values = np.where(codes < 8, np.ldexp(codes.astype(self.dtype), -9), normal)
        return np.concatenate([values, -values])

    def fp8_decode(self, payload: np.ndarray, out: np.ndarray, block: int, add: bool, factor: float = 1.0) -> None:
        length, blocks = blocks_of(out.size, block)
        scales, codes = self._scales_and_codes(payload, blocks)
        table = self._fp8_table()
        for start, stop in self._tiles(out.size, length):
            for elements, values in self._decoded(codes[start:stop], start, length, table, scales):
                self._deliver(values, out[elements], add, factor)

    # -- sparsification

    def topk_encode(self, vector: np.ndarray, residual: Residual, payload: np.ndarray, k: int) -> bool:
        """The k largest |v|, ties to the lowest index. Payload: k values, then their int32 indices, ascending.

        Scratch: d elements, for a selection (introselect) that never sorts the whole vector.
        """
        v = self._compensated(vector, residual)
        values = payload[: k * self.dtype.itemsize].view(self.dtype)
        indices = payload[k * self.dtype.itemsize :].view(np.int32)
        magnitude = np.abs(v, out=self.scratch("vector", v.size))
        if not np.isfinite(magnitude).all():
            return False
        if k == v.size:
            indices[:] = np.arange(k)
        else:
            magnitude.partition(v.size - k)
            threshold = magnitude[v.size - k]
            magnitude = np.abs(v, out=magnitude)
            above = np.flatnonzero(magnitude > threshold)
            ties = np.flatnonzero(magnitude == threshold)[: k - above.size]
            indices[:] = np.sort(np.concatenate([above, ties]))
        np.take(v, indices, out=values, mode="clip")
        if residual is not None:
            residual[indices] = 0
        return True

    def topk_decode(self, payload: np.ndarray, out: np.ndarray, k: int, add: bool, factor: float = 1.0) -> None:
        values = payload[: k * self.dtype.itemsize].view(self.dtype)
        self._scatter(payload[k * self.dtype.itemsize :].view(np.int32), values, out, add, factor)

    def topk_clear(self, payload: np.ndarray, out: np.ndarray, k: int) -> None:
        """out ← 0 at the indices that a payload holds."""
        out[payload[k * self.dtype.itemsize :].view(np.int32)] = 0

    def _scatter(self, positions: np.ndarray, values: np.ndarray, out: np.ndarray, add: bool, factor: float) -> None:
        if add:
            out[positions] += values if factor == 1.0 else values * self.dtype.type(factor)
        else:
            out.fill(0)
            out[positions] = values

    def randomk_encode(
        self, vector: np.ndarray, residual: Residual, payload: np.ndarray, k: int, key: int, unbiased: bool
    ) -> bool:
        """`positions_encode` behind the key as 8 bytes."""
        payload[:8].view("<u8")[0] = key
        return self.positions_encode(vector, residual, payload[8:], k, key, unbiased)

    def randomk_decode(self, payload: np.ndarray, out: np.ndarray, k: int, add: bool, factor: float = 1.0) -> None:
        self.positions_decode(payload[8:], out, k, int(payload[:8].view("<u8")[0]), add, factor)

    def positions_encode(
        self, vector: np.ndarray, residual: Residual, payload: np.ndarray, k: int, key: int, unbiased: bool
    ) -> bool:
        """k positions drawn by the key; `unbiased` scales their values by d/k. Payload: k values."""
        v = self._compensated(vector, residual)
        values = payload.view(self.dtype)
        positions = random.random_positions(key, k, v.size)
        np.take(v, positions, out=values)
        if not np.isfinite(v).all():
            return False
        if unbiased:
            with np.errstate(over="ignore"):
                values *= self.dtype.type(v.size / k)
        if residual is not None:
            residual[positions] -= values
        return bool(np.isfinite(values).all())

    def positions_decode(
        self, payload: np.ndarray, out: np.ndarray, k: int, key: int, add: bool, factor: float = 1.0
    ) -> bool:
        """False if a value was not finite: the payload may be the sum of several."""
        values = payload.view(self.dtype)
        self._scatter(random.random_positions(key, k, out.size), values, out, add, factor)
        return bool(np.isfinite(values).all())

    def randomk_clear(self, payload: np.ndarray, out: np.ndarray, k: int) -> None:
        """out ← 0 at the positions of a payload's key."""
        out[random.random_positions(int(payload[:8].view("<u8")[0]), k, out.size)] = 0

    # -- float formats

    def clip_encode(self, vector: np.ndarray, residual: Residual, payload: np.ndarray, bits: int) -> bool:
        """Keep the top `bits` bits of each element as float32. Payload: a stream of `bits` bits per element."""
        v = self._compensated(vector, residual)
        for start, stop in self._tiles(v.size, 1):
            words = self._as_float32(v[start:stop]).view(np.uint32)
            if not np.isfinite(words.view(np.float32)).all():
                return False
            words >>= np.uint32(32 - bits)
            self._pack_words(words, bits, payload, start)
            if residual is not None:
                words <<= np.uint32(32 - bits)
                residual[start:stop] -= words.view(np.float32)
        return True

    def clip_decode(self, payload: np.ndarray, out: np.ndarray, bits: int, add: bool, factor: float = 1.0) -> None:
        for start, stop in self._tiles(out.size, 1):
            words = self._unpack_words(payload, bits, start, stop)
            words <<= np.uint32(32 - bits)
            self._deliver(words.view(np.float32), out[start:stop], add, factor)

    def _as_float32(self, v: np.ndarray) -> np.ndarray:
        single = self.scratch("single", v.size, np.float32)
        with np.errstate(over="ignore"):
            np.copyto(single, v, casting="same_kind")
        return single

    @staticmethod
    def _pack_words(words: np.ndarray, bits: int, stream: np.ndarray, start: int) -> None:
        """`_pack` for uint32 codes of up to 31 bits."""
        octets = words.astype("<u4", copy=False).view(np.uint8).reshape(-1, 4)
        target = stream[start * bits // 8 : -(-(start + words.size) * bits // 8)]
        if bits % 8 == 0:
            target[:] = octets[:, : bits // 8].reshape(-1)
        else:
            spread = np.unpackbits(octets, axis=1, bitorder="little")[:, :bits]
            target[:] = np.packbits(spread.reshape(-1), bitorder="little")

    @staticmethod
    def _unpack_words(stream: np.ndarray, bits: int, start: int, stop: int) -> np.ndarray:
        n = stop - start
        source = stream[start * bits // 8 : -(-stop * bits // 8)]
        octets = np.zeros((n, 4), np.uint8)
        if bits % 8 == 0:
            octets[:, : bits // 8] = source.reshape(n, bits // 8)
        else:
            spread = np.zeros((n, 32), np.uint8)
            spread[:, :bits] = np.unpackbits(source, count=n * bits, bitorder="little").reshape(n, bits)
            octets[:] = np.packbits(spread, axis=1, bitorder="little")
        return octets.view("<u4").reshape(n).astype(np.uint32, copy=False)

    def half_encode(self, vector: np.ndarray, residual: Residual, payload: np.ndarray, bfloat: bool) -> bool:
        """Round to nearest even in fp16, or with `bfloat` from float32 to bf16. Payload: d 16-bit floats."""
        v = self._compensated(vector, residual)
        codes = payload.view("<u2")
        for start, stop in self._tiles(v.size, 1):
            part = codes[start:stop]
            if bfloat:
                words = self._as_float32(v[start:stop]).view(np.uint32)
                if not np.isfinite(words.view(np.float32)).all():
                    return False
                odd = np.right_shift(words, 16, out=self.scratch("hash", stop - start, np.uint32))
                odd &= np.uint32(1)
                words += odd
                words += np.uint32(0x7FFF)
                words >>= np.uint32(16)
                np.copyto(part, words, casting="unsafe")
            else:
                with np.errstate(over="ignore"):
                    np.copyto(part.view("<f2"), v[start:stop], casting="same_kind")
            decoded = self._half_values(part, bfloat)
            if not np.isfinite(decoded).all():
                return False
            if residual is not None:
                residual[start:stop] -= decoded
        return True

    def half_decode(self, payload: np.ndarray, out: np.ndarray, bfloat: bool, add: bool, factor: float = 1.0) -> None:
        codes = payload.view("<u2")
        for start, stop in self._tiles(out.size, 1):
            self._deliver(self._half_values(codes[start:stop], bfloat), out[start:stop], add, factor)

    def _half_values(self, codes: np.ndarray, bfloat: bool) -> np.ndarray:
        single = self.scratch("single", codes.size, np.float32)
        if bfloat:
            words = single.view(np.uint32)
            np.left_shift(codes, np.uint32(16), out=words, dtype=np.uint32)
        else:
            np.copyto(single, codes.view("<f2"))
        return single

    # -- optimizers

    def axpy(self, y: np.ndarray, factor: Any, x: np.ndarray) -> None:
        """y ← y + factor·x, rounded after the product and after the sum; x is kept.

        CuPy's own operations on float32 would make zeros of denormal elements (its kernels are compiled with
        `-ftz=true`), and differ from the host's bits there.
        """
        for start in range(0, y.size, TILE):
            self._deliver(x[start : start + TILE], y[start : start + TILE], True, factor)

    def momentum_step(
        self,
        p: np.ndarray,
        u: np.ndarray,
        x: np.ndarray | None,
        scale: float,
        decay: float,
        lr: float,
        beta: float,
        nesterov: bool,
    ) -> bool:
        """g = scale·p + decay·x; u ← βu + g; x ← x − lr·s, where s = u or, with `nesterov`, g + βu.

        Without an x, g = scale·p and p ← s. Returns False if an element of g was not finite; u and x are changed all
        the same.
        """
        scalar, finite = self.dtype.type, True
        for start in range(0, p.size, TILE):
            here = slice(start, start + TILE)
            g = self._direction(p[here], scale, None if x is None else x[here], decay)
            finite = finite and bool(np.isfinite(g).all())
            mean = u[here]
            mean *= scalar(beta)
            mean += g
            if nesterov:
                g += np.multiply(mean, scalar(beta), out=self.scratch("ahead", mean.size))
            self._descend(g if nesterov else mean, p[here], None if x is None else x[here], scalar(lr))
        return finite

    def adam_step(
        self,
        p: np.ndarray,
        m: np.ndarray,
        v: np.ndarray,
        x: np.ndarray | None,
        scale: float,
        decay: float,
        rate: float,
        keep: float,
        beta1: float,
        beta2: float,
        root: float,
        eps: float,
    ) -> bool:
        """m ← β₁m + (1 − β₁)g; v ← β₂v + (1 − β₂)g²; s = rate·m/(root·√v + ε); x ← keep·x − s.

        g, what happens without an x, and what is returned: as in `momentum_step`.
        """
        scalar, finite = self.dtype.type, True
        for start in range(0, p.size, TILE):
            here = slice(start, start + TILE)
            g = self._direction(p[here], scale, None if x is None else x[here], decay)
            finite = finite and bool(np.isfinite(g).all())
            mean, square, work = m[here], v[here], self.scratch("ahead", g.size)
            mean *= scalar(beta1)
            mean += np.multiply(g, scalar(1 - beta1), out=work)
            square *= scalar(beta2)
            g *= g
            g *= scalar(1 - beta2)
            square += g
            np.sqrt(square, out=g)
            g *= scalar(root)
            g += scalar(eps)
            np.multiply(mean, scalar(rate), out=work)
            work /= g
            if x is not None:
                x[here] *= scalar(keep)
            self._descend(work, p[here], None if x is None else x[here], scalar(1))
        return finite

    def _direction(self, p: np.ndarray, scale: float, x: np.ndarray | None, decay: float) -> np.ndarray:
        g = np.multiply(p, self.dtype.type(scale), out=self.scratch("direction", p.size))
        if x is not None:
            g += np.multiply(x, self.dtype.type(decay), out=self.scratch("decay", p.size))
        return g

    def _descend(self, step: np.ndarray, p: np.ndarray, x: np.ndarray | None, lr: Any) -> None:
        if x is None:
            np.copyto(p, step)
        else:
            x -= np.multiply(step, lr, out=self.scratch("step", step.size))
