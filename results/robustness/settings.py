"""Random settings of `train` that are valid."""

from __future__ import annotations

from random import Random

CENTRALIZED = ("sgd", "csgd", "csgd-double", "memsgd", "doublesqueeze")
GOSSIP = ("dpsgd", "dpsgd-naive", "dcd", "ecd", "deepsqueeze", "choco", "d2")
ALGORITHMS = (*CENTRALIZED, "allreduce", *GOSSIP)
FULL_VECTORS = ("sgd", "allreduce", "dpsgd", "d2")
COMPRESSORS = (
    "identity", "onebit", "qsgd", "uniform", "ternary", "topk", "randomk", "clip", "fp16", "bf16",
)  # fmt: skip
TOPOLOGIES = ("ring", "torus", "complete", "exponential", "star")


def compressor(random: Random) -> str:
    """A compressor with its arguments."""
    name = random.choice(COMPRESSORS)
    bucket = random.choice(["", "", ",bucket=0", ",bucket=1", ",bucket=33", ",bucket=64"])
    ratio = random.choice([0.001, 0.01, 0.1, 0.33, 1])
    if name == "onebit":
        block = random.choice(["", ":0", ":1", ":7", ":64", ":4096"])
        return name + block + random.choice(["", ",scale=l2"] if block else ["", ":1024,scale=l2"])
    if name == "qsgd":
        return f"{name}:{random.randint(2, 8)}{bucket}"
    if name == "uniform":
        return f"{name}:{random.randint(1, 8)}{bucket}"
    if name == "ternary":
        return name + bucket
    if name == "topk":
        return f"{name}:{ratio}"
    if name == "randomk":
        return f"{name}:{ratio}{random.choice(['', ',unbiased'])}"
    if name == "clip":
        return f"{name}:{random.randint(9, 31)}"
    return name


def method(random: Random, algorithm: str, ranks: int) -> list[str]:
    """How to train: the algorithm's own options, and a compressor if it takes one."""
    spec = algorithm
    if algorithm == "memsgd" and random.random() < 0.4:
        spec += ":lr=inside"
    if algorithm == "dpsgd":
        spec += f":order={random.choice(['atc', 'awc'])}"
    if algorithm in ("deepsqueeze", "choco") and random.random() < 0.4:
        spec += f":eta={random.choice(['0.1', '0.3'])}"
    options = ["--algorithm", spec]
    if algorithm not in FULL_VECTORS:
        options += ["--compressor", compressor(random)]
    if algorithm in CENTRALIZED:
        options += ["--server", random.choice(["root", "sharded"])]
        if random.random() < 0.3:
            options += ["--chunk", random.choice(["1", "64", "1Ki", "16Ki"])]
        if random.random() < 0.2:
            options += ["--tree", random.choice(["flat", "chain", "binary", "binomial"])]
    if algorithm in GOSSIP:
        topology = random.choice(TOPOLOGIES)
        options += ["--topology", topology]
        if algorithm == "d2" or random.random() < 0.2:
            # On a star ranks have different degrees, and W_ii is what is left.
            options += [] if topology == "star" and ranks > 2 else ["--self-weight", "0.5"]
        if random.random() < 0.3:
            options += ["--consensus-every", random.choice(["0", "3"])]
    return options


def training(random: Random, algorithm: str, neural: bool) -> list[str]:
    """How its iterations go; `neural`: the problem is an mlp, whose gradient comes in parts."""
    options = ["--dtype", random.choice(["float32", "float32", "float64"]), "--seed", str(random.randrange(1000))]
    overlap = neural and algorithm in CENTRALIZED and random.random() < 0.5
    for chance, more in (
        (0.5, ["--momentum", random.choice(["0.5", "0.9"])]),
        (0.2, ["--weight-decay", "0.001"]),
        (0.0 if overlap else 0.2, ["--clip-norm", "5"]),
        (0.2, ["--lr-schedule", random.choice(["cosine", "step:1:0.5"])]),
        (0.3, [random.choice(["--barrier", "--no-barrier"])]),
        (0.2, ["--checksum"]),
        (0.3, ["--per-rank"]),
        (0.2, ["--threads", "2"]),
        (1.0 if overlap else 0.0, ["--overlap"]),
        (0.3 if neural else 0.0, ["--partition", random.choice(["label", "dirichlet:0.5"])]),
    ):
        if random.random() < chance:
            options += more
    return options
