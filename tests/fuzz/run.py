"""Fuzz every parser of ours for some minutes: `python tests/fuzz/run.py --minutes 10 [TARGET…]`.

atheris (`pip install atheris`) chooses inputs by the code that they reach. Each target runs in a process of its own for
the same share of the time. Ends with 1 if anything was found; the input is printed, to become a seed or a test.
"""

from __future__ import annotations

import argparse
import platform
import re
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

#: Bytes of memory that a process may take, and seconds that an input may.
MEMORY_MB, SECONDS = 4096, 60


def fuzz(name: str, seconds: float) -> None:
    """In a process of its own: one target, until something is found or the time is up; it does not return."""
    import atheris

    with atheris.instrument_imports(include=["mpisqueeze"]):
        from fuzz import targets

    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(targets.SEEDS[name]):
            Path(corpus, str(number)).write_bytes(seed)
        limits = [f"-max_total_time={max(1, round(seconds))}", f"-rss_limit_mb={MEMORY_MB}", f"-timeout={SECONDS}"]
        atheris.Setup(
            [sys.argv[0], *limits, "-print_final_stats=1", "-max_len=512", f"-artifact_prefix={corpus}/", corpus],
            targets.TARGETS[name],
        )
        atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="default: all")
    parser.add_argument("--minutes", type=float, default=10.0, help="for all targets together")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.inside:
        fuzz(asked.targets[0], 60 * asked.minutes)
    from fuzz import targets

    names, failed = asked.targets or list(targets.TARGETS), 0
    print(f"Python {platform.python_version()}, atheris {version('atheris')}, {asked.minutes:g} minutes")
    print("features: edges and values of mpisqueeze's code that inputs reached\n")
    print(f"{'target':<22} {'inputs':>9} {'features':>9}  found")
    for name in names:
        command = [sys.executable, __file__, "--inside", name, "--minutes", str(asked.minutes / len(names))]
        done = subprocess.run(command, stderr=subprocess.PIPE, check=False)
        said = done.stderr.decode(errors="replace")
        inputs = int((re.findall(r"stat::number_of_executed_units:\s*(\d+)", said) or [0])[-1])
        features = max(map(int, re.findall(r" ft: (\d+)", said)), default=0)
        print(f"{name:<22} {inputs:>9} {features:>9}  {'below' if done.returncode else 'nothing'}", flush=True)
        if done.returncode:
            failed = 1
            print(said[-4000:], flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
