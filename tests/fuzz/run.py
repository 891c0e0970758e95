"""Fuzz every parser of ours for some minutes: `python tests/fuzz/run.py --minutes 10 [TARGET…]`.

With atheris (`pip install atheris`) inputs are chosen by the code that they reach; without it hypothesis draws them.
Each target runs in a process of its own for the same share of the time. Ends with 1 if anything was found; the input
is printed, to become a seed or a test.
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
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

#: Bytes of memory that a process may take, and seconds that an input may.
MEMORY_MB, SECONDS = 4096, 60


@dataclass
class Tally:
    """The inputs that a target got, and those that failed."""

    name: str
    inputs: int = 0
    features: int = 0
    seconds: float = 0.0
    found: list[str] = field(default_factory=list)


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
    """In a process of its own: hypothesis, until it finds something or the time is up."""
    import hypothesis
    from fuzz import targets

    tried, last, end = 0, b"", time.monotonic() + seconds

    def check(data: bytes) -> None:
        nonlocal tried, last
        tried, last = tried + 1, data
        targets.TARGETS[name](data)

    draw = hypothesis.given(hypothesis.strategies.binary(max_size=512))(check)
    calm = hypothesis.settings(
        max_examples=200, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck)
    )
    try:
        for data in targets.SEEDS[name]:
            check(data)
        while time.monotonic() < end:
            hypothesis.seed(seed + tried)(calm(draw))()
    except (Exception, SystemExit) as error:
        print(f"Base64: {base64.b64encode(last).decode()}\n{type(error).__name__}: {error}", file=sys.stderr)
    print(f"stat::number_of_executed_units: {tried}", file=sys.stderr)
    # As atheris does: threads that are left are not waited for.
    sys.stderr.flush()
    os._exit(0)


def fuzz(name: str, seconds: float, engine: str, seed: int) -> Tally:
    """Run one target in processes of its own until the time is up, and read what they say at their end.

    An input that ended a process is tried again in a new one: it may have been a signal, or MPI that lost touch with
    its daemon.
    """
    began, tally = time.monotonic(), Tally(name)
    while (left := seconds - (time.monotonic() - began)) >= 1 and not tally.found:
        options = ["--seconds", str(left), "--engine", engine, "--seed", str(seed + tally.inputs)]
        code, said = _inside(name, options, 3 * seconds + 300)
        tally.inputs += sum(map(int, re.findall(r"stat::number_of_executed_units:\s*(\d+)", said)[-1:]))
        tally.features = max([tally.features, *map(int, re.findall(r" ft: (\d+)", said))])
        inputs = re.findall(r"^Base64: (\S*)", said, re.M)
        for text in inputs:
            again, why = _inside(name, ["--input", text], 300)
            if again:
                tally.found.append(text)
                print(f"{name}: {text}\n{why[-4000:]}", file=sys.stderr)
        if code and not inputs:
            tally.found.append(f"the process ended with {code}")
            print(said[-4000:], file=sys.stderr)
    tally.seconds = time.monotonic() - began
    return tally


def _inside(name: str, options: list[str], timeout: float) -> tuple[int, str]:
    """The exit code of a process, and its stderr; one that hangs without being interrupted ends with 1, too."""
    command = [sys.executable, __file__, "--inside", name, *options]
    try:
        done = subprocess.run(command, capture_output=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        return 1, "it did not end"
    return done.returncode, done.stderr.decode(errors="replace")


def report(tallies: list[Tally], engine: str, command: str) -> str:
    """The tally as text."""
    features = "; features: edges and values of mpisqueeze's code that inputs reached" if engine == "atheris" else ""
    lines = [f"$ {command}", f"Python {platform.python_version()}, {engine} {version(engine)}{features}", ""]
    lines.append(f"{'target':<22} {'inputs':>9} {'features':>9} {'seconds':>8}  found")
    for tally in tallies:
        outcome = "; ".join(tally.found) or "nothing"
        lines.append(f"{tally.name:<22} {tally.inputs:>9} {tally.features or '—':>9} {tally.seconds:>8.0f}  {outcome}")
    total, found = sum(tally.inputs for tally in tallies), sum(bool(tally.found) for tally in tallies)
    lines.append(f"{len(tallies)} targets, {total} inputs, {found} with something found")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="default: all")
    parser.add_argument("--minutes", type=float, default=10.0, help="for all targets together")
    engine = "atheris" if importlib.util.find_spec("atheris") else "hypothesis"
    parser.add_argument("--engine", choices=("atheris", "hypothesis"), default=engine)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="write the tally there, too")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    parser.add_argument("--input", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.inside and asked.engine == "atheris" and asked.input is None:
        by_coverage(asked.inside, asked.seconds)
    from fuzz import targets

    if asked.inside and asked.input is not None:
        targets.TARGETS[asked.inside](base64.b64decode(asked.input))
        return 0
    if asked.inside:
        by_chance(asked.inside, asked.seconds, asked.seed)
    names, tallies = asked.targets or list(targets.TARGETS), []
    for name in names:
        tallies.append(fuzz(name, 60 * asked.minutes / len(names), asked.engine, asked.seed))
        print(f"{name}: {tallies[-1].inputs} inputs, {len(tallies[-1].found)} found", flush=True)
    command = " ".join(["python tests/fuzz/run.py", f"--minutes {asked.minutes:g}", *asked.targets])
    text = report(tallies, asked.engine, command)
    print(text)
    if asked.out:
        asked.out.write_text(text, encoding="utf-8")
    return int(any(tally.found for tally in tallies))


if __name__ == "__main__":
    sys.exit(main())
