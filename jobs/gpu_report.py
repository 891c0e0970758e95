"""README.md for what jobs/gpu_check.sh measured: python jobs/gpu_report.py FOLDER WORK

Reads device.json, kernels-*.json and train-*.json of FOLDER and messages.json of WORK, as far as they are there, and
WORK's steps.tsv, a line a step: name, outcome, seconds, remark. Rates are of the bytes that an operation cannot avoid
to move:

- encode with error feedback reads the vector and the residual, and writes the residual and the payload;
- decode-add reads the payload and reads and writes the vector; of a sparse payload only the k numbers that it names,
  each on a sector of 32 bytes of memory of its own;
- a device-to-device copy reads and writes its length.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

SECTOR = 32
#: The part of the copy's rate that kernels are to reach.
TARGET = 80
SPARSE = ("topk", "randomk")


def encode_bytes(row: dict[str, Any]) -> float:
    """Bytes that encoding with error feedback moves at the least."""
    return 3 * row["size"] * width(row) + row["wire_bits"] * row["size"] / 8


def decode_bytes(row: dict[str, Any]) -> float:
    """Bytes that decoding onto a vector moves at the least."""
    payload, full = row["wire_bits"] * row["size"] / 8, row["size"] * width(row)
    name = row["compressor"].partition(":")[0]
    if name not in SPARSE:
        return payload + 2 * full
    numbers = payload / (width(row) + 4) if name == "topk" else (payload - 8) / width(row)
    return payload + 2 * min(full, numbers * SECTOR)


def width(row: dict[str, Any]) -> int:
    return 8 if row.get("dtype") == "float64" else 4


def read(path: Path) -> Any:
    """A JSON file's content, or None where there is none, or half of one."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> Iterator[str]:
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---|' * len(heads)}"
    for row in rows:
        yield f"| {' | '.join(map(str, row))} |"
    yield ""


def machine(device: dict[str, Any] | None) -> Iterator[str]:
    if device is None:
        yield "What the GPU is was not found out.\n"
        return
    for gpu in device.get("gpus", []):
        memory = gpu["memory_bytes"] / 2**30
        yield f"- {gpu['name']}, compute capability {gpu['compute_capability']}, {memory:.0f} GiB"
    if "driver" in device:
        yield f"- CUDA: driver {device['driver']}, runtime {device['runtime']}"
    yield f"- {', '.join(f'{name} {found}' for name, found in device['versions'].items())}; {device['system']}"
    if device.get("copy_bytes_per_s"):
        yield f"- device-to-device copy: {device['copy_bytes_per_s'] * 1e-9:.0f} GB/s, read and written"
    if device.get("call_s"):
        yield f"- from the launch of a kernel on one number to its result on the host: {device['call_s'] * 1e6:.1f} µs"
    yield ""


def kernels(device: dict[str, Any] | None, cuda: dict[str, Any] | None, cpu: dict[str, Any] | None) -> Iterator[str]:
    """The CUDA kernels at the largest size, as part of the copy's rate, and beside the CPU's."""
    yield "## Kernels\n"
    if not cuda or not cuda.get("results"):
        yield "Not measured.\n"
        return
    rows = cuda["results"]
    largest = max(row["size"] for row in rows)
    copy = (device or {}).get("copy_bytes_per_s")
    beside = {row["compressor"]: row for row in (cpu or {}).get("results", []) if row["size"] == cpu_size(cpu)}
    lines, slow = [], []
    for row in rows:
        if row["size"] != largest:
            continue
        cells = [row["compressor"], f"{row['wire_bits']:.2f}"]
        for moved, name in ((encode_bytes(row), "encode_s"), (decode_bytes(row), "decode_s")):
            rate = moved / row[name]
            cells += [f"{row[name] * 1e6:.0f}", f"{rate * 1e-9:.0f}"]
            if copy:
                percent = 100 * rate / copy
                cells.append(f"{percent:.0f} %")
                if percent < TARGET:
                    slow.append(f"{row['compressor']} {name.removesuffix('_s')} {percent:.0f} %")
            else:
                cells.append("–")
        host = beside.get(row["compressor"])
        ratio = host["encode_s"] / host["size"] / (row["encode_s"] / row["size"]) if host else None
        cells += [f"{ratio:.0f}×" if ratio else "–", "not checked" if row["wrong"] is None else row["wrong"]]
        lines.append(cells)
    yield f"{largest} numbers, encode with error feedback and decode-add; the time of a call, its launch included.\n"
    yield from table(
        [
            "compressor", "bits", "encode µs", "GB/s", "of copy", "decode µs", "GB/s", "of copy",
            "encode beside a CPU core", "#wrong",
        ],
        lines,
    )  # fmt: skip
    if copy:
        yield f"Below {TARGET} % of the copy's rate: {', '.join(slow) or 'none'}.\n"
    wrong = sum(row["wrong"] or 0 for row in rows)
    sizes = sorted({row["size"] for row in rows})
    yield f"Results that differ from the CPU's reference in any bit, over sizes {sizes[0]} to {sizes[-1]}: {wrong}.\n"


def cpu_size(cpu: dict[str, Any] | None) -> int:
    return max((row["size"] for row in (cpu or {}).get("results", [])), default=0)


def trainings(runs: Sequence[tuple[str, Any]]) -> Iterator[str]:
    yield "## Training\n"
    if not runs:
        yield "None ran.\n"
        return
    rows = []
    for name, run in runs:
        times = run["times"]
        milliseconds = [
            f"{times[phase]['median'] * 1e3:.2f}" if times.get(phase) else "–"
            for phase in ("iteration_s", "compute_s", "encode_s", "comm_s", "decode_s")
        ]
        accuracy = run.get("test_accuracy")
        rows.append(
            [
                name,
                f"{run['algorithm']} {run['compressor'] or ''}".strip(),
                run["ranks"],
                run["buffers"],
                run["dimension"],
                f"{run['bytes_sent_per_iteration'] / 1e6:.3f}",
                *milliseconds,
                run["status"],
                f"{run['final_loss']:.4f}" if run.get("final_loss") is not None else "–",
                f"{accuracy:.4f}" if accuracy is not None else "–",
            ]
        )
    yield "Times are medians of the slowest rank, in ms.\n"
    heads = [
        "run", "method", "ranks", "buffers", "d", "MB an iteration", "iteration", "compute", "encode", "communicate",
        "decode", "status", "loss", "accuracy",
    ]  # fmt: skip
    yield from table(heads, rows)


def messages(found: dict[str, Any] | None) -> Iterator[str]:
    yield "## Messages from GPU memory to GPU memory\n"
    if found is None:
        yield "None went through.\n"
        return
    yield f"{found['mpi'].splitlines()[0].partition(',')[0]}, 2 ranks on {found['gpus']} GPU(s); UCX: "
    yield f"{', '.join(found['ucx']) or 'not loaded'}.\n"
    yield from table(
        ["bytes", "µs a message", "GB/s", "#wrong"],
        [
            [
                row["bytes"],
                f"{row['message_s'] * 1e6:.1f}",
                f"{row['bytes'] / row['message_s'] * 1e-9:.2f}",
                row["wrong"],
            ]
            for row in found["results"]
        ],
    )


def document(folder: Path, work: Path) -> str:
    device = read(folder / "device.json")
    cuda, cpu = read(folder / "kernels-cuda.json"), read(folder / "kernels-cpu.json")
    runs = [(path.stem.removeprefix("train-"), read(path)) for path in sorted(folder.glob("train-*.json"))]
    commit = ((cuda or cpu or {}).get("context") or {}).get("git_commit")
    made = f"Made by `jobs/gpu_check.sh` at {commit}." if commit else "Made by `jobs/gpu_check.sh`."
    lines = [f"# GPU check, {folder.name}\n", f"{made}\n"]
    lines += machine(device)
    lines += ["## Steps\n"]
    lines += table(
        ["step", "outcome", "s", ""],
        [line.split("\t") for line in (work / "steps.tsv").read_text(encoding="utf-8").splitlines()],
    )
    lines += kernels(device, cuda, cpu)
    lines += trainings([(name, run) for name, run in runs if run])
    lines += messages(read(work / "messages.json"))
    return "\n".join(lines).rstrip() + "\n"


def main() -> int:
    if len(sys.argv) != 3:
        print("usage: gpu_report.py FOLDER WORK", file=sys.stderr)
        return 2
    folder = Path(sys.argv[1])
    (folder / "README.md").write_text(document(folder, Path(sys.argv[2])), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
