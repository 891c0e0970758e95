"""Count the instructions of the CUDA kernels: `python results/gpu/instructions.py FILE… [--real 32] [--arch 90]`.

It needs no GPU: NVRTC compiles (`pip install nvidia-cuda-nvrtc`), nvdisasm prints the machine code (`pip install
nvidia-cuda-nvdisasm`, or NVDISASM=PATH). For every kernel: all instructions; those a thread executes on the usual way,
whole tiles at aligned addresses, with error feedback, each loop once; the loops on that way with their share of it; and
registers. The usual way is the one through the control flow that has the most of what `WORTH` wants.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import re
import subprocess
import sysconfig
import tempfile
from pathlib import Path

from mpisqueeze.kernels.cuda import OPTIONS, cuda_sources

#: What an instruction of the usual way is worth: vector accesses and rounding, then arithmetic; no slow path of a
#: division, no second look at a random number, no element at a time.
WORTH = [
    (r"(LDG|STG)\.E\.(128|64)|STS|F2I\.U32\.TRUNC", 2000),
    (r"F[A-Z]*(ADD|MUL|FMA|SEL)|D(ADD|MUL|FMA)|I2F", 30),
    (r"F2I\.FTZ", -4000),
    (r"LDG\.E$|STG\.E$", -700),
    (r"(LDG|STG)\.E\.U8", -5000),
    (r"CALL|[US]64$", -1_000_000),
]
PACKAGES = Path(sysconfig.get_path("purelib"), "nvidia")


def compiled(source: str, real: int, arch: int) -> tuple[bytes, str]:
    """(cubin, the compiler's log)."""
    nvrtc = ctypes.CDLL(next(map(str, PACKAGES.glob("*/lib/libnvrtc.so.*")), "libnvrtc.so"))
    options = [*OPTIONS, f"-DREAL_BITS={real}", f"-arch=sm_{arch}", "--ptxas-options=-v"]
    given, program = (ctypes.c_char_p * len(options))(*map(str.encode, options)), ctypes.c_void_p()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"k.cu", 0, None, None)
    failed = nvrtc.nvrtcCompileProgram(program, len(options), given)

    def result(kind: str) -> bytes:
        size = ctypes.c_size_t()
        getattr(nvrtc, f"nvrtcGet{kind}Size")(program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        getattr(nvrtc, f"nvrtcGet{kind}")(program, buffer)
        return buffer.raw

    log = result("ProgramLog").rstrip(b"\0").decode()
    if failed:
        raise SystemExit(log)
    return result("CUBIN"), log


def disassembled(cubin: bytes) -> dict[str, str]:
    """Machine code by kernel."""
    program = os.environ.get("NVDISASM") or next(map(str, PACKAGES.glob("*/bin/nvdisasm")), "nvdisasm")
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([program, "-c", file.name], capture_output=True, text=True, check=True).stdout
    return dict(re.findall(r"^\.text\.(\w+):\n(.*?)(?=^\.text\.|\Z)", text, re.M | re.S))


def usual_way(body: str) -> tuple[int, int, list[int]]:
    """(all instructions, those on the usual way, and of each loop those on that way)."""
    code: list[tuple[str, str, str]] = []
    labels: dict[str, int] = {}
    for line in body.splitlines():
        if label := re.match(r"(\.L_x_\d+):", line):
            labels[label[1]] = len(code)
        elif found := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(@!?U?P\w+)?\s*([A-Z][\w.]*)\s*(.*?);", line):
            code.append((found[1] or "", found[2], found[3]))
    best, after = [0] * len(code) + [-(10**9)], [len(code)] * len(code)
    loops = []
    for at in reversed(range(len(code))):
        guard, name, rest = code[at]
        ways = [at + 1]
        if name.startswith("BRA") and (target := re.search(r"\.L_x_\d+", rest)):
            to = labels[target[0]]
            ways = [to] * (to > at) + [at + 1] * bool(guard or re.match(r"!?U?P\d", rest))
            if to < at:
                loops.append((to, at))
        elif name in ("EXIT", "RET") and not guard:
            ways = []
        worth = -1 + sum(value for pattern, value in WORTH if re.search(pattern, name))
        after[at] = max(ways, key=best.__getitem__, default=len(code))
        best[at] = worth + (best[after[at]] if ways else 0)
    way, at = [], 0
    while at < len(code):
        way.append(at)
        at = after[at]
    way = [at for at in way if code[at][1] != "NOP"]
    inside = [sum(first <= at <= last for at in way) for first, last in loops if last in way]
    return sum(name != "NOP" for _, name, _ in code), len(way), inside


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="FILE", help="quantize.cu, …")
    parser.add_argument("--real", type=int, default=32)
    parser.add_argument("--arch", type=int, default=90)
    given = parser.parse_args()
    for file in given.files:
        cubin, log = compiled(cuda_sources()[file], given.real, given.arch)
        registers = dict(re.findall(r"function '(\w+)'.*?Used (\d+) registers", log, re.S))
        for kernel, body in disassembled(cubin).items():
            whole, usual, loops = usual_way(body)
            print(f"{kernel:20} {whole:5} in all, {usual:5} usual, loops {loops}, {registers[kernel]} registers")


if __name__ == "__main__":
    main()
