"""A communication hook for DistributedDataParallel: compressed gradients with error feedback on both sides, no MPI."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from mpisqueeze.compressors.base import Compressor, NonFiniteError, is_finite
from mpisqueeze.errors import UsageError
from mpisqueeze.kernels.random import derive_key
from mpisqueeze.language import check_choice
from mpisqueeze.parts import contracts, registry
from mpisqueeze.parts.registry import Part

#: Error feedback of each algorithm: on the workers, on the servers. None: there are no servers.
ALGORITHMS: dict[str, tuple[bool, bool | None]] = {
    "csgd": (False, None),
    "memsgd": (True, None),
    "doublesqueeze": (True, True),
}
#: Bytes at whose multiples messages begin, as kernels need. A message is its payload, and in its last byte 1 where its
#: sender met a NaN, else 0.
_ALIGNMENT = 16

Hook = Callable[["HookState", dist.GradBucket], torch.futures.Future[torch.Tensor]]


def ddp_hook(
    algorithm: str = "doublesqueeze",
    compressor: str = "onebit",
    *,
    process_group: dist.ProcessGroup | None = None,
    seed: int = 1,
) -> tuple[HookState, Hook]:
    """State and hook for `DistributedDataParallel.register_comm_hook`, on gloo or NCCL; collective.

    `model.register_comm_hook(*ddp_hook("doublesqueeze", "onebit"))`.

    - `csgd`: the mean of all ranks' C(g).
    - `memsgd`: q = C(g + δ), δ ← g + δ − q; the mean of all ranks' q.
    - `doublesqueeze`: the same, sent to the servers, of which each rank is one for its share of a bucket: they answer
      p = C(mean q + δ̄), δ̄ ← mean q + δ̄ − p, which is what all ranks get.

    Args:
        compressor: as of `--compressor`; each bucket is compressed by itself, and by `doublesqueeze` each share of it.
        process_group: whose ranks take part; None for all. The hook makes a group of its own of them.
        seed: seed for compressors that draw.

    Raises:
        UsageError: there is no such algorithm or compressor.
    """
    check_choice("algorithm", algorithm, tuple(ALGORITHMS))
    state = HookState(algorithm, registry.compressors.find(compressor), process_group, seed)
    return state, compressed


def compressed(state: HookState, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """The hook: a future of the bucket's gradient as all ranks get it.

    A NaN on a rank makes the whole bucket NaN on all, so that GradScaler skips the step on all of them.
    """
    return state.submit(bucket)


# DistributedDataParallel compares annotations with types, where there are any, and these are text.
compressed.__annotations__.clear()


@dataclass
class Memory:
    """The error feedback of some parameters, one after the other as they lie in a bucket.

    Attributes:
        indices, sizes: of the parameters.
        delta: δ (n) of this rank, or None.
        delta_bar: δ̄ of the share that this rank serves, or None.
    """

    indices: tuple[int, ...]
    sizes: tuple[int, ...]
    delta: torch.Tensor | None
    delta_bar: torch.Tensor | None


class HookState:
    """State of a hook: its error feedback and its counters.

    Two threads of its own take bucket after bucket: one encodes and sends, the other receives, serves and decodes, so
    that a bucket's messages travel while another is encoded. Each has a group of its own, within which all ranks make
    the same collectives in the same order, whatever the other thread is at. NCCL's communicators should not be used at
    once: on GPUs one thread does both.

    Attributes:
        bytes_sent: bytes that this rank has handed to the process group for other ranks, payloads with their flags.
        iteration: the number of backward passes that exchanged.
    """

    def __init__(self, algorithm: str, part: Part, group: dist.ProcessGroup | None, seed: int) -> None:
        self.algorithm, self._part, self._seed = algorithm, part, seed
        self.on_workers, self.on_servers = ALGORITHMS[algorithm]
        contracts.make_compressor(part, 1, np, np.dtype(np.float32), 0)
        ranks = dist.get_process_group_ranks(group or dist.group.WORLD)
        # DDP's own collectives may come between those of its buckets. Ranks outside of `group` are not here, so that
        # one of some ranks must not be numbered as those that all ranks make.
        partly = len(ranks) < dist.get_world_size()
        kind = {"backend": dist.get_backend(group), "use_local_synchronization": partly}
        self.group: Any = dist.new_group(ranks, **kind)
        self.answers: Any = None if self.on_servers is None else dist.new_group(ranks, **kind)
        self.rank, self.size = dist.get_rank(self.group), dist.get_world_size(self.group)
        self.bytes_sent = self.iteration = 0
        self._numbers: dict[int, int] = {}
        self._parameters: list[torch.Tensor] = []
        self._buckets: dict[tuple[int, ...], _Bucket] = {}
        #: Memories that have no bucket yet, and the pieces of others, by parameter.
        self._orphans: list[Memory] = []
        self._pieces: dict[str, dict[int, torch.Tensor]] = {"delta": {}, "delta_bar": {}}
        self._asking, self._answering = (ThreadPoolExecutor(1, f"mpisqueeze hook {i}") for i in range(2))
        self._streams: dict[torch.device, Any] = {}

    def submit(self, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        """Have the threads exchange a bucket."""
        buffer = bucket.buffer()
        if buffer.layout != torch.strided:
            raise UsageError("the hook takes dense gradients: build layers with sparse=False", "ddp_hook")
        index = bucket.index()
        self.iteration += index == 0
        key = tuple(map(self._number, bucket.parameters()))
        on_gpu = buffer.device.type == "cuda"
        future: torch.futures.Future[torch.Tensor] = torch.futures.Future(devices=[buffer.device] if on_gpu else None)
        ready = torch.cuda.current_stream(buffer.device).record_event() if on_gpu else None
        self._asking.submit(self._ask, future, key, index, self.iteration, buffer, ready)
        return future

    def state_dict(self) -> dict[str, Any]:
        """This rank's state; each rank saves its own. Between two iterations."""
        memories = [bucket.memory for bucket in self._buckets.values()] + self._orphans
        return {
            "algorithm": self.algorithm,
            "compressor": self._part.spec,
            "seed": self._seed,
            "ranks": self.size,
            "rank": self.rank,
            "iteration": self.iteration,
            "memories": [
                {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in vars(m).items()}
                for m in memories
            ],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what `state_dict` gave, on every rank, before the first iteration.

        DDP arranges its buckets anew in each process, so that compressors see other blocks in the first iteration than
        they would have; every element keeps its memory.

        Raises:
            UsageError: it is of another algorithm, compressor, seed, rank or number of ranks; or there were iterations.
        """
        mine = self.state_dict()
        for name in ("algorithm", "compressor", "seed", "ranks", "rank"):
            if state_dict[name] != mine[name]:
                raise UsageError(f"{name} is {state_dict[name]!r} there, and {mine[name]!r} here", "load_state_dict")
        if self.iteration:
            raise UsageError("there have been iterations: load it into a new hook", "load_state_dict")
        self.iteration = int(state_dict["iteration"])
        self._orphans = [
            Memory(tuple(saved["indices"]), tuple(saved["sizes"]), saved["delta"], saved["delta_bar"])
            for saved in state_dict["memories"]
        ]

    def _number(self, parameter: torch.Tensor) -> int:
        """A parameter's number, by its first appearance, which is in the same order in every process."""
        found = self._numbers.get(id(parameter))
        if found is None:
            found = self._numbers[id(parameter)] = len(self._parameters)
            self._parameters.append(parameter)
        return found

    def _ask(
        self,
        future: torch.futures.Future[torch.Tensor],
        key: tuple[int, ...],
        index: int,
        iteration: int,
        buffer: torch.Tensor,
        ready: Any,
    ) -> None:
        try:
            with torch.no_grad(), self._stream(buffer, ready):
                bucket = self._buckets.get(key) or self._made(key, index, buffer)
                asked = bucket.ask(buffer, iteration)
                if ready is None:
                    self._answering.submit(self._answer, future, bucket, asked, buffer, iteration)
                else:
                    self._answer(future, bucket, asked, buffer, iteration)
        except Exception as error:
            future.set_exception(error)

    def _answer(
        self,
        future: torch.futures.Future[torch.Tensor],
        bucket: _Bucket,
        asked: tuple[torch.Tensor, Any],
        buffer: torch.Tensor,
        iteration: int,
    ) -> None:
        try:
            with torch.no_grad():
                bucket.answer(*asked, buffer, iteration)
            future.set_result(buffer)
        except Exception as error:
            future.set_exception(error)

    @contextlib.contextmanager
    def _stream(self, buffer: torch.Tensor, ready: Any) -> Any:
        """A context in which torch and CuPy work on this thread's stream, once the bucket is there."""
        if ready is None:
            yield
            return
        import cupy

        device = buffer.device
        stream = self._streams.setdefault(device, torch.cuda.Stream(device))
        with torch.cuda.stream(stream), cupy.cuda.Device(device.index), cupy.cuda.ExternalStream(stream.cuda_stream):
            stream.wait_event(ready)
            buffer.record_stream(stream)
            yield

    def _made(self, key: tuple[int, ...], index: int, buffer: torch.Tensor) -> _Bucket:
        """A bucket that was not there before: DDP arranges them anew after the first iteration."""
        if self._orphans or any(not set(key).isdisjoint(other) for other in self._buckets):
            self._take_apart()
        memory = Memory(key, tuple(self._parameters[i].numel() for i in key), None, None)
        if buffer.numel() != sum(memory.sizes):
            what = f"a bucket has {buffer.numel()} elements for {sum(memory.sizes)} of parameters"
            raise UsageError(what, "ddp_hook")
        if self.on_workers:
            memory.delta = self._put_together("delta", memory, buffer)
        if self.on_servers:
            share = spans_of(buffer.numel(), self.size)[self.rank]
            memory.delta_bar = self._put_together("delta_bar", memory, buffer)[share].clone()
        made = self._buckets[key] = _Bucket(self, memory, index, buffer)
        return made

    def _take_apart(self) -> None:
        """Cut all memories into pieces by parameter; collective."""
        self._answering.submit(bool).result()  # no bucket is in the other thread's hands
        for memory in [*self._orphans, *(bucket.memory for bucket in self._buckets.values())]:
            whole = {"delta": memory.delta, "delta_bar": memory.delta_bar}
            if memory.delta_bar is not None:
                whole["delta_bar"] = self._whole(memory.delta_bar, sum(memory.sizes))
            for name, vector in whole.items():
                if vector is not None:
                    pieces = vector.split(list(memory.sizes))
                    self._pieces[name] |= {i: piece.clone() for i, piece in zip(memory.indices, pieces, strict=True)}
        self._orphans = []
        self._buckets.clear()

    def _whole(self, share: torch.Tensor, count: int) -> torch.Tensor:
        """A vector of `count` elements of which each rank has its share; collective."""
        spans = spans_of(count, self.size)
        longest = max(span.stop - span.start for span in spans)
        mine = torch.zeros(longest, dtype=share.dtype, device=share.device)
        mine[: share.numel()] = share
        every = [torch.empty_like(mine) for _ in spans]
        dist.all_gather(every, mine, group=self.group)
        return torch.cat([part[: span.stop - span.start] for part, span in zip(every, spans, strict=True)])

    def _put_together(self, name: str, memory: Memory, buffer: torch.Tensor) -> torch.Tensor:
        """The vector of a new bucket from the pieces, 0 where there is none."""
        pieces = self._pieces[name]
        found = []
        for i, size in zip(memory.indices, memory.sizes, strict=True):
            piece = pieces.pop(i, None)
            if piece is not None and piece.numel() != size:
                raise UsageError(f"parameter {i} has {size} elements, and had {piece.numel()}", "load_state_dict")
            empty = torch.zeros(size, dtype=_kind_of(buffer), device=buffer.device)
            found.append(empty if piece is None else piece.to(empty))
        return torch.cat(found)

    def coder(self, buffer: torch.Tensor, length: int, *role: int) -> Coder:
        """The coder for vectors of `length` in a role."""
        xp, dtype = _module_of(buffer), np.dtype(str(_kind_of(buffer)).removeprefix("torch."))
        if not length:
            return Coder(None)
        made = contracts.make_compressor(self._part, length, xp, dtype, derive_key(self._seed, *role))
        if made.linear:
            # Payloads of all ranks and roles are of one seed.
            made = contracts.make_compressor(self._part, length, xp, dtype, derive_key(self._seed, 3))
        return Coder(made)


class Coder:
    """A compressor of messages; without one, of empty vectors."""

    def __init__(self, compressor: Compressor | None) -> None:
        self.compressor = compressor
        payload = 0 if compressor is None else compressor.payload_bytes
        self._payload, self.nbytes = slice(0, payload), (payload // _ALIGNMENT + 1) * _ALIGNMENT

    def encode(self, vector: torch.Tensor, residual: Any, message: torch.Tensor, iteration: int) -> None:
        """message ← C(vector + residual), residual ← what is left.

        A vector with a NaN, or one that the format cannot hold, makes the message a spoilt one. The residual stays in
        the first case; in the second it is 0 afterwards, since the kernel has begun to change it.
        """
        message.zero_()
        if self.compressor is None:
            return
        v, payload = _array(vector), _array(message[self._payload])
        if not is_finite(v, self.compressor.xp):
            spoil(message)
            return
        self.compressor.iteration = iteration
        try:
            if residual is None:
                self.compressor.encode(v, payload)
            else:
                self.compressor.encode_feedback(v, _array(residual), payload)
        except NonFiniteError:
            spoil(message)
            if residual is not None:
                residual.zero_()

    def decode(self, message: torch.Tensor, out: torch.Tensor, iteration: int) -> None:
        """out ← what the message decodes to."""
        if self.compressor is not None:
            self.compressor.iteration = iteration
            self.compressor.decode(_array(message[self._payload]), _array(out))

    def average(self, messages: Sequence[torch.Tensor], out: torch.Tensor, iteration: int) -> None:
        """out ← the mean of what the messages decode to, added in their order."""
        if self.compressor is None:
            return
        payloads, mean = [_array(message[self._payload]) for message in messages], _array(out)
        if self.compressor.combines:
            self.compressor.combine(payloads, mean)
            return
        self.compressor.iteration = iteration
        self.compressor.decode(payloads[0], mean)
        for payload in payloads[1:]:
            self.compressor.decode_add(payload, mean)
        mean /= len(payloads)


class _Bucket:
    """A bucket: what codes it, its memory, and the messages of its exchange.

    `doublesqueeze` has a share of the bucket on each rank, which serves it; the others have one that nobody serves.
    """

    def __init__(self, state: HookState, memory: Memory, index: int, buffer: torch.Tensor) -> None:
        self.state, self.memory = state, memory
        rank, size, served = state.rank, state.size, state.on_servers is not None
        self._spans = spans_of(buffer.numel(), size if served else 1)
        self._mine = rank if served else 0
        shares = [(s, span.stop - span.start) for s, span in enumerate(self._spans)]
        self._up = [state.coder(buffer, length, 1, rank, index, s) for s, length in shares]
        self._down = [state.coder(buffer, length, 2, index, s) for s, length in shares] if served else []
        self._mean = torch.empty_like(buffer[self._spans[self._mine]], dtype=_kind_of(buffer)) if served else None
        self._sizes = [coder.nbytes for coder in self._up]
        self._sent = torch.empty(sum(self._sizes), dtype=torch.uint8, device=buffer.device)
        self._got = self._sent.new_empty(size, self._sizes[self._mine])
        # Gathered messages have to be of one length.
        self._answers = self._sent.new_empty(size, max((coder.nbytes for coder in self._down), default=0))
        self._answer = self._answers[0].clone()

    def ask(self, buffer: torch.Tensor, iteration: int) -> tuple[torch.Tensor, Any]:
        """Encode a buffer, and send it: to the servers, or to all ranks; collective.

        Returns:
            g, the buffer in the type in which it is exchanged, and what `answer` has to wait for.
        """
        state, delta, mine = self.state, self.memory.delta, self._mine
        g = buffer.to(_kind_of(buffer))  # itself, unless it is of half precision
        for coder, span, message in zip(self._up, self._spans, self._sent.split(self._sizes), strict=True):
            coder.encode(g[span], None if delta is None else delta[span], message, iteration)
        if not self._down:
            state.bytes_sent += (state.size - 1) * self._sent.numel()
            return g, dist.all_gather([*self._got], self._sent, group=state.group, async_op=True)
        state.bytes_sent += self._sent.numel() - self._sizes[mine] + (state.size - 1) * self._answer.numel()
        got, sizes = self._got.view(-1), [self._sizes[mine]] * state.size
        return g, dist.all_to_all_single(got, self._sent, sizes, self._sizes, group=state.group, async_op=True)

    def answer(self, g: torch.Tensor, asked: Any, buffer: torch.Tensor, iteration: int) -> None:
        """buffer ← what all ranks get of their buffers, where `ask` has given the first two arguments; collective."""
        mean = g if self._mean is None else self._mean
        asked.wait()
        self._up[self._mine].average([*self._got], mean, iteration)
        bad = spoilt(self._got)
        if self._down:
            self._serve(mean, bad, iteration)
            bad = spoilt(self._answers)
            for coder, span, message in zip(self._down, self._spans, self._answers, strict=True):
                coder.decode(message, g[span], iteration)
        if bad:
            g.fill_(float("nan"))
        if g is not buffer:
            buffer.copy_(g)

    def _serve(self, mean: torch.Tensor, bad: bool, iteration: int) -> None:
        """Get the answers of all servers, this rank's share among them."""
        if bad:
            spoil(self._answer)
        else:
            self._down[self._mine].encode(mean, self.memory.delta_bar, self._answer, iteration)
        dist.all_gather([*self._answers], self._answer, group=self.state.answers)


def spans_of(count: int, ranks: int) -> list[slice]:
    """The share of each rank of so many elements: contiguous, and different by one element at most."""
    share, rest = divmod(count, ranks)
    starts = [rank * share + min(rank, rest) for rank in range(ranks + 1)]
    return [slice(start, stop) for start, stop in pairwise(starts)]


def spoil(message: torch.Tensor) -> None:
    """Mark a message: its sender met a NaN."""
    message[-1] = 1


def spoilt(messages: torch.Tensor) -> bool:
    """One of some messages, (count, bytes), is marked."""
    return bool(messages[:, -1].any())


def _kind_of(buffer: torch.Tensor) -> torch.dtype:
    """The type in which a bucket is exchanged: gradients of half precision are float32 meanwhile."""
    return torch.float64 if buffer.dtype == torch.float64 else torch.float32


def _module_of(tensor: torch.Tensor) -> Any:
    """NumPy, or CuPy for a tensor on a GPU."""
    if tensor.device.type == "cpu":
        return np
    import cupy

    return cupy


def _array(tensor: torch.Tensor) -> Any:
    """An array of NumPy or CuPy that shares a tensor's memory."""
    return tensor.numpy() if tensor.device.type == "cpu" else _module_of(tensor).from_dlpack(tensor)
