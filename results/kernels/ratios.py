"""How long each kernel takes, in units of NumPy's in-place add of the same length.

    python results/kernels/ratios.py [SIZE …]        float32 numbers, with the suffix Ki or Mi; default 4Mi 16Mi

Each figure is the median over rounds of (the kernel's time) / (the add's time). For every kernel a round times the add,
then the kernel's four calls, in one process. Time is the thread's own on its core (CLOCK_THREAD_CPUTIME_ID), so that
other work on the machine disturbs less. Columns: encode with a residual, encode without one, decode-add, decode.
"""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np

from mpisqueeze.kernels.reference import ReferenceKernels, blocks_of

ROUNDS = 9
KEY = 0x9E3779B97F4A7C15
#: label: (kernel, arguments of encode, arguments of decode, payload bytes of d numbers)
KERNELS: dict[str, tuple[str, Callable[[int], tuple[Any, ...]], Callable[[int], tuple[Any, ...]], Any]] = {}


def define(label: str, kernel: str, encode: Any, decode: Any, payload: Callable[[int], int]) -> None:
    KERNELS[label] = (kernel, lambda d: encode(d), lambda d: decode(d), payload)


def fill_table() -> None:
    def stream(d: int, bits: int) -> int:
        return -(-d * bits // 8)

    def scales(d: int, block: int) -> int:
        return 4 * blocks_of(d, block)[1]

    define("copy", "copy", lambda d: (), lambda d: (), lambda d: 4 * d)
    for block, l2 in ((1024, False), (1024, True), (0, False)):
        define(
            f"signs block={block} {'l2' if l2 else 'l1'}",
            "signs",
            lambda d, block=block, l2=l2: (block, l2),
            lambda d, block=block: (block,),
            lambda d, block=block: stream(d, 1) + scales(d, block),
        )
    for bits, norm in ((2, "l2"), (4, "l2"), (5, "l2"), (8, "l2"), (2, "max")):
        define(
            f"quantize bits={bits} {norm}",
            "quantize",
            lambda d, bits=bits, norm=norm: (bits, 512, norm, KEY),
            lambda d, bits=bits: (bits, 512),
            lambda d, bits=bits: stream(d, bits) + scales(d, 512),
        )
    for bits in (2, 8):
        define(
            f"uniform bits={bits}",
            "uniform",
            lambda d, bits=bits: (bits, 512, KEY),
            lambda d, bits=bits: (bits, 512),
            lambda d, bits=bits: stream(d, bits) + 2 * scales(d, 512),
        )
    define("topk 1 %", "topk", lambda d: (-(-d // 100),), lambda d: (-(-d // 100),), lambda d: 8 * -(-d // 100))
    define(
        "randomk 1 %",
        "randomk",
        lambda d: (-(-d // 100), KEY, False),
        lambda d: (-(-d // 100),),
        lambda d: 8 + 4 * -(-d // 100),
    )
    for bits in (12, 16, 24):
        define(
            f"clip bits={bits}",
            "clip",
            lambda d, bits=bits: (bits,),
            lambda d, bits=bits: (bits,),
            lambda d, bits=bits: stream(d, bits),
        )
    for bfloat in (False, True):
        define(
            "bf16" if bfloat else "fp16",
            "half",
            lambda d, bfloat=bfloat: (bfloat,),
            lambda d, bfloat=bfloat: (bfloat,),
            lambda d: 2 * d,
        )


def seconds(function: Callable[..., Any], *arguments: Any) -> float:
    start = time.thread_time()
    function(*arguments)
    return time.thread_time() - start


def measure(kernels: Any, d: int) -> tuple[float, dict[str, list[float]]]:
    """(median time of the add in s, median ratios by label)."""
    rng = np.random.default_rng(0)
    vector = rng.standard_normal(d, dtype=np.float32)
    start = rng.standard_normal(d, dtype=np.float32)
    residual, out, total = start.copy(), np.zeros_like(vector), vector.copy()
    adds: list[float] = []
    ratios: dict[str, list[list[float]]] = {label: [[], [], [], []] for label in KERNELS}
    payloads = {label: np.zeros(size(d), np.uint8) for label, (_, _, _, size) in KERNELS.items()}
    for measured in range(ROUNDS + 1):
        for label, (kernel, encode_arguments, decode_arguments, _) in KERNELS.items():
            encode, decode = getattr(kernels, f"{kernel}_encode"), getattr(kernels, f"{kernel}_decode")
            payload, arguments, back = payloads[label], encode_arguments(d), decode_arguments(d)
            np.copyto(residual, start)
            np.copyto(out, 0)
            # The add meets the caches as the kernels do: just after the arrays were written.
            add = min(seconds(np.add, total, vector, total) for _ in range(2))
            times = [
                seconds(encode, vector, residual, payload, *arguments),
                seconds(encode, vector, None, payload, *arguments),
                seconds(decode, payload, out, *back, True),
                seconds(decode, payload, out, *back, False),
            ]
            if measured:  # the first round touches the pages
                adds.append(add)
                for column, taken in zip(ratios[label], times, strict=True):
                    column.append(taken / add)
    return median(adds), {label: [median(c) for c in columns] for label, columns in ratios.items()}


def processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def parse_size(text: str) -> int:
    for suffix, factor in (("Ki", 1 << 10), ("Mi", 1 << 20)):
        if text.endswith(suffix):
            return int(text[: -len(suffix)]) * factor
    return int(text)


def main() -> None:
    sizes = sys.argv[1:] or ["4Mi", "16Mi"]
    print(" ".join(["$ python results/kernels/ratios.py", *sizes]))
    print(f"{processor()}; Python {platform.python_version()}, NumPy {np.__version__}")
    sets: list[tuple[str, Any]] = []
    try:
        from mpisqueeze.kernels import _native
        from mpisqueeze.kernels.native import NativeKernels

        sets.append((f"native ({_native.instruction_sets()[-1]})", NativeKernels(np.float32)))
    except ImportError:
        print("native: not built")
    sets.append(("numpy", ReferenceKernels(np.float32)))
    fill_table()
    for size in sizes:
        for name, kernels in sets:
            add, ratios = measure(kernels, parse_size(size))
            print(f"\n{name}, {size} float32; in-place add {add / parse_size(size) * 1e9:.3f} ns a number")
            print(f"{'':22}{'encode+δ':>10}{'encode':>10}{'decode+=':>10}{'decode':>10}")
            for label, row in ratios.items():
                print(f"{label:22}" + "".join(f"{ratio:10.2f}" for ratio in row), flush=True)


if __name__ == "__main__":
    main()
