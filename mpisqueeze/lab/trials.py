"""Plan a lab: what is to run on which links."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mpisqueeze.errors import UsageError
from mpisqueeze.files import path_of
from mpisqueeze.lab.shaping import MAX_HOSTS, MTUS, RATES, Links
from mpisqueeze.launch import program
from mpisqueeze.quantities import parse_rate, parse_time
from mpisqueeze.record.folder import check_path, timed_path

_WRITES_RUNS = ("train", "compare", "advise")
_STARTS_RANKS = ("launch", "lab")


@dataclass(frozen=True)
class Trial:
    """One command on one cluster.

    Attributes:
        label: their rate as the user wrote it.
        command: run by every rank.
        folder: holds the command's runs afterwards, None if it leaves none.
    """

    links: Links
    label: str
    command: list[str]
    folder: Path | None


def plan_trials(
    hosts: int,
    rate: str | None,
    rates: str | None,
    delay: str,
    mtu: int,
    command: Sequence[str],
    any_program: bool = False,
    color: str = "auto",
) -> list[Trial]:
    """The trials of a lab, one for each rate. Raises UsageError.

    Args:
        rate, rates: one rate, or several behind commas; one of them is given.
        command: an mpisqueeze command with its options, or with `any_program` a program with its arguments.
        color: for a command that has no `--color` of its own.
    """
    if not 1 <= hosts <= MAX_HOSTS:
        raise UsageError(f"the number of hosts must be 1 to {MAX_HOSTS}, got {hosts}", "-n")
    if mtu not in MTUS:
        raise UsageError(f"must be {MTUS.start} to {MTUS.stop - 1} bytes, got {mtu}", "--mtu")
    labels = _rates(rate, rates)
    try:
        latency = parse_time(delay)
    except ValueError as error:
        raise UsageError(str(error), "--delay") from None
    if not command:
        raise UsageError("name the command to run, such as: mpisqueeze lab -n 4 --rate 100mbit train")
    words, folder = list(command), None
    if any_program:
        if shutil.which(command[0]) is None:
            raise UsageError(f"{command[0]} was not found, or is not a program", "--exec")
    else:
        if command[0] in _STARTS_RANKS:
            raise UsageError(f"a lab starts the ranks itself: leave out {command[0]}")
        if command[0] in _WRITES_RUNS and not _option(words, "--resume"):
            words, folder = _folder(words, hosts)
            words += [] if color == "auto" or _option(words, "--color") else ["--color", color]
        words = [*program(), *words]
    trials = []
    for bits, label in labels.items():
        where = folder / label if folder and rates is not None else folder
        out = [] if where is None else ["--out", str(where)]
        trials.append(Trial(Links(hosts, bits, latency, mtu), label, [*words, *out], where))
    return trials


def _rates(rate: str | None, rates: str | None) -> dict[float, str]:
    """The rates (bits per second), each with its name in a path."""
    if (rate is None) == (rates is None):
        raise UsageError("give either --rate, such as 100mbit, or --rates, such as 1gbit,100mbit", "--rate")
    option = "--rate" if rates is None else "--rates"
    labels: dict[float, str] = {}
    for text in [rate or ""] if rates is None else rates.split(","):
        try:
            bits = parse_rate(text)
        except ValueError as error:
            raise UsageError(str(error), option) from None
        if not RATES[0] <= bits <= RATES[1]:
            raise UsageError(f"{text} is out of range, 10kbit to 100gbit", option)
        if bits in labels:
            raise UsageError(f"{text} is given twice", option)
        labels[bits] = text.strip().lower().removesuffix("/s").replace(" ", "")
    return labels


def _folder(command: list[str], hosts: int) -> tuple[list[str], Path]:
    """A command without its `--out`, and where it shall leave its runs."""
    found = _option(command, "--out")
    if found is None:
        return command, timed_path("lab", hosts)
    at, value = found
    path = path_of(value)
    check_path(path)
    return [*command[:at], *command[at + (1 if "=" in command[at] else 2) :]], path


def _option(command: Sequence[str], name: str) -> tuple[int, str] | None:
    """The place and the value of an option in a command."""
    for at, word in enumerate(command):
        if word.startswith(f"{name}="):
            return at, word.partition("=")[2]
        if word == name and at + 1 < len(command):
            return at, command[at + 1]
    return None
