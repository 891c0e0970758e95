"""Types of the JSON files of a run folder. A reader ignores fields that are not named here."""

from typing import Annotated, Any, Literal, TypedDict

import msgspec

from mpisqueeze.comm.counters import BytesAre
from mpisqueeze.record.decoding import Count, Dimension, Number, Positive, Ranks, Ratio, Seconds

SCHEMA_VERSION = 1

Status = Literal["ok", "interrupted", "killed", "diverged", "failed", "skipped"]
DType = Literal["float32", "float64"]
Server = Literal["root", "sharded", "allreduce"]


class PartName(TypedDict):
    """A part by name, and `built-in` or the file or package that it is from."""

    name: str
    origin: str


class _RunConfig(TypedDict):
    algorithm: str
    compressor: str
    dtype: DType
    ranks: Ranks
    dimension: Dimension
    iterations: Positive
    iterations_per_epoch: Positive


class Config(_RunConfig, total=False):
    """config.json: of all settings, those that somebody reads."""

    topology: str | None
    problem: str | None
    data: str | None
    link: str | None
    server: Server | None
    tree: Literal["flat", "chain", "binary", "binomial"] | None
    chunk: Positive | None
    warmup: Count
    workers: Ranks | None
    batch_size: Positive
    seed: int | Number | None
    bytes: BytesAre
    parts: dict[str, PartName]
    shapes: list[list[Count]] | None
    groups: Ranks | None
    local_steps: Positive


class HostFacts(TypedDict, total=False):
    """A machine: `cores` of it that `ranks` ranks may use, for as much time as `cpu_quota` cores have; None: all."""

    hostname: str | None
    cpu_model: str | None
    memory_bytes: Ratio | None
    system: str | None
    cores: Count | None
    cpu_quota: Ratio | None
    ranks: Count | None


class LinkModel(TypedDict):
    """The link as the cost model sees it: s, s, and s a byte."""

    latency: Seconds
    gap: Seconds
    byte_s: Seconds


class _Rate(TypedDict):
    rate: Annotated[float, msgspec.Meta(ge=1e-3, le=1e30)]


class LabLinks(_Rate, total=False):
    """The links of a virtual cluster: bits a second, each way, and s that a packet takes besides."""

    delay: Seconds | None
    mtu: Count
    hosts: list[str]


class Environment(TypedDict, total=False):
    """environment.json; None for what could not be found out."""

    started_utc: str | None
    command_line: str | None
    git_commit: str | None
    versions: dict[str, str | None]
    variables: dict[str, str | None]
    hosts: list[HostFacts]
    ranks: Count | None
    workers: Count | None
    mpi_library: str | None
    mpi_library_path: str | None
    mpi_abi: str | None
    mpi_standard: str | None
    device: str | None
    devices: list[str]
    buffers: str | None
    buffers_reason: str | None
    cuda_aware: bool | None
    kernels: str | None
    ranks_memory_bytes: Count
    threads: Count
    gradient_threads: Count
    link: str
    lab: LabLinks | None
    link_model: LinkModel | None


class _Quantiles(TypedDict):
    median: Seconds | None
    p99: Seconds | None


class TimeFacts(_Quantiles, total=False):
    """Statistics of a time over the iterations, without the warm-up, s."""

    total: Seconds | None


class RankBytes(TypedDict):
    rank: Count
    bytes_sent: Count
    bytes_received: Count


class HostBytes(RankBytes):
    """A host with its first rank, and the names of the interfaces that counted."""

    host: str
    interfaces: list[str]


class _Ended(TypedDict):
    status: Status


class Summary(_Ended, total=False):
    """summary.json. What an old one lacks is taken from the log; recorded figures stand in it by their names."""

    reason: str | None
    algorithm: str
    compressor: str
    server: Server | None
    problem: str | None
    data: str | None
    ranks: Ranks
    workers: Ranks
    virtual: bool
    groups: Ranks | None
    hosts: Ranks | None
    dimension: Dimension | None
    dtype: DType
    iterations: Count
    warmup: Count
    bytes: BytesAre
    bytes_sent: Count
    bytes_local: Count
    messages: Count
    sgd_bytes_sent: Count
    percent_saved_vs_sgd: Ratio | None
    ratio_vs_sgd: Ratio | None
    full_vectors_per_iteration: Ratio | None
    full_vectors_formula: str | None
    compression: Ratio | None
    final_loss: Number | None
    evaluation: dict[str, Number | None] | None
    test_loss: Number | None
    test_accuracy: Number | None
    times: dict[str, TimeFacts]
    elapsed_s: Seconds | None
    elapsed_s_per_iteration: Seconds | None
    wall_s: Seconds | None
    run_folder: str | None
    schema_version: int
    mpisqueeze: str | None
    signal: str | None
    warnings: list[str] | None
    stopped_at_target: bool
    shown_to_fail: bool | None
    topology: str | None
    eta: Number | None
    link: str | None
    device: str | None
    buffers: str | None
    seed: int | Number | None
    epochs: Ratio
    bytes_sent_per_iteration: Ratio | None
    bytes_saved_vs_sgd: int
    port_bytes_per_iteration: Ratio | None
    bytes_by_rank: list[RankBytes]
    interface_bytes_by_host: list[HostBytes] | None
    chunks: Count | None
    tree: str | None
    payload_bytes: Count | None
    resumed_after: list[Count]


class _Entry(TypedDict):
    name: str
    folder: str


class EntryFacts(_Entry, total=False):
    """A run of a comparison: what it is called, and where it is in the comparison's folder.

    Over seeds it has the name of its pair, which has no seed in it, and its phase: a trial of `tune` chooses settings.
    """

    pair: str | None
    seed: int | None
    phase: Literal["race", "tune"] | None


class Spread(TypedDict):
    """A figure over seeds; null for what a run has not, such as a cost to a target that it missed, which is ∞."""

    median: Number | None
    each: list[Number | None]
    missed: Count


class PairedRatio(TypedDict):
    """The ratio to the first pair: geometric mean of ratios paired by seed, and the ends of its 95 % interval."""

    ratio: Number | None
    low: Number | None
    high: Number | None
    pairs: Count
    missed: Count
    of: Count
    distinguishable: bool | None
    reference_missed: Count


class PairedDifference(TypedDict):
    """The difference from the first pair: mean of differences paired by seed, and the ends of its 95 % interval."""

    difference: Number | None
    low: Number | None
    high: Number | None
    pairs: Count
    distinguishable: bool | None


class PooledPair(TypedDict):
    """A pair over its seeds, as `compare --json` with seeds has it; `each`, `status`: in the order of `seeds`."""

    name: str
    settings: dict[str, Any]
    seeds: list[int]
    status: list[Status]
    missed: Count
    shown_to_fail: bool
    bytes: BytesAre
    virtual: bool
    time_to_target_s: Spread
    bytes_to_target: Spread
    iterations_to_target: Spread
    bytes_sent: Spread
    elapsed_s_per_iteration: Spread
    final: dict[str, Spread]
    relative: dict[str, PairedRatio]
    difference: dict[str, PairedDifference]
    run_folders: list[str | None]


class Named(TypedDict):
    name: str


class GivenTarget(TypedDict):
    """The target that costs are counted up to, as the command line had it: a metric's name, or `smoothed_loss`."""

    name: str
    value: Number


class _Compared(TypedDict):
    runs: list[EntryFacts]
    summaries: list[Named]


class ComparisonFile(_Compared, total=False):
    """compare.json; a run's summary is read where it has no folder. Older files have `given_target_loss`."""

    given_target: GivenTarget | None
    given_target_loss: Number | None


class BookedRun(TypedDict):
    """A run of a race: its method's number, what it was for, and how long it took, with set-up and evaluations."""

    folder: str
    method: Count
    purpose: str
    lr: Number
    seed: int
    iterations: Count
    took_s: Seconds
    hopeless: bool
    status: Status


class RaceFile(TypedDict):
    """race.json: all that a race that was cut short needs to go on."""

    ranks: Ranks
    question: dict[str, Any]
    spent_s: Seconds
    network: str
    dimension: Count
    per_epoch: Count
    compute_s: Seconds
    evaluated_every: Count
    short_of: Count | None
    methods: list[dict[str, Any]]
    scheme: dict[str, Any] | None
    paces: list[dict[str, Any]]
    booked: list[BookedRun]
