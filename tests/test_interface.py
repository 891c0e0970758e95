"""The hosts' interface counters, from a tree like the kernel's."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mpisqueeze.comm import interface
from mpisqueeze.comm.interface import InterfaceMeter
from mpisqueeze.errors import UsageError


class OneRank:
    """The first rank of the only host that it sees."""

    def Barrier(self) -> None:  # noqa: N802
        pass

    def gather(self, value: Any) -> list[Any]:
        return [value]


def world(hosts: int = 1, local_rank: int = 0) -> Any:
    return SimpleNamespace(rank=0, local_rank=local_rank, hosts=hosts, comm=OneRank())


@pytest.fixture(autouse=True)
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two cards below a bond that counts their bytes again, and a loopback."""
    monkeypatch.setattr(interface, "_FOLDER", tmp_path)
    for name in ("lo", "bond0", "eno1", "eno2"):
        (tmp_path / name / "statistics").mkdir(parents=True)
        if name.startswith("eno"):
            (tmp_path / name / "device").mkdir()
        carry(tmp_path, name, 0, 0)


def carry(folder: Path, name: str, sent: int, received: int) -> None:
    for way, count in (("tx", sent), ("rx", received)):
        (folder / name / "statistics" / f"{way}_bytes").write_text(f"{count}\n")


def test_cards_are_added_up_and_pauses_left_out(tmp_path: Path) -> None:
    meter = InterfaceMeter(world(), None)
    assert meter.names == [], "ranks of one host talk through memory"
    assert interface.physical() == ["eno1", "eno2"]
    meter = InterfaceMeter(world(hosts=2), None)
    carry(tmp_path, "eno1", 1000, 2000)
    meter.start()
    carry(tmp_path, "eno1", 1500, 2100)
    carry(tmp_path, "eno2", 30, 7)
    with meter.paused():
        carry(tmp_path, "eno1", 9000, 9000)
    carry(tmp_path, "eno1", 9004, 9001)
    meter.stop()
    carry(tmp_path, "eno1", 99_999, 99_999)
    assert meter.by_host() is None, "the other host's counters are not there"
    (entry,) = InterfaceMeter.by_host(_seen_alone(meter)) or ()
    assert (entry["interfaces"], entry["bytes_sent"], entry["bytes_received"]) == (["eno1", "eno2"], 534, 108)


def _seen_alone(meter: InterfaceMeter) -> InterfaceMeter:
    meter._world = world()
    return meter


def test_a_pause_that_ends_in_an_error_counts_no_more(tmp_path: Path) -> None:
    meter = InterfaceMeter(world(), "lo")
    meter.start()
    carry(tmp_path, "lo", 10, 10)
    with pytest.raises(ZeroDivisionError), meter.paused():
        carry(tmp_path, "lo", 1 // 0, 0)
    carry(tmp_path, "lo", 500, 500)
    meter.stop()
    (entry,) = meter.by_host() or ()
    assert (entry["bytes_sent"], entry["bytes_received"]) == (10, 10)


def test_one_rank_of_a_host_reads_and_a_wrong_name_is_told() -> None:
    assert InterfaceMeter(world(local_rank=1), "eno1").names == []
    with pytest.raises(UsageError, match="has no network interface 'eth7'") as error:
        InterfaceMeter(world(), "eth7")
    assert error.value.option == "MPISQUEEZE_INTERFACE"
