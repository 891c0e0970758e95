"""Mutants of the package: each breaks a method in one way, and claims that concern it must fail.

A mutant is an edit of the source, applied to a copy of the package. Kernels are NumPy's there, so that a mutant of
`kernels/reference.py` counts. `python tests/mutants.py FILE` tries all of them, on every claim that they name and on
the test files beside them, and writes the table of results/mutants; `python tests/mutants.py FILE NAME …` tries those
alone, and replaces their lines.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PACKAGE = HERE.parent / "mpisqueeze"
#: As many as README's command takes.
RANKS = 8


@dataclass(frozen=True)
class Mutant:
    """A way to break the package.

    Attributes:
        edits: (file, text that it has once, text in its place).
        claims: those that say something that is not true of it.
        tests: arguments of pytest, of which one at least finds it.
    """

    name: str
    says: str
    edits: tuple[tuple[str, str, str], ...]
    claims: tuple[str, ...]
    tests: tuple[str, ...]


IDENTITIES = "mpi/test_identities.py"
GOSSIP = "mpi/test_gossip.py"
KERNELS = "test_kernels.py"
RANDOMNESS = "test_randomness.py"
LINK = "mpi/test_link.py"
LOCAL = "mpi/test_local_steps.py"

MUTANTS = (
    Mutant(
        "residual-dropped",
        "error feedback keeps nothing: C(v) in place of C(v + δ)",
        (
            (
                "algorithms/base.py",
                "compressor.encode_feedback(vector, residual, payload)",
                "compressor.encode(vector, payload)",
            ),
        ),
        ("double-compression", "one-bit", "top-k", "deepsqueeze"),
        (IDENTITIES, GOSSIP),
    ),
    Mutant(
        "residual-inverted",
        "δ ← D(C(v)) − v, the sign inverted",
        (
            (
                "algorithms/base.py",
                "compressor.encode_feedback(vector, residual, payload)",
                "compressor.encode_feedback(vector, residual, payload); residual *= -1",
            ),
        ),
        ("double-compression", "one-bit", "top-k", "deepsqueeze"),
        (IDENTITIES, GOSSIP),
    ),
    Mutant(
        "server-residual-ignored",
        "DoubleSqueeze's server compresses the mean without δ̄",
        (
            (
                "algorithms/doublesqueeze.py",
                "section.encode_feedback(section.mean, section.delta_bar)",
                "section.encode(section.mean)",
            ),
        ),
        ("double-compression", "one-bit", "top-k"),
        (IDENTITIES,),
    ),
    Mutant(
        "worker-residual-ignored",
        "DoubleSqueeze's workers compress the gradient without δ",
        (
            (
                "algorithms/doublesqueeze.py",
                "section.encode_feedback(section.g, section.delta)",
                "section.encode(section.g)",
            ),
        ),
        ("double-compression", "one-bit", "top-k"),
        (IDENTITIES,),
    ),
    Mutant(
        "doublesqueeze-step-twice",
        "DoubleSqueeze moves by γ²p",
        (
            (
                "algorithms/doublesqueeze.py",
                "section.descend(self.lr)",
                "section.descend(self.lr * self.lr)",
            ),
        ),
        ("double-compression", "one-bit", "top-k"),
        (IDENTITIES,),
    ),
    Mutant(
        "memsgd-gamma",
        "MEM-SGD with γ inside multiplies by γ once more",
        (("algorithms/memsgd.py", "1.0 if self.inside else self.lr", "self.lr"),),
        ("one-bit",),
        (IDENTITIES,),
    ),
    Mutant(
        "server-does-not-compress",
        "the server of csgd-double answers with full vectors",
        (("algorithms/csgd_double.py", "compresses_down = True", "compresses_down = False"),),
        ("traffic",),
        (IDENTITIES,),
    ),
    Mutant(
        "mean-over-n-minus-1",
        "the server divides the sum by N − 1",
        (
            ("algorithms/sections.py", "self.mean /= ranks", "self.mean /= max(1, ranks - 1)"),
            (
                "algorithms/sections.py",
                "self.codec.combine(payloads, self.total)",
                "self.codec.combine(payloads, self.total); self.total *= world.size / max(1, world.size - 1)",
            ),
        ),
        ("one-bit", "mean-model"),
        (IDENTITIES,),
    ),
    Mutant(
        "last-worker-alone",
        "the server's sum is what the last worker sent",
        (
            (
                "algorithms/sections.py",
                "self.codec.combine(payloads, self.total)",
                "self.codec.combine(payloads[-1:], self.total)",
            ),
            (
                "algorithms/sections.py",
                "self.codec.add_up(arriving, self.total)",
                "self.codec.add_up([*arriving][-1:], self.total)",
            ),
        ),
        ("mean-model", "speed-up"),
        (IDENTITIES,),
    ),
    Mutant(
        "mean-is-a-sum",
        "the server divides the sum by nothing",
        (
            ("algorithms/sections.py", "self.mean /= ranks", "self.mean /= 1"),
            (
                "algorithms/sections.py",
                "self.codec.combine(payloads, self.total)",
                "self.codec.combine(payloads, self.total); self.total *= world.size",
            ),
        ),
        ("speed-up",),
        (IDENTITIES,),
    ),
    Mutant(
        "allreduce-not-divided",
        "allreduce moves by the sum",
        (("algorithms/linear.py", "factor /= self._ranks", "factor /= 1"),),
        ("one-bit", "mean-model"),
        (IDENTITIES,),
    ),
    Mutant(
        "nearest-rounding",
        "quantizers round to the nearest level",
        (
            (
                "kernels/reference.py",
                "codes = self._round_stochastically(magnitude, start, key)",
                "codes = np.rint(magnitude).astype(np.uint8)",
            ),
        ),
        ("one-bit", "averaging"),
        (KERNELS, "test_kernel_properties.py", IDENTITIES),
    ),
    Mutant(
        "key-without-iteration",
        "the same random numbers in each iteration",
        (
            (
                "compressors/base.py",
                "return derive_key(self.seed, self.iteration) ^ self.first",
                "return derive_key(self.seed) ^ self.first",
            ),
        ),
        ("one-bit", "averaging"),
        (RANDOMNESS, IDENTITIES),
    ),
    Mutant(
        "key-without-rank",
        "the same random numbers on each rank",
        (("algorithms/base.py", "derive_key(self.seed, 1, rank, *", "derive_key(self.seed, 1, *"),),
        ("one-bit", "averaging"),
        (RANDOMNESS, IDENTITIES),
    ),
    Mutant(
        "top-k-smallest",
        "top-k takes the smallest magnitudes",
        (
            (
                "kernels/reference.py",
                'magnitude = np.abs(v, out=self.scratch("vector", v.size))',
                'magnitude = np.negative(np.abs(v), out=self.scratch("vector", v.size))',
            ),
            ("kernels/reference.py", "magnitude = np.abs(v, out=magnitude)\n", "magnitude = np.negative(np.abs(v))\n"),
        ),
        ("double-compression", "top-k"),
        (KERNELS,),
    ),
    Mutant(
        "signs-scaled-by-maximum",
        "onebit's scale is max|v| in place of ‖v‖₁/n",
        (
            (
                "kernels/reference.py",
                'self._block_statistic(v, length, "sq" if l2 else "l1", sums)',
                'self._block_statistic(v, length, "sq" if l2 else "max", sums); sums *= length',
            ),
        ),
        ("double-compression", "one-bit"),
        (KERNELS,),
    ),
    Mutant(
        "nothing-mixes",
        "W = I: neighbours' models have no weight",
        (
            (
                "algorithms/decentralized.py",
                "self.w, self.shares = dtype(self.w), [dtype(weight) for _, weight in edges]",
                "self.w, self.shares = dtype(1), [dtype(0) for _ in edges]",
            ),
        ),
        ("decentralized", "deepsqueeze", "choco", "different-data", "speed-up", "graphs"),
        (GOSSIP,),
    ),
    Mutant(
        "weights-swapped",
        "W_ii and the neighbours' weights do not add up to 1",
        (
            (
                "algorithms/decentralized.py",
                "self.w, self.shares = dtype(self.w), [dtype(weight) for _, weight in edges]",
                "self.w, self.shares = dtype(self.w), [dtype(0.9 * weight) for _, weight in edges]",
            ),
        ),
        ("decentralized", "mean-model"),
        (GOSSIP,),
    ),
    Mutant(
        "one-peer-for-ever",
        "one-peer has its first round in each iteration",
        (("topology.py", "step = 1 << round_", "step = 1"),),
        ("graphs",),
        (GOSSIP, "test_topology.py"),
    ),
    Mutant(
        "naive-own-term-exact",
        "dpsgd-naive does not compress a rank's own model",
        (("algorithms/dpsgd_naive.py", "self.mix(x, self.w)", "x *= self.w; self.add_decoded(x)"),),
        ("differences",),
        (GOSSIP,),
    ),
    Mutant(
        "dcd-moves-by-z",
        "DCD moves by z, which its replicas do not see, in place of C(z)",
        (("algorithms/dcd.py", "self.codec.decode_add(self.exchange.out, x)", "x += z"),),
        ("differences",),
        (GOSSIP,),
    ),
    Mutant(
        "ecd-averages",
        "ECD's estimate is y ← (1 − 1/t) y + (1/t) C(z)",
        (
            ("algorithms/ecd.py", "dtype.type(1 - 2 / t)", "dtype.type(1 - 1 / t)"),
            ("algorithms/ecd.py", "payload, y, 2 / t)", "payload, y, 1 / t)"),
        ),
        ("differences",),
        (GOSSIP,),
    ),
    Mutant(
        "deepsqueeze-without-eta",
        "DeepSqueeze ignores η",
        (("algorithms/deepsqueeze.py", "eta=scalar(self.eta)", "eta=scalar(1)"),),
        ("deepsqueeze", "two-bits"),
        (GOSSIP,),
    ),
    Mutant(
        "deepsqueeze-without-own-term",
        "DeepSqueeze subtracts nothing of its own payload",
        (("algorithms/deepsqueeze.py", "self.w - scalar(1)", "self.w"),),
        ("deepsqueeze", "mean-model"),
        (GOSSIP,),
    ),
    Mutant(
        "choco-without-eta",
        "CHOCO ignores η",
        (("algorithms/choco.py", "scalar(self.eta), step)", "scalar(1), step)"),),
        ("choco", "two-bits"),
        (GOSSIP,),
    ),
    Mutant(
        "choco-replica-kept",
        "CHOCO's x̂ stays 0",
        (("algorithms/choco.py", "        self.codec.decode_add(self.exchange.out, self.x_hat)\n", ""),),
        ("choco", "mean-model"),
        (GOSSIP,),
    ),
    Mutant(
        "d2-without-last-gradient",
        "D² forgets γ g_prev",
        (("algorithms/d2.py", "            x += self.g_prev\n", ""),),
        ("different-data", "mean-model"),
        (GOSSIP,),
    ),
    Mutant(
        "local-steps-exchange-each",
        "local steps are exchanged in each iteration",
        (("algorithms/local.py", "network.iteration % self.every", "network.iteration % 1"),),
        ("local-steps",),
        (LOCAL,),
    ),
    Mutant(
        "local-steps-without-average",
        "after an exchange of local steps each rank goes on from its own model",
        (("algorithms/local.py", "        x[...] = self.start\n", ""),),
        ("local-steps",),
        (LOCAL,),
    ),
    Mutant(
        "bytes-with-headers",
        "the counter adds 66 bytes a message",
        (
            (
                "comm/pipeline.py",
                "network.counter.bytes_sent += wire.nbytes * len(requests)",
                "network.counter.bytes_sent += (wire.nbytes + 66) * len(requests)",
            ),
        ),
        ("traffic",),
        (IDENTITIES,),
    ),
    Mutant(
        "no-latency",
        "the emulated link has no latency",
        (
            (
                "comm/emulated.py",
                "self._arrivals[source, tag, number] = self._receive_free + self.model.latency",
                "self._arrivals[source, tag, number] = self._receive_free",
            ),
        ),
        ("high-latency",),
        (LINK,),
    ),
    Mutant(
        "ports-never-busy",
        "a message occupies no port of the emulated link",
        (
            (
                "comm/emulated.py",
                "self._receive_free = max(start, self._receive_free) + self.model.message(nbytes)",
                "self._receive_free = start + self.model.message(nbytes)",
            ),
            (
                "comm/emulated.py",
                "self._send_free = start + self.model.message(nbytes)",
                "self._send_free = start",
            ),
        ),
        ("latency", "bandwidth"),
        (LINK,),
    ),
)


def copy_package(folder: Path) -> Path:
    """A copy of the package below `folder`, to be put on PYTHONPATH; its claims have their first seed alone."""
    shutil.copytree(PACKAGE, folder / "mpisqueeze", ignore=shutil.ignore_patterns("__pycache__"))
    for path in (folder / "mpisqueeze" / "reproduce" / "claims").glob("*.toml"):
        path.write_text(re.sub(r"^seeds = \[(\d+).*\]$", r"seeds = [\1]", path.read_text(), flags=re.MULTILINE))
    return folder


def mutate(folder: Path, mutant: Mutant) -> set[Path]:
    """Apply a mutant to the copy below `folder`; the files that it changes. Raises ValueError."""
    changed = set()
    for name, old, new in mutant.edits:
        path = folder / "mpisqueeze" / name
        text = path.read_text()
        if text.count(old) != 1:
            raise ValueError(f"{mutant.name}: {name} has {old!r} {text.count(old)} times and not once")
        path.write_text(text.replace(old, new))
        changed.add(path)
    return changed


def environment(folder: Path) -> dict[str, str]:
    """Variables with which programs import the package below `folder`, and no settings of this process."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MPISQUEEZE_", "OMPI_", "PMIX_"))}
    path = os.pathsep.join(filter(None, [str(folder), kept.get("PYTHONPATH")]))
    return {**kept, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "MPISQUEEZE_KERNELS": "numpy"}


def reproduced(folder: Path, claims: Sequence[str], timeout: float = 600) -> list[dict[str, Any]]:
    """What `reproduce` finds about these claims, by the package below `folder`."""
    path = Path(tempfile.mkdtemp(dir=folder))
    program = [sys.executable, "-m", "mpisqueeze", "launch", "-n", str(RANKS), "reproduce", *claims]
    finished = subprocess.run(
        [*program, "--out", str(path / "runs"), "--json", str(path / "all.json")],
        env=environment(folder), cwd=path, timeout=timeout, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if finished.returncode:
        raise RuntimeError(f"{program} ended with {finished.returncode}:\n{finished.stdout}\n{finished.stderr}")
    return json.loads((path / "all.json").read_text())


def verdicts(folder: Path, claims: Sequence[str]) -> dict[str, str]:
    """The verdict on each claim, by the package below `folder`."""
    return {claim["claim"]: claim["verdict"] for claim in reproduced(folder, claims)}


def failing_tests(folder: Path, files: Sequence[str]) -> list[str]:
    """The first test in each of these files that fails for the package below `folder`."""
    options = ["-q", "-x", "-rfE", "--tb=no", "-p", "no:cacheprovider", "-c", str(HERE.parent / "pyproject.toml")]
    failed = []
    for name in files:
        # Python looks for modules in the current folder first.
        told = subprocess.run(
            [sys.executable, "-m", "pytest", *options, str(HERE / name)],
            env=environment(folder), cwd=folder, capture_output=True, text=True, check=False,
        ).stdout  # fmt: skip
        found = re.search(r"^(?:FAILED|ERROR) .*?::(\S+)", told, re.MULTILINE)
        failed += [f"{name}: {found[1]}"] if found else []
    return failed


def table(path: Path, names: Sequence[str]) -> None:
    """Try all mutants, and write a line for each to `path`, in Markdown; with `names` of those alone."""
    lines = {line.split("`")[1]: line for line in path.read_text().splitlines()[2:]} if names else {}
    for mutant in MUTANTS:
        if names and mutant.name not in names:
            continue
        with tempfile.TemporaryDirectory() as name:
            folder = copy_package(Path(name))
            mutate(folder, mutant)
            found = verdicts(folder, mutant.claims)
            claims = [f"`{claim}`" if found[claim] == "FAIL" else f"`{claim}` holds (!)" for claim in mutant.claims]
            tests = [f"`{test}`" for test in failing_tests(folder, mutant.tests)] or ["none (!)"]
        line = f"| `{mutant.name}` | {mutant.says} | {', '.join(claims)} | {', '.join(tests)} |"
        print(line, flush=True)
        lines[mutant.name] = line
    head = ["| mutant | what it breaks | claims that fail | tests that fail |", "|---|---|---|---|"]
    order = [mutant.name for mutant in MUTANTS if mutant.name in lines]
    path.write_text("\n".join([*head, *(lines[name] for name in order)]) + "\n")


if __name__ == "__main__":
    table(Path(sys.argv[1]), sys.argv[2:])
