"""Write README.md on the results of jobs/gpu_check.sh: python jobs/gpu_report.py FOLDER

It reads device.json, kernels-*.json, comm*.json, train-*.json and messages.json of FOLDER, those that exist, and
steps.tsv with a line per step: name, outcome, seconds, remark. Rates count the bytes that an operation must move:

- encode with error feedback reads the vector and the residual, and writes the residual and the payload;
- decode-add reads the payload and reads and writes the vector, for a sparse payload only its k elements, each in a
  32-byte sector of memory of its own;
- a device-to-device copy reads and writes its length.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

SECTOR = 32
#: Percent of the copy's rate that kernels should reach.
TARGET = 80
SPARSE = ("topk", "randomk")


def encode_bytes(row: dict[str, Any]) -> float:
    """Bytes that encoding with error feedback must move."""
    return 3 * row["size"] * width(row) + row["wire_bits"] * row["size"] / 8


def decode_bytes(row: dict[str, Any]) -> float:
    """Bytes that decode-add must move."""
    payload, full = row["wire_bits"] * row["size"] / 8, row["size"] * width(row)
    name = row["compressor"].partition(":")[0]
    if name not in SPARSE:
        return payload + 2 * full
    key = 0 if "shared" in row["compressor"] else 8
    numbers = payload / (width(row) + 4) if name == "topk" else (payload - key) / width(row)
    return payload + 2 * min(full, numbers * SECTOR)


def width(row: dict[str, Any]) -> int:
    return 8 if row.get("dtype") == "float64" else 4


def read(path: Path) -> Any:
    """A JSON file's content, or None if it is missing or incomplete."""
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


def kernels(device: dict[str, Any] | None, found: dict[str, Any] | None, cpu: dict[str, Any] | None) -> Iterator[str]:
    """The CUDA kernels by the GPU's clock, at the largest size as part of the copy's rate, and beside the CPU's."""
    yield "## Kernels\n"
    rows = (found or {}).get("results")
    if not rows:
        yield "Not measured.\n"
        return
    largest = max(row["size"] for row in rows)
    copy = (device or {}).get("copy_bytes_per_s")
    beside = {row["compressor"]: row for row in (cpu or {}).get("results", []) if row["size"] == cpu_size(cpu)}
    small = {row["compressor"]: row for row in rows if row["size"] == min(row["size"] for row in rows)}
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
        short = small[row["compressor"]]
        cells += [f"{ratio:.0f}×" if ratio else "–", f"{short['encode_s'] * 1e6:.1f}", f"{short['give_s'] * 1e6:.1f}"]
        lines.append(cells)
    yield f"{largest} elements, encode with error feedback and decode-add, by the GPU's clock, without launches.\n"
    least = min(row["size"] for row in rows)
    yield from table(
        [
            "compressor", "bits", "encode µs", "GB/s", "of copy", "decode µs", "GB/s", "of copy",
            "encode beside a CPU core", f"encode µs of {least}", "host's µs to give an encode",
        ],
        lines,
    )  # fmt: skip
    if copy:
        yield f"Below {TARGET} % of the copy's rate: {', '.join(slow) or 'none'}.\n"


def calls(found: dict[str, Any] | None) -> Iterator[str]:
    """Results of `bench kernels`: times of calls, and whether results are right."""
    rows = (found or {}).get("results")
    if not rows:
        return
    largest, sizes = max(row["size"] for row in rows), sorted({row["size"] for row in rows})
    yield "## Calls\n"
    yield f"{largest} elements, by `bench kernels`: from the host's launch to the host's knowing its end.\n"
    yield from table(
        ["compressor", "encode µs", "decode µs", "in-place add µs"],
        [
            [row["compressor"], *(f"{row[name] * 1e6:.0f}" for name in ("encode_s", "decode_s", "add_s"))]
            for row in rows
            if row["size"] == largest
        ],
    )
    wrong = sum(row["wrong"] or 0 for row in rows)
    yield f"Results that differ from the CPU's reference in any bit, over sizes {sizes[0]} to {sizes[-1]}: {wrong}.\n"


def cpu_size(cpu: dict[str, Any] | None) -> int:
    return max((row["size"] for row in (cpu or {}).get("results", [])), default=0)


def exchanges(cut: dict[str, Any] | None, whole: dict[str, Any] | None) -> Iterator[str]:
    """A step through each exchange, in sections and with the vector whole."""
    rows = (cut or {}).get("results")
    if not rows:
        return
    key = ("exchange", "compressor", "size")
    beside = {tuple(row[name] for name in key): row for row in (whole or {}).get("results", [])}
    yield "## Exchanges\n"
    yield f"{rows[0]['ranks']} ranks on the GPUs above, staged through the host: a step, by `bench comm`.\n"
    lines = []
    for row in rows:
        other = beside.get(tuple(row[name] for name in key))
        times = [f"{found['time_s'] * 1e3:.2f}" if found else "–" for found in (row, other)]
        ratio = f"{row['time_s'] / other['time_s']:.2f}" if other else "–"
        wrong = "not checked" if row["wrong"] is None else row["wrong"]
        lines.append([*(row[name] for name in key), row["how"] or "–", *times, ratio, wrong])
    heads = ["exchange", "compressor", "elements", "how", "ms", "ms in one section", "ratio", "#wrong"]
    yield from table(heads, lines)


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


def steps(folder: Path) -> list[list[str]]:
    """Each step as it ended last."""
    try:
        lines = (folder / "steps.tsv").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    return list({line.split("\t")[0]: line.split("\t") for line in lines}.values())


def document(folder: Path) -> str:
    found = {
        name: read(folder / f"{name}.json")
        for name in ("device", "kernels-device", "kernels-cuda", "kernels-cpu", "comm", "comm-whole", "messages")
    }
    runs = [(path.stem.removeprefix("train-"), read(path)) for path in sorted(folder.glob("train-*.json"))]
    contexts = [(found[name] or {}).get("context") or {} for name in ("kernels-cuda", "kernels-cpu", "comm")]
    commit = next((context["git_commit"] for context in contexts if context.get("git_commit")), None)
    made = f"Made by `jobs/gpu_check.sh` at {commit}." if commit else "Made by `jobs/gpu_check.sh`."
    lines = [f"# GPU check, {folder.name}\n", f"{made}\n"]
    lines += machine(found["device"])
    lines += ["## Steps\n"]
    lines += table(["step", "outcome", "s", ""], steps(folder))
    lines += kernels(found["device"], found["kernels-device"], found["kernels-cpu"])
    lines += calls(found["kernels-cuda"])
    lines += trainings([(name, run) for name, run in runs if run])
    lines += exchanges(found["comm"], found["comm-whole"])
    lines += messages(found["messages"])
    return "\n".join(lines).rstrip() + "\n"


def main() -> int:
    if len(sys.argv) != 2:
        print("usage: gpu_report.py FOLDER", file=sys.stderr)
        return 2
    folder = Path(sys.argv[1])
    (folder / "README.md").write_text(document(folder), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
