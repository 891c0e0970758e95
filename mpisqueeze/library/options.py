"""The options of the library's functions, for type checkers: those of the commands.

Made by `python tests/test_library_commands.py`, and held against the commands by its tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import TypedDict

Words = str | float | Sequence[str | float]
"""Text of an option, a number in its place, or a list for text with commas; of one that is repeated, all of them."""


class CommonOptions(TypedDict, total=False):
    """Options of all commands that train."""

    server: Words | None
    topology: Words | None
    self_weight: float | str | None
    group: Words | None
    local_steps: int | str | None
    outer_lr: float | str | None
    outer_momentum: float | str | None
    outer_nesterov: bool | None
    problem: Words | None
    data: Words | None
    data_dir: str | PathLike[str] | None
    samples: int | str | None
    test_samples: int | str | None
    partition: Words | None
    iterations: int | str | None
    epochs: float | str | None
    batch_size: int | str | None
    lr: float | str | None
    lr_schedule: Words | None
    optimizer: Words | None
    momentum: float | str | None
    nesterov: bool | None
    momentum_at: Words | None
    betas: Words | None
    eps: float | str | None
    weight_decay: float | str | None
    weight_decay_on: Words | None
    clip_norm: float | str | None
    workers: int | str | None
    seed: int | str | None
    dtype: Words | None
    device: Words | None
    buffers: Words | None
    threads: int | str | None
    warmup: int | str | None
    link: Words | None
    compute: Words | None
    jitter: Words | None
    chunk: int | str | None
    tree: Words | None
    barrier: bool | None
    timeout: Words | None
    heartbeat: Words | None
    checksum: bool | None
    config: str | PathLike[str] | None
    out: str | PathLike[str] | None


class TrainOptions(CommonOptions, total=False):
    """Options of `train`."""

    algorithm: Words | None
    compressor: Words | None
    stop_at: Words | None
    overlap: bool | None
    resume: str | PathLike[str] | None
    eval_every: int | str | None
    consensus_every: int | str | None
    log: Words | None
    per_rank: bool | None
    save_model: bool | None
    checkpoint_every: Words | None


class CompareOptions(CommonOptions, total=False):
    """Options of `compare`."""

    preset: Words | None
    sweep: Words | None
    seeds: Words | None
    tune: Words | None
    target: Words | None
    target_loss: float | None
    stop_at_target: bool | None
    sort: Words | None
    overlap: bool | None
    eval_every: int | str | None
    consensus_every: int | str | None
    log: Words | None
    per_rank: bool | None
    save_model: bool | None


class AdviseOptions(CommonOptions, total=False):
    """Options of `advise`."""

    also: Words | None
    budget: Words | None
    seeds: Words | None
    target: Words | None
    target_loss: float | None
    ranks: Words | None
    latency: Words | None
    bandwidth: Words | None
    resume: str | PathLike[str] | None


class ScriptOptions(TypedDict, total=False):
    """Options of `torch.distribute`."""

    algorithm: Words | None
    compressor: Words | None
    server: Words | None
    topology: Words | None
    self_weight: float | str | None
    local_steps: int | str | None
    outer_lr: float | str | None
    outer_momentum: float | str | None
    outer_nesterov: bool | None
    iterations: int | str | None
    momentum: float | str | None
    seed: int | str | None
    buffers: Words | None
    threads: int | str | None
    warmup: int | str | None
    link: Words | None
    chunk: int | str | None
    tree: Words | None
    barrier: bool | None
    overlap: bool | None
    timeout: Words | None
    checksum: bool | None
    out: str | PathLike[str] | None
    consensus_every: int | str | None
    log: Words | None
    per_rank: bool | None
    save_model: bool | None
