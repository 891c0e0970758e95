"""Runs on an emulated link beside the same runs in a lab: median `comm_s` of each, and by how much they differ.

mpisqueeze lab -n 4 --rate 100mbit compare … --out shaped
mpirun -n 4 mpisqueeze compare … --link bandwidth=100mbit,latency=100us --out emulated
python results/lab/agree.py shaped emulated
"""

from __future__ import annotations

import sys
from pathlib import Path

from mpisqueeze.record.reading import read_runs


def medians(folder: str) -> dict[tuple[str, str, str], float]:
    """comm_s (s) by algorithm, compressor and server."""
    runs, _ = read_runs([Path(folder)])
    return {
        (s["algorithm"], s["compressor"], s["server"] or "-"): s["times"]["comm_s"]["median"]
        for s in (run.summary for run in runs)
    }


shaped, emulated = (medians(folder) for folder in sys.argv[1:3])
print(f"{'method':38s} {'shaped':>9s} {'emulated':>9s}")
for method, seconds in shaped.items():
    other = emulated[method]
    print(f"{' '.join(method):38s} {seconds:9.4f} {other:9.4f} {100 * (other / seconds - 1):+6.1f} %")
