"""The number of sections: enough to hide the coding, and no more than are worth their own cost."""

from __future__ import annotations

import pytest

from mpisqueeze.comm.estimate import CALL_S, MEMORY_BYTE_S
from mpisqueeze.costs.link import Link
from mpisqueeze.costs.sections import Coding, Terms, choose_sections, root_ways, section_lengths
from mpisqueeze.devices.device import CudaDevice, Device

MEMORY = Link(0.0, CALL_S, MEMORY_BYTE_S)
LINKS = {"memory": MEMORY, "100 Gbit/s": Link(2e-6, 2e-6, 8e-11), "100 Mbit/s": Link(1e-4, 1e-5, 8e-8)}


def sections(coding: Coding, link: Link, d: int, nbytes: int, by_root: bool, ranks: int = 4) -> int:
    length = choose_sections(Terms(ranks, link, coding), d, (1024, 1024), nbytes, nbytes, by_root).up
    part = d if by_root else -(-d // ranks)
    return -(-part // length)


@pytest.mark.parametrize("by_root", [True, False])
@pytest.mark.parametrize("link", LINKS.values(), ids=LINKS)
def test_a_gpu_takes_no_more_sections_than_a_host(link: Link, by_root: bool) -> None:
    for d in (1 << 12, 1 << 16, 1 << 20, 1 << 24):
        for nbytes in (d // 8 + d // 256, 4 * d):
            host, gpu = (sections(device.coding, link, d, nbytes, by_root) for device in (Device, CudaDevice))
            assert gpu <= host, (d, nbytes)


def test_a_section_costs_what_the_device_says() -> None:
    d = 1 << 22
    nbytes = d // 8 + d // 256
    free = sections(Coding(1e-9), MEMORY, d, nbytes, True)
    assert free > 1
    assert sections(Coding(1e-9, section_s=1.0), MEMORY, d, nbytes, True) == 1
    counts = [sections(Coding(1e-11, section_s=cost), MEMORY, d, nbytes, True) for cost in (0, 1e-6, 1e-5, 1e-4, 1e-3)]
    assert counts == sorted(counts, reverse=True)


def test_a_copy_is_hidden_as_coding_is() -> None:
    d = 1 << 22
    without, beside = (sections(Coding(0.0, 5e-5, byte_s), MEMORY, d, 4 * d, True) for byte_s in (0.0, 2e-10))
    assert beside > without


def test_sections_of_a_plain_vector_are_powers_of_two() -> None:
    assert list(section_lengths(1000, 8)) == [64, 128, 256, 512, 1000]
    assert list(section_lengths(1000, None)) == [1000]
    assert root_ways(None, 1) == ["binomial", "flat"]
    assert "chain" in root_ways(None, 2)
