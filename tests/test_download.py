"""`data get`: against a server on this host that serves ranges or not, breaks off, lies and hangs up."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import json
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pooch
import pytest
from conftest import wait_for
from file_server import FileServer, serving

from mpisqueeze.cli import app as cli
from mpisqueeze.data import cifar10, download, getting, load_dataset
from mpisqueeze.data.published import PUBLISHED, DownloadError, DownloadWatcher, File, Published
from mpisqueeze.errors import UsageError
from mpisqueeze.report.download_view import DownloadView
from mpisqueeze.report.terminal import TerminalChoice, make_console

BYTES = np.random.default_rng(1).bytes(50_000)
NOBODY = "http://127.0.0.1:1/"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A server, and an empty current folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "MPISQUEEZE_MIRROR", "MPISQUEEZE_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pooch.core, "time", SimpleNamespace(sleep=lambda _: None))
    with serving() as started:
        yield started


class Notes(DownloadWatcher):
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.notes: list[str] = []
        self.note = self.notes.append

    def start(self, file: File, url: str, have: int) -> None:
        self.starts.append(have)


def file_of(content: bytes, name: str = "file") -> File:
    return File(name, len(content), hashlib.sha256(content).hexdigest())


def small_mnist() -> dict[str, bytes]:
    """Files of MNIST's names and kind, a few samples each."""
    images, labels = np.arange(40, dtype=np.uint8).reshape(5, 4, 2), np.array([9, 0, 3, 3, 1], np.uint8)
    contents = {}
    for file, array in zip(PUBLISHED["mnist"].files, (images, labels, images[:2], labels[:2]), strict=True):
        head = struct.pack(f">{1 + array.ndim}I", 0x0800 + array.ndim, *array.shape)
        contents[file.name] = gzip.compress(head + array.tobytes(), mtime=0)
    return contents


MNIST = small_mnist()
IMAGES = "train-images-idx3-ubyte.gz"


def publish(patch: pytest.MonkeyPatch, name: str, contents: dict[str, bytes], *mirrors: str) -> Published:
    """Have `name` stand for these files."""
    files = tuple(file_of(content, file) for file, content in contents.items())
    source = dataclasses.replace(PUBLISHED[name], files=files, mirrors=mirrors)
    patch.setitem(PUBLISHED, name, source)
    return source


@pytest.fixture
def mnist(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> Published:
    return publish(monkeypatch, "mnist", MNIST, server.offer("", MNIST))


def get(source: Published, force: bool = False, watcher: DownloadWatcher | None = None) -> int:
    return getting.get(source, Path(), None, force, watcher or DownloadWatcher())


# -- a data set


def test_a_data_set_comes_whole_and_is_not_downloaded_again(server: FileServer, mnist: Published) -> None:
    watcher = Notes()
    assert getting.present(mnist, Path()) == 0
    assert get(mnist, watcher=watcher) == sum(map(len, MNIST.values()))
    assert {path.name for path in Path("mnist").iterdir()} == {*MNIST, ".lock"}
    assert getting.present(mnist, Path()) == 4
    data = load_dataset("mnist", Path(), 0)
    assert data.train_inputs.shape == (5, 8)
    assert data.test_labels.tolist() == [9, 0]
    assert watcher.notes == []
    server.requests.clear()
    assert get(mnist) == 0
    Path("mnist", IMAGES).unlink()
    assert get(mnist) == len(MNIST[IMAGES])
    assert server.requests == [(f"/{IMAGES}", "")]


def test_a_file_of_another_origin_is_left_alone_unless_told(server: FileServer, mnist: Published) -> None:
    path = Path("mnist", IMAGES)
    path.parent.mkdir()
    path.write_bytes(bytes(len(MNIST[IMAGES])))
    with pytest.raises(UsageError, match=r"train-images-idx3-ubyte\.gz is there and is not .* --force") as caught:
        get(mnist)
    assert caught.value.option == "--data-dir"
    assert server.requests == []
    assert not any(path.read_bytes())
    get(mnist, force=True)
    assert path.read_bytes() == MNIST[IMAGES]


def test_two_at_once_download_once(server: FileServer, mnist: Published) -> None:
    server.offer("", MNIST, pause=0.1)
    watchers, received = [Notes(), Notes()], []
    threads = [threading.Thread(target=lambda w=w: received.append(get(mnist, watcher=w))) for w in watchers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(received) == [0, sum(map(len, MNIST.values()))]
    assert sorted(path for path, _ in server.requests) == sorted(f"/{name}" for name in MNIST)
    assert sum("another process" in note for watcher in watchers for note in watcher.notes) == 1


def test_without_locks_parts_have_names_of_their_own(mnist: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(getting.errno.ENOLCK, "No locks available")

    monkeypatch.setattr(getting.fcntl, "flock", no_locks)
    theirs = Path("mnist", f"{IMAGES}.part")
    theirs.parent.mkdir()
    theirs.write_bytes(b"theirs")
    get(mnist)
    assert theirs.read_bytes() == b"theirs"
    assert {path.name for path in theirs.parent.iterdir()} == {*MNIST, ".lock", theirs.name}


def test_a_full_disk_is_told_before_anything_travels(
    server: FileServer, mnist: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = sum(map(len, MNIST.values()))
    monkeypatch.setattr(getting.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    get(mnist)
    shutil.rmtree("mnist")
    free -= 1
    server.requests.clear()
    with pytest.raises(UsageError, match=r"mnist takes .* MB, and mnist has .* MB free"):
        get(mnist)
    assert server.requests == []


def test_a_disk_that_fills_up_is_told_and_keeps_the_part(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    write = download._Resuming.write

    def full(downloader: download._Resuming, data: bytes) -> None:
        if downloader.stream.tell() > 30_000:
            raise OSError(28, "No space left on device")
        write(downloader, data)

    monkeypatch.setattr(download._Resuming, "write", full)
    with pytest.raises(DownloadError, match=r"^part cannot be written: No space left on device$"):
        fetch(server.offer("", {"file": BYTES}))
    assert BYTES.startswith(Path("part").read_bytes())
    assert not Path("file").exists()


# -- a file


def fetch(mirrors: str | list[str], part: bytes | None = None) -> Notes:
    """Download BYTES, with a part that is there."""
    watcher = Notes()
    if part is not None:
        Path("part").write_bytes(part)
    mirrors = [mirrors] if isinstance(mirrors, str) else mirrors
    download.download(file_of(BYTES), mirrors, Path(), Path("part"), watcher)
    assert Path("file").read_bytes() == BYTES
    assert {path.name for path in Path().iterdir()} == {"file"}
    return watcher


@pytest.mark.parametrize(
    ("how", "part", "asked", "starts"),
    [
        ({}, None, [""], [0]),
        ({}, BYTES[:30_000], ["bytes=30000-"], [30_000]),
        ({"ranges": False}, BYTES[:30_000], ["bytes=30000-"], [0]),
        ({"at_most": 20_480}, None, ["", "bytes=16384-", "bytes=32768-"], [0, 16384, 32768]),
        ({"at_most": 20_480, "announced": False}, None, ["", "bytes=20480-", "bytes=40960-"], [0, 20480, 40960]),
        ({}, bytes(30_000), ["bytes=30000-", ""], [30_000, 0]),
        ({}, BYTES, [], []),
        ({}, BYTES[:49_000].ljust(50_000, b"x"), [""], [0]),
        ({}, BYTES + b"x", [""], [0]),
        ({"failures": [503, 429]}, None, ["", "", ""], [0]),
        ({"failures": [416]}, BYTES[:10], ["bytes=10-", ""], [0]),
        ({"headers": {"Content-Encoding": "gzip"}}, None, [""], [0]),
    ],
)  # fmt: skip
def test_a_file_is_taken_up_where_it_ends(
    server: FileServer, how: dict[str, object], part: bytes | None, asked: list[str], starts: list[int]
) -> None:
    watcher = fetch(server.offer("", {"file": BYTES}, **how), part)
    assert [request for _, request in server.requests] == asked
    assert watcher.starts == starts
    assert watcher.notes == (
        ["file: the part that was there was not the published file's; starting again"]
        if part and len(part) <= len(BYTES) and not BYTES.startswith(part)
        else []
    )


@pytest.mark.parametrize(
    ("content", "how", "part", "says", "times"),
    [
        (None, {}, None, "HTTP 404 Not Found", 1),
        (BYTES[::-1], {}, None, "it has other bytes than the published file: their SHA-256 differs", 1),
        (BYTES + b"x", {}, None, "its file has 50001 bytes instead of 50000", 1),
        (BYTES[:-1], {}, None, "its file has 49999 bytes instead of 50000", 1),
        (BYTES + b"x", {"announced": False}, None, "its file has more than 50000 bytes", 1),
        (BYTES, {"shift": 5}, BYTES[:30_000], "it answers with another part than it was asked for", 1),
        (BYTES, {"at_most": 0}, None, "it ended too early", download.ATTEMPTS),
        (BYTES[:-1], {"announced": False, "ranges": False}, None, "it ended too early", 2),
        (BYTES, {"failures": [503] * 9}, None, "HTTP 503 Service Unavailable", download.ATTEMPTS),
        (BYTES, {"pause": 1.0}, None, "timed out", 2),
    ],
)  # fmt: skip
def test_a_mirror_that_does_not_give_it_is_left_for_the_next(
    server: FileServer, monkeypatch: pytest.MonkeyPatch, content: bytes | None, how: dict[str, object],
    part: bytes | None, says: str, times: int,
) -> None:  # fmt: skip
    if times == 2:
        monkeypatch.setattr(download, "ATTEMPTS", 2)
        monkeypatch.setattr(download, "TIMEOUT_S", 0.1)
    broken = server.offer("broken/", {"file": content} if content else {}, **how)
    with pytest.raises(DownloadError) as caught:
        fetch(broken, part)
    assert str(caught.value) == f"no place gave file: {broken}file: {says}"
    assert len(server.requests) == times
    assert not Path("file").exists()
    fetch(server.offer("", {"file": BYTES}))


def test_the_next_mirror_goes_on(server: FileServer) -> None:
    broken, nowhere = server.offer("broken/", {"file": BYTES}, at_most=20_480, ranges=False), "http://no-host.invalid/"
    watcher = fetch([NOBODY, nowhere, broken, server.offer("", {"file": BYTES})])
    assert watcher.notes[0] == f"{NOBODY}file: Connection refused; trying the next place"
    assert watcher.notes[1].startswith(f"{nowhere}file: ")
    assert watcher.notes[2] == f"{broken}file: it ended too early; trying the next place"
    assert all("\n" not in note and len(note) < 120 for note in watcher.notes)
    assert server.requests[-1] == ("/file", "bytes=16384-")


def test_a_proxy_of_the_environment_is_used(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server.offer("", {"file": BYTES}))
    monkeypatch.delenv("no_proxy", raising=False)
    fetch("http://no-such-host.invalid/")
    assert server.requests == [("http://no-such-host.invalid/file", "")]


def test_an_archive_is_unpacked(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar10, "RECORDS", 3)
    records = np.random.default_rng(2).integers(0, 10, (6, 3, 3073), np.uint8)
    contents = dict(zip([file.name for file in PUBLISHED["cifar10"].files], map(bytes, records), strict=True))
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, content in {"readme.html": b"x", "../outside": b"x", **contents}.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    packed, name = out.getvalue(), "cifar-10-binary.tar.gz"
    source = publish(monkeypatch, "cifar10", contents, server.offer("", {name: packed}))
    source = dataclasses.replace(source, archive=file_of(packed, name))
    assert get(source) == len(packed)
    assert {str(path) for path in Path().rglob("*.*")} == {f"cifar10/{name}" for name in (*contents, ".lock")}
    assert load_dataset("cifar10", Path(), 0).test_inputs.tobytes() == records[5, :, 1:].tobytes()
    assert get(source) == 0
    assert len(server.requests) == 1


# -- the command


def test_the_command_downloads_several_and_says_so_in_plain_lines(
    server: FileServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("mnist", "fashion-mnist"):
        publish(monkeypatch, name, MNIST, "http://no-such-host.invalid/")
        server.offer(f"mirror/{name}/", MNIST)
    command, where = ["data", "get", "mnist"], ["--data-dir", "here"]
    assert cli.run([*command, "fashion-mnist", *where, "--mirror", f"{server.url}mirror"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert "\x1b" not in said.out
    assert f"{IMAGES}  " in said.out
    size = sum(map(len, MNIST.values()))
    assert f"fashion-mnist: {size} B downloaded; 4 files in here/fashion-mnist" in said.out
    assert cli.run([*command, *where]) == 0
    assert "mnist: there already; 4 files in here/mnist" in capsys.readouterr().out
    assert cli.run(["data", "list", *where, "--json", "-"]) == 0
    listed = json.loads(capsys.readouterr().out)["data_sets"]
    assert {row["name"]: row["files_present"] for row in listed} == {"mnist": 4, "fashion-mnist": 4, "cifar10": 0}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["mnst"], "NAME: no data set 'mnst' to download; did you mean 'mnist'?"),
        (["digits"], "NAME: no data set 'digits' to download; known: mnist, fashion-mnist, cifar10"),
        (["mnist", "--mirror", "ftp://host/"], "--mirror: 'ftp://host/' is no http:// or https:// address"),
        (["mnist", "--mirror", "http://[::1/"], "--mirror: 'http://[::1/' is no http:// or https:// address"),
        (["mnist", "--mirror", "http://host:99999/"], "--mirror: 'http://host:99999/' is no http://"),
        (["mnist", "--color", "mauve"], "--color: 'mauve' is not one of"),
        (["mnist", "--data-dir", "/proc/none"], "--data-dir: /proc/none"),
    ],
)
def test_wrong_input_is_told_before_anything_travels(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["data", "get", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"mpisqueeze: error: {says}")
    assert error.count("\n") == 1


def test_offline_ends_with_a_line_and_4_and_the_mirror_of_the_environment_is_the_only_place(
    server: FileServer, mnist: Published, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MPISQUEEZE_MIRROR", NOBODY)
    assert cli.run(["data", "get", "mnist"]) == 4
    assert capsys.readouterr().err == (
        f"mpisqueeze: error: mnist: no place gave {IMAGES}: {NOBODY}mnist/{IMAGES}: Connection refused; "
        f"its files may also be copied to data/mnist\n"
    )
    assert server.requests == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_an_interrupted_download_goes_on_where_it_stopped(
    server: FileServer, number: signal.Signals, code: int
) -> None:
    first = PUBLISHED["mnist"].files[0]
    server.offer("mnist/", {first.name: bytes(first.size)}, pause=0.002)
    command = ["data", "get", "mnist", "--mirror", server.url]
    part = Path("data", "mnist") / f"{first.name}.part"

    def run_until(enough: int) -> tuple[int, str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "mpisqueeze", *command],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        wait_for(lambda: part.exists() and part.stat().st_size > enough, "a part of the file")
        process.send_signal(number)
        _, error = process.communicate(timeout=60)
        return process.returncode, error

    says = "" if number == signal.SIGKILL else "mpisqueeze: stopped; the same command goes on from here\n"
    assert run_until(100_000) == (code, says)
    have = part.stat().st_size
    assert 100_000 < have < first.size
    assert run_until(have + 100_000)[0] == code
    assert server.requests[1] == (f"/mnist/{first.name}", f"bytes={have}-")
    assert not (part.parent / first.name).exists()


def test_a_bar_is_drawn_in_a_terminal() -> None:
    console = make_console(TerminalChoice(color=True, live=True, width=100))
    console.file = io.StringIO()
    view = DownloadView(console, True)
    view.start(file_of(BYTES, "some-file"), "https://host/some-file", 1000)
    view.advance(24_000)
    view.done("some", Path("folder"), 1, 49_000)
    drawn = console.file.getvalue()
    assert "some-file  50.0 kB from host, the first 1.00 kB of it there" in drawn
    assert "25.0 kB of 50.0 kB" in drawn
    assert "some: 49.0 kB downloaded; 1 file in folder, SHA-256 right" in drawn.splitlines()[-1]


# -- under mpirun


def get_on_ranks(url: str, root: str) -> None:
    """On each rank: `data get mnist` from a server that has small files of its names."""
    publish(pytest.MonkeyPatch(), "mnist", MNIST, url)
    assert cli.run(["data", "get", "mnist", "--data-dir", root]) == 0
    assert len(load_dataset("mnist", Path(root), 0).train_labels) == 5


def test_under_mpirun_one_rank_downloads_and_all_wait(
    on_ranks: Callable[..., None], server: FileServer, tmp_path: Path
) -> None:
    on_ranks(3, get_on_ranks, server.offer("", MNIST, pause=0.05), str(tmp_path / "data"))
    assert sorted(path for path, _ in server.requests) == sorted(f"/{name}" for name in MNIST)


def test_under_mpirun_an_error_is_told_once(mpisqueeze_run: Callable[..., object]) -> None:
    for arguments, code, says in (
        (["mnist", "--mirror", NOBODY], 4, "mpisqueeze: error: mnist: no place gave"),
        (["nothing"], 2, "no data set 'nothing' to download"),
    ):
        run = mpisqueeze_run(2, "data", "get", *arguments)
        assert (run.code, run.err.count(says)) == (code, 1)
