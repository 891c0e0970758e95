"""The hosts' interface counters, from a tree like the kernel's."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mpisqueeze.comm import interface
from mpisqueeze.comm.interface import InterfaceMeter, interface_meter, interfaces
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
    """Two cards below a bond that counts their bytes again, a card below another one, and a loopback."""
    monkeypatch.setattr(interface, "_FOLDER", tmp_path)
    for name in ("lo", "bond0", "eno1", "eno2", "vf"):
        (tmp_path / name / "statistics").mkdir(parents=True)
        if name not in ("lo", "bond0"):
            (tmp_path / name / "device").mkdir()
        carry(tmp_path, name, 0, 0)
    for below, above in (("eno1", "bond0"), ("eno2", "bond0"), ("vf", "eno1")):
        (tmp_path / below / "master").symlink_to(tmp_path / above)


def carry(folder: Path, name: str, sent: int, received: int) -> None:
    for way, count in (("tx", sent), ("rx", received)):
        (folder / name / "statistics" / f"{way}_bytes").write_text(f"{count}\n")


def test_cards_are_added_up_and_pauses_left_out(tmp_path: Path) -> None:
    cards = interfaces(world(hosts=2), None)
    assert cards == ["eno1", "eno2"]
    meter = InterfaceMeter(world(), cards)
    carry(tmp_path, "eno1", 1000, 2000)
    meter.start()
    carry(tmp_path, "eno1", 1500, 2100)
    carry(tmp_path, "eno2", 30, 7)
    with meter.paused():
        carry(tmp_path, "eno1", 9000, 9000)
    carry(tmp_path, "eno1", 9004, 9001)
    meter.stop()
    carry(tmp_path, "eno1", 99_999, 99_999)
    (entry,) = meter.by_host() or ()
    assert (entry["interfaces"], entry["bytes_sent"], entry["bytes_received"]) == (cards, 534, 108)


def test_a_pause_that_ends_in_an_error_counts_no_more(tmp_path: Path) -> None:
    meter = InterfaceMeter(world(), ["lo"])
    meter.start()
    carry(tmp_path, "lo", 10, 10)
    with pytest.raises(ZeroDivisionError), meter.paused():
        carry(tmp_path, "lo", 1 // 0, 0)
    carry(tmp_path, "lo", 500, 500)
    meter.stop()
    (entry,) = meter.by_host() or ()
    assert (entry["bytes_sent"], entry["bytes_received"]) == (10, 10)


def test_ranks_of_one_host_need_no_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MPISQUEEZE_INTERFACE", raising=False)
    assert interfaces(world(), None) == []
    assert InterfaceMeter(world(), []).by_host() is None
    assert InterfaceMeter(world(local_rank=1), ["eno1"]).by_host() is None, "a host's first rank reads"


def test_a_host_without_a_card_leaves_all_without_a_meter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MPISQUEEZE_INTERFACE", raising=False)
    ranks = world(hosts=2)
    ranks.collectively = lambda work: work()
    ranks.comm.allgather = lambda mine: [mine, False]
    meter = interface_meter(ranks)
    ranks.comm.Barrier = None
    meter.start()
    meter.stop()
    assert meter.by_host() is None


def test_a_wrong_name_is_told() -> None:
    with pytest.raises(UsageError, match="has no network interface 'eth7'") as error:
        interfaces(world(), "eth7")
    assert error.value.option == "MPISQUEEZE_INTERFACE"
