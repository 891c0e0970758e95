"""Times of the kernels by the GPU's own clock: python jobs/gpu_kernels.py [--sizes N,N] [--json FILE] [COMPRESSOR…]

`mpisqueeze bench kernels` times a call from the launch until the host knows its end. Here events surround the same work
in a stream that is busy before it, so that launching and waiting do not count: this is the cost of an encode with error
feedback, and of a decode-add, in a pipeline that keeps the device busy. `give_s` is the host's time to launch an
encode, whatever its length. A row is written to FILE as soon as it is measured.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

ROUNDS, WARMUP = 15, 3
DTYPES = ("float32", "float64")
#: Bytes that are filled, twice, in front of the timed work, to give the host time to launch it.
BUSY_BYTES = 256 << 20
COMPRESSORS = (
    "identity", "onebit", "onebit:1024,scale=two", "onebit:0", "qsgd:2", "qsgd:4", "qsgd:8", "uniform:2", "uniform:8",
    "ternary", "topk:0.01", "topk:0.001", "topk:0.1", "randomk:0.01", "randomk:0.01,shared", "clip:16",
    "fp16", "bf16", "fp8", "natural",
)  # fmt: skip
#: Columns, with their width.
TIMES = (("encode_s", 12), ("decode_s", 12), ("give_s", 10))


def numbers(text: str) -> list[int]:
    from mpisqueeze.quantities import parse_size

    return [parse_size(size) for size in text.split(",")]


class Timing:
    """Events around work of a stream that is busy; with `once`, the work is done once, and nothing keeps it waiting."""

    def __init__(self, cupy: Any, once: bool = False) -> None:
        self.rounds, self.warmup = (1, 0) if once else (ROUNDS, WARMUP)
        self.begin, self.end = cupy.cuda.Event(), cupy.cuda.Event()
        self.elapsed = cupy.cuda.get_elapsed_time
        free = int(cupy.cuda.runtime.memGetInfo()[0])
        self.busy = cupy.empty(1 if once else min(BUSY_BYTES, free // 8), np.uint8)

    def of(self, work: Any, changed: Any) -> tuple[float, float]:
        """Median seconds of `work` on the device, and of launching it; `changed` is zeroed before each round."""
        device, host = [], []
        for _ in range(self.rounds + self.warmup):
            changed.fill(0)
            self.busy.fill(0)
            self.busy.fill(1)
            self.begin.record()
            began = time.perf_counter()
            work()
            host.append(time.perf_counter() - began)
            self.end.record()
            self.end.synchronize()
            device.append(1e-3 * self.elapsed(self.begin, self.end))
        return median(device[self.warmup :]), median(host[self.warmup :])


def measured(cupy: Any, timing: Timing, spec: str, size: int, dtype: str) -> dict[str, Any]:
    """The row of a compressor and a size."""
    from mpisqueeze.kernels.cuda import Flag
    from mpisqueeze.parts import registry

    part, flag = registry.compressors.find(spec), Flag(cupy)
    compressor = part.cls(size, cupy, np.dtype(dtype), 1, **part.options)
    compressor.kernels = compressor.kernels.late(flag)
    compressor.iteration = 1
    rng = np.random.default_rng(1)
    vector = cupy.asarray(rng.standard_normal(size, dtype=dtype))
    residual, out = cupy.zeros(size, dtype), cupy.zeros(size, dtype)
    payload = cupy.zeros(compressor.payload_bytes, np.uint8)
    encode, give = timing.of(lambda: compressor.encode_feedback(vector, residual, payload), residual)
    decode, _ = timing.of(lambda: compressor.decode_add(payload, out), out)
    return {
        "compressor": part.spec,
        "dtype": dtype,
        "size": size,
        "payload_bytes": compressor.payload_bytes,
        "wire_bits": 8 * compressor.payload_bytes / size,
        "encode_s": encode,
        "decode_s": decode,
        "give_s": give,
        "finite": not flag.take(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("compressors", nargs="*", default=COMPRESSORS, metavar="COMPRESSOR")
    parser.add_argument("--sizes", type=numbers, default=[64 << 20, 64 << 10], metavar="N,N")
    parser.add_argument("--dtype", choices=DTYPES, default=DTYPES[0])
    parser.add_argument("--once", action="store_true", help="for tools that slow a GPU down: no time is worth a thing")
    parser.add_argument("--no-pool", action="store_true", help="memory of each array by itself, as long as it must be")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    import cupy

    if options.no_pool:
        cupy.cuda.set_allocator(None)
    print(cupy.cuda.runtime.getDeviceProperties(0)["name"].decode())
    timing, rows = Timing(cupy, options.once), []
    print(f"{'compressor':22}{'elements':>12}{'encode µs':>12}{'decode µs':>12}{'give µs':>10}")
    for size in options.sizes:
        for spec in options.compressors:
            row = measured(cupy, timing, spec, size, options.dtype)
            rows.append(row)
            times = "".join(f"{1e6 * row[name]:{width}.1f}" for name, width in TIMES)
            print(f"{row['compressor']:22}{size:12}{times}", flush=True)
            if options.json:
                Path(options.json).write_text(json.dumps({"results": rows}, indent=1) + "\n", encoding="utf-8")
    return int(not all(row["finite"] for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
