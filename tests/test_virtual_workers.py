"""Virtual workers in one process: their communicator, their turns, and the commands that have them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import logged
from mpi4py import MPI

from mpisqueeze.cli.app import run
from mpisqueeze.comm.world import World
from mpisqueeze.errors import RankFailureError, UsageError
from mpisqueeze.virtual import scheduler
from mpisqueeze.virtual.workers import on_workers

N = 7


def on_seven(work: Callable[[World], Any]) -> Any:
    return on_workers(World(MPI.COMM_SELF), N, work)


def collectives(world: World) -> str:
    comm, rank, n = world.comm, world.rank, world.size
    assert comm.allgather(rank) == [*range(n)]
    assert comm.bcast(rank, 2) == 2
    assert comm.gather(2 * rank, 1) == ([2 * r for r in range(n)] if rank == 1 else None)
    assert comm.allreduce(rank, MPI.MAX) == n - 1
    assert comm.allreduce(f"{rank}") == "0123456"
    box = np.empty(3)
    comm.Allreduce(np.full(3, 0.1 * rank), box)
    # In the order of ranks, to the bit.
    assert box.tolist() == [sum(0.1 * r for r in range(n))] * 3
    comm.Allreduce(MPI.IN_PLACE, box, MPI.MIN)
    everyone = np.empty((n, 2)) if rank == 3 else None
    comm.Gather(np.array([rank, -rank], float), everyone, 3)
    if everyone is not None:
        assert everyone.tolist() == [[r, -r] for r in range(n)]
    box = np.empty(n)
    comm.Alltoall(np.arange(n) + 10.0 * rank, box)
    assert box.tolist() == [rank + 10.0 * r for r in range(n)]
    comm.Allgather(np.array([float(rank)]), box)
    assert box.tolist() == [*range(n)]
    buffer = np.full(2, rank)
    comm.Bcast(buffer, 4)
    assert buffer.tolist() == [4, 4]
    odd = comm.Split(rank % 2, -rank)
    assert (odd.rank, odd.allgather(rank)) == ((n - 1 - rank) // 2, [*range(n - 1 - (n - 1 - rank) % 2, -1, -2)])
    assert comm.Split(0 if rank < 2 else MPI.UNDEFINED) == MPI.COMM_NULL or rank < 2
    proposal = world.propose(rank)
    assert world.proposed(proposal) == n - 1
    return f"of {rank}"


def test_collectives_are_those_of_mpi() -> None:
    assert on_seven(collectives) == "of 0"


def messages(world: World) -> None:
    """Round the ring, whichever end starts first, several at a time; a tag's messages arrive in their order."""
    comm, right, left = world.comm, (world.rank + 1) % world.size, (world.rank - 1) % world.size
    out, box = np.zeros((2, 5), np.uint8), np.zeros((2, 5), np.uint8)
    sends = [comm.Send_init([part, 5, MPI.BYTE], right, 3) for part in out]
    receives = [comm.Recv_init([part, 5, MPI.BYTE], left, 3) for part in box]
    for t in range(6):
        out[0], out[1] = world.rank + t, 100 + world.rank + t
        orders = [receives, sends] if (world.rank + t) % 2 else [sends, receives]
        for request in [*orders[0], *orders[1]]:
            request.Start()
        for request in [*receives, *sends]:
            request.Wait()
        assert box[:, 0].tolist() == [left + t, 100 + left + t]
    never = comm.Irecv([box[0], 5, MPI.BYTE], left, 5)
    assert not never.Test()
    never.Cancel()
    assert never.Test()
    other = comm.Irecv([box[0], 5, MPI.BYTE], left, 4)
    comm.Send(np.full(3, 9, np.uint8), right, 4)
    other.Wait()
    # A message may be shorter than its buffer.
    assert box[0].tolist() == [9, 9, 9, left + 5, left + 5]
    if world.rank == 0:
        comm.send({"any": ["object"]}, 6)
    elif world.rank == 6:
        assert comm.recv(source=0) == {"any": ["object"]}


def test_messages_are_those_of_mpi() -> None:
    on_seven(messages)


def test_a_clock_stands_still_while_others_have_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(world: World) -> None:
        began = world.now()
        for _ in range(3):
            clock[0] += 1 + world.rank
            world.comm.Barrier()
        took.append((world.rank, world.now() - began))

    clock, took = [0], []
    monkeypatch.setattr(scheduler, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    on_seven(work)
    assert sorted(took) == [(rank, 3 * (1 + rank)) for rank in range(N)]


def test_workers_that_wait_for_ever_are_named() -> None:
    def work(world: World) -> None:
        if world.rank == 5:
            world.comm.Recv(np.empty(1), 2)
        world.comm.Barrier()

    with pytest.raises(RankFailureError, match=r"wait for each other.*rank 5 for a message from rank 2") as failure:
        on_seven(work)
    assert failure.value.alone


def test_an_error_of_one_ends_all_and_their_blocks_are_left() -> None:
    left = []

    def work(world: World) -> None:
        try:
            world.comm.Barrier()
            if world.rank == 3:
                raise ZeroDivisionError
            world.comm.Barrier()
        finally:
            left.append(world.rank)
            if world.rank == 4:
                world.comm.Barrier()

    with pytest.raises(ZeroDivisionError):
        on_seven(work)
    assert sorted(left) == [*range(N)]


def test_an_error_of_all_is_one() -> None:
    def work(world: World) -> None:
        def fail() -> None:
            if world.rank == 2:
                raise UsageError("wrong", "--lr")

        world.collectively(fail)

    with pytest.raises(UsageError, match="--lr: wrong"):
        on_seven(work)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["train", "--workers", "0"], "whole number ≥ 1"),
        (["train", "--workers", "30", "--samples", "20"], "20 training samples cannot be spread over 30 ranks"),
        (["train", "--workers", "1000000000"], "--workers: 1 000 000 000 workers take 262 TB at the least"),
        (["bench", "comm", "--workers", "4", "--link", "latency=1ms"], "between real ranks"),
    ],
)
def test_what_does_not_go_is_refused(words: list[str], says: str, refused: Callable[..., str]) -> None:
    assert says in refused(*words)


def test_workers_beyond_memory_are_refused_with_an_estimate(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mpisqueeze.devices.device.Device.free_memory", lambda device: 1_000_000)
    line = refused("train", "--workers", "40", "--problem", "quadratic:10k", "--momentum", "0.9")
    # x; a, b, that of a worker, x − b and the gradient; δ and u.
    assert "--workers: 40 workers take 12.8 MB at the least" in line
    assert "1.00 MB are free" in line


def test_a_lab_has_real_ranks(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPISQUEEZE_LAB", "{}")
    assert "between real ranks" in refused("train", "--workers", "2")


def trained(*words: str) -> dict[str, Any]:
    """The summary of a run of few iterations in the folder `run`."""
    assert run(["train", "choco/onebit", "--problem", "mlp:5", "--eval-every", "0", *words]) == 0
    return json.loads(Path("run/summary.json").read_text())


def test_a_run_of_workers_says_so_and_goes_on(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--workers", "5", "--save-model", "--per-rank", "--out", "run")
    whole = trained("--iterations", "9", *options)
    assert "5 virtual workers on 1 rank" in capsys.readouterr().out
    assert (whole["workers"], whole["ranks"], whole["virtual"], whole["link"]) == (5, 1, True, "virtual")
    lines = logged(Path("run/ranks.jsonl"))
    assert [line["rank"] for line in lines] == [*range(5)] * 9
    model = np.load("run/model.npz")["x"]
    assert len(model) == 5
    Path("run").rename("whole")
    trained("--iterations", "4", "--checkpoint-every", "4", *options)
    assert run(["train", "--resume", "run", "--iterations", "9"]) == 0
    assert np.load("run/model.npz")["x"].tobytes() == model.tobytes()


def test_a_comparison_sweeps_the_number_of_workers(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["compare", "sgd", "dpsgd", "--sweep", "workers=2,4", "--problem", "mlp:5", "--iterations", "3"]
    assert run([*words, "--out", "all", "--json", "-"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert sorted((one["algorithm"], one["workers"]) for one in found) == [
        ("dpsgd", 2), ("dpsgd", 4), ("sgd", 2), ("sgd", 4)
    ]  # fmt: skip
    sent = {one["workers"]: one["bytes_sent"] for one in found if one["algorithm"] == "sgd"}
    assert sent[4] == 3 * sent[2]
    assert {one["virtual"] for one in found} == {True}
