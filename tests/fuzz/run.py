"""Fuzz every parser for some minutes: `python tests/fuzz/run.py --minutes 10 [TARGET…]`.

With atheris (`pip install atheris`) inputs are chosen by the code that they reach; without it they are random changes
of good ones. Each target runs in a process of its own for the same share of the time. Ends with 1 if anything was
found; the input is printed, to become a seed or a test.
"""

from __future__ import annotations

import argparse
import base64
import importlib.util
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

#: Bytes of memory that a process may take, and seconds that an input may.
MEMORY_MB, SECONDS = 4096, 60


@dataclass(frozen=True)
class Tally:
    """What became of a target."""

    name: str
    inputs: int
    features: int | None
    seconds: float
    found: list[str]


def by_coverage(name: str, seconds: float) -> None:
    """In a process of its own: atheris, until it finds something or the time is up; it does not return."""
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


def by_chance(name: str, seconds: float, seed: int) -> None:
    """In a process of its own: the fuzzer without coverage."""
    from fuzz import own, targets

    tried, found = own.fuzz(targets.TARGETS[name], targets.SEEDS[name], seconds, seed)
    print(f"stat::number_of_executed_units: {tried}", file=sys.stderr)
    for data, error in found:
        text = base64.b64encode(data).decode()
        print(f"FOUND {text} {type(error).__name__}: {str(error)[-800:]}", file=sys.stderr)
    # As atheris does: what hangs about in threads is not waited for.
    sys.stderr.flush()
    os._exit(1 if found else 0)


def once(name: str, data: bytes) -> None:
    """In a process of its own: one input."""
    from fuzz import targets

    targets.TARGETS[name](data)


def fuzz(name: str, seconds: float, engine: str, seed: int) -> Tally:
    """Run one target in processes of its own until the time is up, and read what they say at their end.

    What ended a process is tried again in a new one: it may have been a signal, or MPI that lost touch with its daemon.
    """
    began = time.monotonic()
    tried, features, found = 0, [0], []
    while (left := seconds - (time.monotonic() - began)) >= 1 and not found:
        options = ["--seconds", str(left), "--engine", engine, "--seed", str(seed + tried)]
        code, said = _inside(name, options, 3 * seconds + 300)
        tried += sum(map(int, re.findall(r"stat::number_of_executed_units:\s*(\d+)", said)[-1:]))
        features += [int(number) for number in re.findall(r" ft: (\d+)", said)]
        inputs = [*re.findall(r"^Base64: (\S*)", said, re.M), *re.findall(r"^FOUND (\S*)", said, re.M)]
        for text in inputs:
            again, why = _inside(name, ["--input", text], 300)
            if again:
                found.append(text)
                print(f"{name}: {text}\n{why[-4000:]}", file=sys.stderr)
        if code and not inputs:
            found.append(f"the process ended with {code}")
            print(said[-4000:], file=sys.stderr)
    return Tally(name, tried, max(features) or None, time.monotonic() - began, found)


def _inside(name: str, options: list[str], timeout: float) -> tuple[int, str]:
    """The exit code of a process, and what it said; one that hangs without being interrupted ends with 1, too."""
    command = [sys.executable, __file__, "--inside", name, *options]
    try:
        done = subprocess.run(command, capture_output=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        return 1, "it did not end"
    return done.returncode, done.stderr.decode(errors="replace")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="default: all")
    parser.add_argument("--minutes", type=float, default=10.0, help="for all targets together")
    parser.add_argument("--engine", choices=("auto", "atheris", "own"), default="auto")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="write the tally there, too")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    parser.add_argument("--input", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.inside and asked.input is not None:
        once(asked.inside, base64.b64decode(asked.input))
        return 0
    if asked.inside:
        if asked.engine == "atheris":
            by_coverage(asked.inside, asked.seconds)
        by_chance(asked.inside, asked.seconds, asked.seed)
    engine = asked.engine
    if engine == "auto":
        engine = "atheris" if importlib.util.find_spec("atheris") else "own"
        if engine == "own":
            print("atheris is not installed: inputs are changed by chance, whatever code they reach", file=sys.stderr)

    from fuzz import targets

    names = asked.targets or list(targets.TARGETS)
    seconds = 60 * asked.minutes / len(names)
    tallies = []
    for name in names:
        tallies.append(fuzz(name, seconds, engine, asked.seed))
        print(f"{name}: {tallies[-1].inputs} inputs, {len(tallies[-1].found)} found", flush=True)
    text = report(tallies, engine, asked)
    print(text)
    if asked.out:
        asked.out.write_text(text, encoding="utf-8")
    return int(any(tally.found for tally in tallies))


def report(tallies: list[Tally], engine: str, asked: argparse.Namespace) -> str:
    """The tally as text."""
    words = ["python tests/fuzz/run.py", f"--minutes {asked.minutes:g}", *asked.targets]
    if engine == "atheris":
        from importlib.metadata import version

        how = f"atheris {version('atheris')}, features: edges and values of mpisqueeze's code that inputs reached"
    else:
        how = "changes by chance, without coverage"
    lines = [
        f"$ {' '.join(words)}",
        f"Python {platform.python_version()}, {how}",
        "",
        f"{'target':<22} {'inputs':>9} {'features':>9} {'seconds':>8}  found",
    ]
    for tally in tallies:
        features = "—" if tally.features is None else str(tally.features)
        outcome = "; ".join(tally.found) or "nothing"
        lines.append(f"{tally.name:<22} {tally.inputs:>9} {features:>9} {tally.seconds:>8.0f}  {outcome}")
    total = sum(tally.inputs for tally in tallies)
    found = sum(bool(tally.found) for tally in tallies)
    lines.append(f"{len(tallies)} targets, {total} inputs, {found} with something found")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
