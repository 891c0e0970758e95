"""What decides each claim, seed by seed: python results/reproduce/margins.py TABLE.md [CLAIM…].

Every claim that has no time in it, or those named, is put to the test with one seed at a time, 1 to 5, on 8 ranks. A
line of the table has a comparison with its numbers for each seed: margins of the claims' files are made by them.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from mpisqueeze.reproduce.claims import FOLDER, load

SEEDS = range(1, 6)
RANKS = 8


def lines(folder: Path, names: list[str]) -> list[str]:
    files = []
    for path in sorted(FOLDER.glob("*.toml")):
        claim = load(path, "laptop")
        if claim.name not in names and (names or claim.sweep is not None):
            continue
        text = re.sub(r"^seeds = .*\n", "", path.read_text(), flags=re.MULTILINE)
        for seed in SEEDS:
            files.append(folder / f"{claim.name}-{seed}.toml")
            files[-1].write_text(f"seeds = [{seed}]\n{text}")
    told = folder / "all.json"
    program = [sys.executable, "-m", "mpisqueeze", "launch", "-n", str(RANKS), "reproduce", *map(str, files)]
    subprocess.run([*program, "--out", str(folder / "runs"), "--json", str(told)], check=True)
    claims = json.loads(told.read_text())
    found = []
    for first in range(0, len(claims), len(SEEDS)):
        seeds = claims[first : first + len(SEEDS)]
        for decisions in zip(*(claim["decisions"] for claim in seeds), strict=True):
            shown = " · ".join(decision["found"] for decision in decisions)
            passed = sum(decision["passed"] for decision in decisions)
            name = seeds[0]["claim"].removesuffix(f"-{SEEDS[0]}")
            found.append(f"| `{name}` | {decisions[0]['text']} | {shown} | {passed} of {len(SEEDS)} |")
    return found


with tempfile.TemporaryDirectory() as name:
    table = ["| claim | what decides | found with seeds 1 to 5 | holds |", "|---|---|---|---|"]
    table += lines(Path(name), sys.argv[2:])
Path(sys.argv[1]).write_text("\n".join(table) + "\n")
