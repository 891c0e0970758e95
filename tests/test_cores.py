"""CPU quotas and memory limits of control groups, in trees of files as the kernel lays them out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from mpisqueeze.cli.app import run
from mpisqueeze.cli.ranks import join
from mpisqueeze.comm import placement
from mpisqueeze.comm.world import World
from mpisqueeze.control_groups import free_memory, total_memory
from mpisqueeze.devices import cores
from mpisqueeze.devices.cores import Quota, cpu_quotas, granted
from mpisqueeze.record.environment import collect_environment, cores_of, ranks_on_hosts

V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
V1_CPU = "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct"
V1_MEMORY = "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"
V1_SET = "34 31 0:31 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset"
UNIFIED = "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw"
DISK = "29 1 259:1 / / rw,relatime shared:1 - ext4 /dev/root rw"


def tree(root: Path, groups: str, mounts: list[str], limits: dict[str, str]) -> Path:
    """A machine: /proc/self/cgroup, /proc/self/mountinfo, and `QUOTA PERIOD` by the folder below /sys/fs/cgroup."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups + "\n")
    (root / "proc/self/mountinfo").write_text("\n".join([DISK, *mounts]) + "\n")
    for name, limit in limits.items():
        folder = root / "sys/fs/cgroup" / name
        folder.mkdir(parents=True, exist_ok=True)
        if name.startswith("cpu"):
            quota, period = limit.split()
            (folder / "cpu.cfs_quota_us").write_text(f"{quota}\n")
            (folder / "cpu.cfs_period_us").write_text(f"{period}\n")
        elif limit:
            (folder / "cpu.max").write_text(f"{limit}\n")
    return root


CASES: dict[str, tuple[str, list[str], dict[str, str], list[float]]] = {
    "no limit": ("0::/user.slice", [V2], {"user.slice": "max 100000"}, []),
    "version 2": ("0::/job", [V2], {"job": "150000 100000"}, [1.5]),
    "version 2, nested": (
        "0::/pod/box",
        [V2],
        {"": "", "pod": "100000 100000", "pod/box": "400000 100000", "other": "1000 100000"},
        [1.0, 4.0],
    ),
    "version 2, a parent without": ("0::/a/b/c", [V2], {"a": "50000 50000", "a/b": "max 1", "a/b/c": ""}, [1.0]),
    "version 2, as a container sees itself": ("0::/", [V2], {"": "200000 100000"}, [2.0]),
    "version 2, from another namespace": ("0::/../../elsewhere", [V2], {"": "70000 100000"}, [0.7]),
    "version 1": ("3:cpuset:/x\n2:cpu,cpuacct:/job", [V1_SET, V1_CPU], {"cpu,cpuacct/job": "50000 100000"}, [0.5]),
    "version 1, no limit": ("2:cpu,cpuacct:/job", [V1_CPU], {"cpu,cpuacct/job": "-1 100000"}, []),
    "version 1, nested": (
        "2:cpu,cpuacct:/slurm/job/step",
        [V1_CPU],
        {"cpu,cpuacct/slurm/job": "300000 100000", "cpu,cpuacct/slurm/job/step": "100000 100000"},
        [3.0, 1.0],
    ),
    "version 1, a container's mount": (
        "2:cpu,cpuacct:/docker/5f",
        [V1_CPU.replace(" / /", " /docker/5f /")],
        {"cpu,cpuacct": "100000 100000"},
        [1.0],
    ),
    "hybrid": (
        "2:cpu,cpuacct:/job\n1:name=systemd:/s\n0::/s",
        [V1_CPU, UNIFIED],
        {"cpu,cpuacct/job": "100000 100000", "unified/s": ""},
        [1.0],
    ),
    "hybrid, by version 2": ("4:cpuset:/\n0::/s", [V1_SET, UNIFIED], {"unified/s": "100000 50000"}, [2.0]),
    "a blank in a path": (
        "0::/j",
        [V2.replace("/sys/fs/cgroup", "/sys/fs/cgroup/a\\040b")],
        {"a b/j": "100000 100000"},
        [1.0],
    ),
}


@pytest.mark.parametrize(("groups", "mounts", "limits", "expected"), CASES.values(), ids=CASES)
def test_quotas(groups: str, mounts: list[str], limits: dict[str, str], expected: list[float], tmp_path: Path) -> None:
    found = cpu_quotas(tree(tmp_path, groups, mounts, limits))
    assert [quota.cores for quota in found] == expected
    assert granted([found]) == min(expected, default=math.inf)


#: By folder below /sys/fs/cgroup: the limit, the use, and how much of it are files that were read; what is granted,
#: and free. The machine has 1000 bytes, 800 of them free.
MEMORY: dict[str, tuple[str, str, dict[str, tuple[str, int, int]], tuple[int, int]]] = {
    "no limit": ("0::/job", V2, {"job": ("max", 50, 0)}, (1000, 800)),
    "version 2": ("0::/job", V2, {"job": ("300", 100, 40)}, (300, 240)),
    "version 2, nested": ("0::/job/step", V2, {"job": ("300", 100, 0), "job/step": ("600", 10, 0)}, (300, 200)),
    "more than there is": ("0::/job", V2, {"job": ("2000", 100, 0)}, (1000, 800)),
    "used up": ("0::/job", V2, {"job": ("300", 310, 0)}, (300, 0)),
    "version 1": ("3:cpu:/x\n2:memory:/slurm/job", V1_MEMORY, {"memory/slurm/job": ("300", 100, 40)}, (300, 240)),
    "version 1, no limit": ("2:memory:/", V1_MEMORY, {"memory": ("9223372036854771712", 500, 0)}, (1000, 800)),
}


@pytest.mark.parametrize(("groups", "mount", "limits", "expected"), MEMORY.values(), ids=MEMORY)
def test_memory_limits(
    groups: str,
    mount: str,
    limits: dict[str, tuple[str, int, int]],
    expected: tuple[int, int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = tree(tmp_path, groups, [mount, DISK], {})
    for name, (limit, used, files) in limits.items():
        folder = root / "sys/fs/cgroup" / name
        folder.mkdir(parents=True, exist_ok=True)
        old = mount is V1_MEMORY
        (folder / ("memory.limit_in_bytes" if old else "memory.max")).write_text(f"{limit}\n")
        (folder / ("memory.usage_in_bytes" if old else "memory.current")).write_text(f"{used}\n")
        # Version 1 has a group's own files as inactive_file, and those of the groups in it, too, as the total.
        mine = "inactive_file 7\ntotal_inactive_file" if old else "inactive_file"
        (folder / "memory.stat").write_text(f"anon 1\n{mine} {files}\nactive_file 9\n")
    machine = type("Machine", (), {"total": 1000, "available": 800})
    monkeypatch.setattr(psutil, "virtual_memory", machine)
    assert (total_memory(root), free_memory(root)) == expected


def test_no_linux(tmp_path: Path) -> None:
    assert cpu_quotas(tmp_path) == ()
    assert total_memory(tmp_path) == psutil.virtual_memory().total


def test_processes_share_what_their_groups_grant(tmp_path: Path) -> None:
    """A quota counts once for all in its group; groups within another have no more than that one."""
    limits = {"pod": "300000 100000", "pod/a": "200000 100000", "pod/b": "200000 100000", "c": "100000 100000"}
    root = tree(tmp_path, "", [V2], limits)

    def inside(group: str) -> tuple[Quota, ...]:
        (root / "proc/self/cgroup").write_text(f"0::/{group}\n")
        return cpu_quotas(root)

    a, b, c = map(inside, ("pod/a", "pod/b", "c"))
    assert granted([a]) == granted([a, a]) == 2
    assert granted([a, b]) == granted([b, a, b]) == 3
    assert granted([c, a, b, c]) == 4
    assert granted([c, ()]) == math.inf


@pytest.mark.parametrize(
    ("physical", "limit", "usable"), [(8, "max 1", 8), (8, "250000 100000", 2), (8, "20000 100000", 1), (2, "9 1", 2)]
)
def test_a_quota_counts_as_cores(
    physical: int, limit: str, usable: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quotas = cpu_quotas(tree(tmp_path, "0::/job", [V2], {"job": limit}))
    monkeypatch.setattr(cores, "cpu_quotas", lambda: quotas)
    monkeypatch.setattr(cores, "physical_cores", lambda: physical)
    assert cores.usable_cores() == usable


@contextmanager
def one_and_a_half_cores() -> Iterator[pytest.MonkeyPatch]:
    """All processes here are in one group that grants the time of one and a half cores of 64."""
    # A process asks for its world's quota once.
    join.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("comm.world", "record.environment"):
            patch.setattr(f"mpisqueeze.{name}.cpu_quotas", lambda: (Quota((0, 1), 1.5),))
        for name in ("comm.world", "comm.placement", "record.environment"):
            patch.setattr(f"mpisqueeze.{name}.logical_cores", lambda: set(range(64)))
        patch.setattr("mpisqueeze.comm.placement.physical_cores", lambda: 64)
        yield patch
    join.cache_clear()


def ranks_under_a_quota() -> None:
    with one_and_a_half_cores() as patch:
        patch.delenv("OMP_NUM_THREADS", raising=False)
        world = World()
        assert world.quota == 0.75
        assert world.load == 1 / 0.75
        assert placement.threads_of_rank(world) == 1
        assert "grants a rank 0.75 cores" in placement.quota_doubts(world, 1)[0]
        environment = collect_environment(world.comm)
        if world.is_root:
            (host,) = environment["hosts"]
            assert (host["cores"], host["cpu_quota"]) == (64, 1.5)
            assert ranks_on_hosts(environment).endswith(", 2 ranks on 1 host; 64 cores with a CPU quota of 1.5")


def test_ranks_under_a_quota(on_ranks: Callable[..., None]) -> None:
    on_ranks(2, ranks_under_a_quota)


def test_a_run_and_info_say_it(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with one_and_a_half_cores() as patch:
        patch.setenv("OMP_NUM_THREADS", "2")
        assert run(["train", "--problem", "quadratic:10", "--iterations", "2", "--out", "run"]) == 0
        said = " ".join(capsys.readouterr().out.replace("│", " ").split())
        assert "64 cores with a CPU quota of 1.5" in said
        assert "warning: a CPU quota" in said
        assert "grants the 2 threads of a rank 1.5 cores" in said
        assert run(["info"]) == 0
        assert "64 cores with a CPU quota of 1.5" in " ".join(capsys.readouterr().out.split())


def test_words_for_cores() -> None:
    assert cores_of({"cores": 1, "cpu_quota": None}) == "1 core"
    assert cores_of({"cores": 4, "cpu_quota": 0.25}) == "4 cores with a CPU quota of 0.25"
    assert cores_of({}) == "cores unknown"
