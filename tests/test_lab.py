"""`lab`: what it asks of a machine, what the links are told, and real clusters of two or three hosts."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import Finished, wait_for
from rich.console import Console

from mpisqueeze.errors import ExitCode, UsageError
from mpisqueeze.lab import cluster as outside
from mpisqueeze.lab import hosts as inside
from mpisqueeze.lab import shaping
from mpisqueeze.lab.cluster import TrialOutcome, check_machine
from mpisqueeze.lab.results import lab_results
from mpisqueeze.lab.shaping import Links
from mpisqueeze.lab.trials import Trial, plan_trials
from mpisqueeze.launch import Flavour, Launcher
from mpisqueeze.quantities import format_rate, parse_rate, parse_time
from mpisqueeze.record.figures import no_columns
from mpisqueeze.record.reading import RunLog
from mpisqueeze.record.summary import summary_of
from mpisqueeze.report.lab_view import lab_report

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("text", "rate", "shown"),
    [
        ("100mbit", 1e8, "100 Mbit/s"),
        ("2.5Gbit/s", 2.5e9, "2.5 Gbit/s"),
        ("56 kbit", 56e3, "56 kbit/s"),
        ("3bit", 3.0, "3 bit/s"),
        ("12.34mbit", 12.34e6, "12.3 Mbit/s"),
        ("40tbit", 4e13, "40 Tbit/s"),
    ],
)
def test_rates(text: str, rate: float, shown: str) -> None:
    assert parse_rate(text) == rate
    assert format_rate(rate) == shown
    assert parse_rate(shown) == pytest.approx(rate, rel=5e-3)


def test_times() -> None:
    assert [parse_time(text) for text in ("5ms", "20us", "1.5 s", "0s", "30µs")] == [5e-3, 2e-5, 1.5, 0, 3e-5]


@pytest.mark.parametrize(
    ("parse", "texts", "says"),
    [
        (parse_rate, ",100,100mb,mbit,0mbit,-1mbit,٣mbit,nanbit", r"rate (\(a number with bit, kbit|above 0)"),
        (parse_time, ",5,5m,5MS,-5ms,ms,five ms", r"time \(a number with ns, us, ms, s, min or h"),
    ],
)
def test_neither_a_rate_nor_a_time(parse: Callable[[str], float], texts: str, says: str) -> None:
    for text in texts.split(","):
        with pytest.raises(ValueError, match=says):
            parse(text)


class TestLinks:
    @pytest.mark.parametrize("rate", [1e4, 1e6, 1e7, 1e8, 1e9, 1e11])
    def test_a_port_takes_every_frame_and_holds_every_window(self, rate: float) -> None:
        for hosts, mtu in itertools.product((1, 2, 8, 1000), (576, 1500, 9000, 65000)):
            links = Links(hosts, rate, 1e-3, mtu)
            frame = links.segments * links.packet
            assert frame < links.burst  # tbf drops what is larger, or cuts it up
            assert frame == links.packet or frame <= rate * 0.65e-3 / 8
            assert links.segments * (mtu - 52) <= 65536
            assert links.window >= rate * 2 * links.delay / 8
            assert links.queue >= min((hosts - 1) * links.window * links.packet / mtu, 2**31)
            assert links.queue < 2**32  # as tc keeps it

    def test_the_usual_link(self) -> None:
        links = Links(4, 1e8)
        assert (links.segments, links.burst, links.window) == (5, 5 * 1514 + 2500, 62500)

    def test_a_delay_is_in_front_of_the_bucket(self) -> None:
        first, second = shaping.uplink_commands(Links(2, 1e8, 5e-3))
        assert "netem delay 5000.000us" in first
        assert second.startswith("qdisc add dev eth0 parent 1:1 handle 10: tbf")

    def test_names_lead_over_the_shaped_links(self) -> None:
        assert str(shaping.address(299)) == "10.0.1.44"
        assert "10.0.0.3 host2\n" in shaping.names_file(3)


def plan(*command: str, **options: Any) -> list[Trial]:
    settings = {"hosts": 4, "rate": "100mbit", "rates": None, "delay": "0s", "mtu": 1500, **options}
    return plan_trials(command=command, **settings)


class TestPlan:
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"hosts": 0}, ["-n", "1 to 1000"]),
            ({"hosts": 1001}, ["-n", "1 to 1000"]),
            ({"rate": "100mb"}, ["--rate", "100mbit"]),
            ({"rate": "1kbit"}, ["--rate", "10kbit to 100gbit"]),
            ({"rate": "1tbit"}, ["--rate", "10kbit to 100gbit"]),
            ({"rate": None}, ["--rate", "--rates"]),
            ({"rates": "1gbit"}, ["--rate", "--rates"]),
            ({"rate": None, "rates": "1gbit,fast"}, ["--rates", "'fast'"]),
            ({"rate": None, "rates": "1gbit,1000mbit"}, ["--rates", "twice"]),
            ({"delay": "5"}, ["--delay", "5ms"]),
            ({"mtu": 575}, ["--mtu", "576"]),
            ({"mtu": 65001}, ["--mtu", "65000"]),
        ],
    )
    def test_what_is_refused(self, options: dict[str, Any], says: list[str]) -> None:
        with pytest.raises(UsageError) as error:
            plan("train", **options)
        assert all(text in str(error.value) for text in says), error.value

    def test_commands_that_cannot_be(self, tmp_path: Path) -> None:
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "file").touch()
        with pytest.raises(UsageError, match="lab -n 4"):
            plan()
        with pytest.raises(UsageError, match="leave out launch"):
            plan("launch", "-n", "2", "train")
        with pytest.raises(UsageError, match="--exec: nowhere"):
            plan("nowhere", any_program=True)
        with pytest.raises(UsageError, match="--out: full is not empty"):
            plan("train", "--out", "full")

    def test_train_gets_a_folder(self) -> None:
        (trial,) = plan("train", "--lr", "0.1")
        assert trial.folder is not None
        assert trial.folder.name.endswith("-lab-n4")
        assert trial.command[-5:] == ["train", "--lr", "0.1", "--out", str(trial.folder)]

    @pytest.mark.parametrize("out", [["--out", "here"], ["--out=here"]])
    def test_each_rate_gets_its_own(self, out: list[str]) -> None:
        trials = plan("compare", "sgd", *out, "csgd", rate=None, rates="1gbit, 10Mbit/s", color="never")
        assert [trial.folder for trial in trials] == [Path("here/1gbit"), Path("here/10mbit")]
        assert [trial.links.rate for trial in trials] == [1e9, 1e7]
        assert trials[1].command[-7:] == ["compare", "sgd", "csgd", "--color", "never", "--out", "here/10mbit"]

    def test_other_commands_are_left_alone(self) -> None:
        (trial,) = plan("bench", "comm", color="always")
        assert trial.folder is None
        assert trial.command[-2:] == ["bench", "comm"]
        (trial,) = plan("env", "--out", "x", any_program=True)
        assert trial.command == ["env", "--out", "x"]


class TestMachine:
    """Each thing that may be missing is named in one line."""

    @pytest.fixture(autouse=True)
    def _machine(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in list(os.environ):
            if name.startswith(("OMPI_COMM_", "PMI", "SLURM_")):
                monkeypatch.delenv(name)
        self.folder = tmp_path
        for tool in ("ip", "tc", "unshare", "nsenter"):
            self.fake(tool)
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setattr(outside, "SYSTEM_PATH", "")
        monkeypatch.setattr(outside.launch, "find_launcher", lambda: Launcher("mpirun", Flavour.OPEN_MPI, 5))

    def fake(self, tool: str, script: str = "") -> None:
        (self.folder / tool).write_text(f"#!/bin/sh\n{script}\n")
        (self.folder / tool).chmod(0o755)

    @pytest.mark.parametrize(
        ("missing", "says"),
        [(["ip", "tc"], "needs ip and tc: install iproute2"), (["unshare"], "needs unshare: install util-linux")],
    )
    def test_tools(self, missing: list[str], says: str) -> None:
        check_machine()
        for tool in missing:
            (self.folder / tool).unlink()
        with pytest.raises(UsageError, match=says):
            check_machine()

    def test_namespaces(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fake("unshare", "echo 'unshare: unshare failed: Operation not permitted' >&2; exit 1")
        with pytest.raises(UsageError, match=r"refuses.*Operation not permitted.*user\.max_user_namespaces") as error:
            check_machine()
        assert "\n" not in str(error.value)

    def test_root_needs_no_user_namespace(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        assert "--user" not in check_machine().unshare
        self.fake("unshare", 'case "$*" in *--user*) exit 0;; esac; exit 1')
        assert "--user" in check_machine().unshare
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        self.fake("unshare")
        assert "--user" in check_machine().unshare

    def test_another_mpi(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(outside.launch, "find_launcher", lambda: Launcher("mpiexec", Flavour.HYDRA))
        with pytest.raises(UsageError, match=r"needs Open MPI.*mpiexec.*MPICH"):
            check_machine()

    def test_another_system(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "platform", "darwin")
        with pytest.raises(UsageError, match="Linux"):
            check_machine()

    def test_not_among_ranks_but_in_a_batch_job(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SLURM_PROCID", "0")
        check_machine()
        monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
        with pytest.raises(UsageError, match="without mpirun"):
            check_machine()
        monkeypatch.delenv("SLURM_PROCID")
        monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
        with pytest.raises(UsageError, match="without mpirun"):
            check_machine()


def test_what_mpirun_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("OMPI_MCA_mpi_yield_when_idle", raising=False)
    (trial,) = plan("env", any_program=True, hosts=2)
    told = outside.variables(trial, Launcher("mpirun", Flavour.OPEN_MPI, 5))
    assert "OMP_NUM_THREADS" not in told
    assert told["PRTE_MCA_plm_ssh_agent"] == str(inside.AGENT)
    assert told["OMPI_MCA_btl"] == "tcp,self"
    assert told["OMPI_MCA_btl_tcp_if_include"] == told["MPISQUEEZE_INTERFACE"] == "eth0"
    assert told["MPISQUEEZE_LAUNCHED_RANKS"] == "2"
    assert json.loads(told["MPISQUEEZE_LAB"]) == {"rate": 1e8, "delay": 0, "mtu": 1500, "hosts": ["host0", "host1"]}
    old = outside.variables(trial, Launcher("mpirun", Flavour.OPEN_MPI, 4))
    assert old["OMPI_MCA_plm_rsh_agent"] == str(inside.AGENT)
    assert not any(name.startswith("PRTE_") for name in old)


def test_the_launchers_harmless_warning_is_dropped(capfd: pytest.CaptureFixture[str]) -> None:
    script = """
import sys, time
from mpisqueeze.lab.hosts import _start, _Watch

lines = ["rank's words\\n", "[head:00025] plm:ssh: Warning: setpgid(31,31) failed in parent with errno=Permission "]
lines += ["denied(13)\\n", "[head:00025] plm:ssh: other\\n", "50 %\\r", "no newline"]
write = f"import sys, time\\nfor text in {lines}: sys.stderr.write(text); sys.stderr.flush(); time.sleep(0.05)"
code, lost = _start([sys.executable, "-c", write], {}, _Watch([]))
sys.exit(code or bool(lost))
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
    assert capfd.readouterr().err == "rank's words\n[head:00025] plm:ssh: other\n50 %\rno newline"


class TestResults:
    def outcome(self, **known: Any) -> TrialOutcome:
        """A run of two iterations after one of warm-up, at 100 Mbit/s."""
        config = {"algorithm": "sgd", "compressor": "identity", "server": "root", "ranks": 2, "dtype": "float32",
                  "dimension": 10, "iterations_per_epoch": 1, "warmup": 1}  # fmt: skip
        columns = no_columns()
        for name, values in {
            "encode_s": (9, 1, 1),
            "comm_s": (9, 2, 4),
            "decode_s": (9, 0, 1),
            "loss": (1, 1, 1),
        }.items():
            columns[name] = columns["loss"].__class__(3)
            columns[name][:] = values
        for name in columns:
            columns[name] = columns[name] if columns[name].size else columns["loss"]
        summary = summary_of(config, {}, columns, [], "ok", None, None) | known
        (trial,) = plan("env", any_program=True, hosts=2)
        run = RunLog("sgd", None, summary, 3, 1, columns, [])
        traffic = [{"bytes_sent": 1500, "bytes_received": 1400}, {"bytes_sent": 1400, "bytes_received": 1500}]
        return TrialOutcome(trial, 0, traffic, [run])

    def shown(self, facts: dict[str, Any]) -> str:
        console = Console(width=100, color_system=None)
        with console.capture() as capture:
            console.print(lab_report(facts))
        return capture.get()

    def test_times_stand_beside_their_bound(self) -> None:
        burst = Links(2, 1e8).burst
        facts = lab_results([self.outcome(port_bytes_per_iteration=25_000_000 + burst)])
        (run,) = facts["results"]
        assert (run["comm_s"], run["bound_s"], run["ratio"], run["exchange_s"]) == (3.0, 2.0, 2.25, 4.5)
        (small,) = lab_results([self.outcome(port_bytes_per_iteration=burst)])["results"]
        assert (small["bound_s"], small["ratio"]) == (0.0, None)
        assert facts["context"]["rate"] == [1e8]
        assert facts["commands"][0]["hosts"][1] == {
            "rank": 1,
            "host": "host1",
            "bytes_sent": 1400,
            "bytes_received": 1500,
        }
        text = self.shown(facts)
        assert "100 Mbit/s  sgd        root    identity    2  3.00 s    4.50 s  2.00 s  2.25×  1.000" in text
        assert "1.50 kB" in text
        assert "counted" not in text

    def test_without_a_bound(self) -> None:
        facts = lab_results([self.outcome()])
        assert facts["results"][0]["bound_s"] is facts["results"][0]["ratio"] is None
        assert " —  " in self.shown(facts)

    def test_counted_bytes_stand_beside_those_of_the_interface(self) -> None:
        def by_rank(*sent: int) -> list[dict[str, int]]:
            return [{"rank": r, "bytes_sent": b, "bytes_received": 2 * b} for r, b in enumerate(sent)]

        known = {"bytes_by_rank": by_rank(1000, 200), "interface_bytes_by_host": by_rank(1050, 210)}
        facts = lab_results([self.outcome(**known)])
        # Three iterations; 2100 bytes received at the busiest.
        assert facts["results"][0]["interface_bound_s"] == pytest.approx(700 * 8 / 1e8)
        assert facts["results"][0]["hosts"][1] == {
            "rank": 1, "host": "host1", "bytes_sent": 200, "bytes_received": 400,
            "interface_bytes_sent": 210, "interface_bytes_received": 420,
        }  # fmt: skip
        text = self.shown(facts)
        assert text.count("5.0 %") == 4
        # A comparison's runs add up.
        outcome = self.outcome(**known)
        text = self.shown(lab_results([replace(outcome, runs=outcome.runs * 2)]))
        assert "2.00 kB" in text
        assert "2.10 kB" in text

    def test_bytes_by_definition_are_told_apart_from_counted_ones(self) -> None:
        def both(**known: Any) -> TrialOutcome:
            by_rank = [{"rank": rank, "bytes_sent": 1000, "bytes_received": 1000} for rank in (0, 1)]
            folded = [{**entry, "bytes_sent": 1810} for entry in by_rank]
            return self.outcome(
                bytes_by_rank=by_rank, interface_bytes_by_host=folded, port_bytes_per_iteration=1000 / 3, **known
            )

        defined, counted = both(bytes="by definition"), both()
        facts = lab_results([replace(defined, runs=[*defined.runs, *counted.runs])])
        first, second = facts["results"]
        assert (first["bytes"], second["bytes"]) == ("by definition", "counted")
        assert first["interface_bound_s"] == pytest.approx(8 * 1810 / 3 / 1e8)
        text = self.shown(facts)
        assert text.count("†") == 2, "the bound, and what the mark means"
        # The hosts' table holds the counters against what was counted, and nothing else.
        assert "1.00 kB  1.81 kB  81.0 %" in text
        assert "†  " not in self.shown(lab_results([counted]))


# The rest needs namespaces.


def _machine_or_reason() -> str:
    try:
        check_machine()
    except UsageError as error:
        return str(error)
    return ""


_MISSING = _machine_or_reason()
needs_namespaces = pytest.mark.skipif(bool(_MISSING), reason=_MISSING)
TINY = ["train", "--problem", "quadratic:1000", "--iterations", "5", "--algorithm", "sgd"]


class Lab:
    """`mpisqueeze lab` in a folder of its own, by whose name its processes are found."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[str] | None = None

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MPISQUEEZE_")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mpisqueeze", "lab", *arguments],
            cwd=self.folder,
            env={**environment, **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        return self.process

    def finish(self, timeout: float = 60) -> Finished:
        assert self.process
        out, err = self.process.communicate(timeout=timeout)
        return Finished(self.process.returncode, out, err)

    def run(self, *arguments: str, **variables: str) -> Finished:
        self.start(*arguments, **variables)
        return self.finish()

    def processes(self) -> list[psutil.Process]:
        """The processes of this lab, in whatever namespace."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.cwd() == str(self.folder) or any(str(self.folder) in word for word in process.cmdline()):
                    found.append(process)
        return found


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Lab]:
    cluster = Lab(tmp_path)
    yield cluster
    if cluster.process and cluster.process.poll() is None:
        cluster.process.kill()
        cluster.process.communicate()


def network_namespaces() -> set[str]:
    found = set()
    for path in Path("/proc").glob("[0-9]*/ns/net"):
        with contextlib.suppress(OSError):
            found.add(os.readlink(path))
    return found


@needs_namespaces
class TestCluster:
    def test_every_rank_is_a_host(self, cluster: Lab) -> None:
        script = (
            'echo "$(hostname) rank=$OMPI_COMM_WORLD_RANK" $(ls /sys/class/net) $(ls /dev/shm | grep -c .pid) '
            '$(ls -d /proc/[0-9]* | wc -l) $PWD $(readlink /proc/self/ns/net) >&2; [ "$(hostname)" != host1 ] || exit 7'
        )
        done = cluster.run("-n", "3", "--rate", "100mbit", "--exec", "--", "sh", "-c", script)
        assert done.code == 7
        seen = sorted(line.split() for line in done.err.splitlines() if line.startswith("host"))
        assert [words[:2] for words in seen] == [[f"host{r}", f"rank={r}"] for r in range(3)]
        for words in seen:
            assert sorted(words[2:5]) == ["ctl0", "eth0", "lo"]
            assert words[5] == "0"  # the head node's files
            assert int(words[6]) < 10  # no other host's processes
            assert words[7] == str(cluster.folder)
        assert len({words[8] for words in seen}) == 3
        assert "host2" in done.out  # its counters, whatever the exit code

    def test_a_run_is_recorded_and_shown(self, cluster: Lab) -> None:
        done = cluster.run(
            "-n", "2", "--rate", "50mbit", "--mtu", "1400", "--color", "never", "--", *TINY, "--out", "run"
        )
        assert done.code == 0, done.err
        environment = json.loads((cluster.folder / "run" / "environment.json").read_text())
        assert [host["hostname"] for host in environment["hosts"]] == ["host0", "host1"]
        assert "2 ranks on 2 hosts" in done.out
        assert "lab: 2 hosts, 50 Mbit/s each way, MTU 1400" in done.out
        assert "50 Mbit/s  sgd        root    identity" in done.out
        assert "\x1b" not in done.out

    def test_no_iteration_beats_its_bound(self, cluster: Lab) -> None:
        """Of each exchange's 4 kB the first 2 pass in a bucket's burst, so that it takes less than 3.2 ms."""
        options = ["--problem", "quadratic:1000", "--iterations", "40", "--algorithm", "dpsgd", "--barrier"]
        done = cluster.run("-n", "2", "--rate", "10mbit", "--json", "-", "--", "train", *options, "--out", "run").well()
        (run,) = done.json["results"]
        lines = map(json.loads, (cluster.folder / "run" / "iterations.jsonl").read_text().splitlines())
        fastest = min(sum(line[f"{phase}_s"] for phase in ("encode", "comm", "decode")) for line in lines)
        assert run["bound_s"] == pytest.approx(8 * (4_000 - Links(2, 10e6).burst) / 10e6)
        assert run["bound_s"] <= fastest

    def test_a_link_is_as_fast_as_it_is_said_to_be(self, cluster: Lab) -> None:
        """sgd's 200 kB from and to each of two workers at 20 Mbit/s: 160 ms each way at the root's port alone."""
        options = ["--problem", "quadratic:50000", "--iterations", "6", "--algorithm", "sgd", "--batch-size", "1"]
        done = cluster.run("-n", "3", "--rate", "20mbit", "--json", "-", "--", "train", *options).well()
        assert "wire" in done.err  # the run's own view
        (run,) = done.json["results"]
        assert run["rate"] == 20e6
        assert run["bound_s"] == pytest.approx(0.16, rel=0.02)
        assert 1 <= run["ratio"] < 3
        (command,) = done.json["commands"]
        for host, whole, counted in zip(run["hosts"], command["hosts"], (2_400_000, 1_200_000, 1_200_000), strict=True):
            for key in ("bytes_sent", "bytes_received"):
                assert host[key] == counted
                # Headers, and acknowledgements of what comes the other way.
                assert 1.005 < host[f"interface_{key}"] / counted < 1.1
                assert whole[key] >= host[f"interface_{key}"]

    def test_an_allreduce_moves_no_less_than_its_definition(self, cluster: Lab) -> None:
        """On three hosts a rank is folded in, or the vector goes round; either way, 2(N − 1) vectors at the least."""
        options = ["--problem", "quadratic:20000", "--iterations", "8", "--algorithm", "allreduce", "--eval-every", "0"]
        done = cluster.run("-n", "3", "--rate", "100mbit", "--json", "-", "--", "train", *options).well()
        assert "by definition" in done.err
        (run,) = done.json["results"]
        assert run["bytes"] == "by definition"
        assert sum(host["interface_bytes_sent"] for host in run["hosts"]) > 8 * 4 * 80_000
        assert run["interface_bound_s"] > run["bound_s"]

    def test_the_interfaces_leave_out_what_measures(self, cluster: Lab) -> None:
        """An evaluation and a consensus distance move two vectors more a rank and iteration than gossip itself."""
        options = ["--problem", "quadratic:100000", "--iterations", "6", "--algorithm", "dpsgd", "--no-barrier"]
        each = ["--eval-every", "1", "--consensus-every", "1"]
        done = cluster.run("-n", "3", "--rate", "100mbit", "--json", "-", "--", "train", *options, *each).well()
        (run,) = done.json["results"]
        for host in run["hosts"]:
            assert 1 < host["interface_bytes_sent"] / host["bytes_sent"] < 1.1

    def test_a_sweep(self, cluster: Lab) -> None:
        pairs = ["sgd", "doublesqueeze", "--problem", "quadratic:1000", "--iterations", "4"]
        done = cluster.run("-n", "2", "--rates", "20mbit,10mbit", "--json", "lab.json", "--", "compare", *pairs).well()
        (folder,) = (cluster.folder / "results").iterdir()
        assert {path.name for path in folder.iterdir()} == {"20mbit", "10mbit"}
        assert (folder / "10mbit" / "compare.json").is_file()
        facts = json.loads((cluster.folder / "lab.json").read_text())
        seen = [(run["rate"], run["algorithm"], run["compressor"]) for run in facts["results"]]
        assert seen == [
            (rate, *run) for rate in (2e7, 1e7) for run in (("sgd", "identity"), ("doublesqueeze", "onebit"))
        ]
        assert "[2/2] 10 Mbit/s" in done.out
        assert done.out.count("eth0 sent") == 2

    @pytest.mark.parametrize(
        ("options", "code", "says"),
        [
            (["--algorithm", "nosuch"], ExitCode.USAGE, "--algorithm: unknown algorithm 'nosuch'"),
            (["--lr", "1e30", "--iterations", "60"], ExitCode.DIVERGED, "diverged"),
        ],
    )
    def test_exit_codes_pass_through(self, cluster: Lab, options: list[str], code: int, says: str) -> None:
        done = cluster.run("-n", "2", "--rate", "100mbit", "--", *TINY[:-2], *options)
        assert done.code == code
        assert says in done.out + done.err
        assert ("lab: 2 hosts" in done.out) == (code == ExitCode.DIVERGED)

    def test_a_user_namespace_does(self, cluster: Lab) -> None:
        """As for anybody who is not root."""
        drop = ["setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin"] if os.geteuid() == 0 else []
        if drop and shutil.which("setpriv") is None:
            pytest.skip("no setpriv")
        show = ["sh", "-c", "wc -l < /proc/self/uid_map"]
        lab_command = [sys.executable, "-m", "mpisqueeze", "lab", "-n", "2", "--rate", "1mbit", "--exec", "--", *show]
        done = subprocess.run([*drop, *lab_command], cwd=cluster.folder, capture_output=True, text=True, check=False)
        if "refuses the namespaces" in done.stderr:
            pytest.skip(done.stderr)
        assert done.returncode == 0, done.stderr
        assert "eth0 sent" in done.stdout

    def test_a_delay_or_why_not(self, cluster: Lab) -> None:
        done = cluster.run("-n", "2", "--rate", "100mbit", "--delay", "20ms", "--json", "-", "--", *TINY)
        if done.code == ExitCode.USAGE:
            assert done.err == (
                "mpisqueeze: error: --delay: this machine's kernel lacks the netem queue that makes a delay "
                "(Specified qdisc kind is unknown)\n"
            )
            assert done.out == ""
            assert not (cluster.folder / "results").exists()
        else:
            assert done.json["results"][0]["comm_s"] > 0.04


@needs_namespaces
class TestEnd:
    LONG = ("train", "--problem", "quadratic:1000", "--iterations", "1M", "--algorithm", "sgd", "--eval-every", "0")

    def started(self, cluster: Lab) -> subprocess.Popen[str]:
        out = cluster.folder / "run"
        process = cluster.start("-n", "3", "--rate", "10mbit", "--", *self.LONG, "--out", str(out))
        log = out / "iterations.jsonl"
        wait_for(lambda: process.poll() is not None or (log.is_file() and log.stat().st_size), "iterations")
        assert process.poll() is None, cluster.finish().err
        return process

    @pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_a_signal_is_passed_on_once(self, cluster: Lab, number: int, code: int) -> None:
        process = self.started(cluster)
        process.send_signal(number)
        done = cluster.finish()
        assert done.code == code, done.err
        assert "passed on to the ranks" in done.err
        assert json.loads((cluster.folder / "run" / "summary.json").read_text())["status"] == "interrupted"
        assert "interrupted" in done.out
        assert cluster.processes() == []

    def test_a_second_signal_ends_all(self, cluster: Lab) -> None:
        marker = str(cluster.folder / "ready")
        deaf = f"trap '' INT TERM; : > {marker}-$OMPI_COMM_WORLD_RANK; while :; do sleep 1; done"
        process = cluster.start("-n", "2", "--rate", "10mbit", "--exec", "--", "sh", "-c", deaf)
        wait_for(lambda: len(list(cluster.folder.glob("ready-*"))) == 2, "both ranks")
        process.send_signal(signal.SIGINT)
        # One that comes within a second is the same wish.
        time.sleep(1.2)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        begin = time.monotonic()
        assert cluster.finish().code == 130
        assert time.monotonic() - begin < 3
        wait_for(lambda: not cluster.processes(), "its processes to end", 5)

    def test_nothing_outlives_a_killed_lab(self, cluster: Lab) -> None:
        process = self.started(cluster)
        mine = {os.readlink(f"/proc/{member.pid}/ns/net") for member in cluster.processes()}
        mine -= {os.readlink("/proc/self/ns/net")}
        assert len(mine) == 4  # the head node and three hosts
        process.kill()
        wait_for(lambda: not cluster.processes(), "its processes to end", 5)
        # A process that is ending shows its namespace for a moment after its folder and its command line are gone.
        wait_for(lambda: not mine & network_namespaces(), "its hosts to go", 5)
