"""`data get`: against a server on this host that serves ranges or not, breaks off, lies and hangs up."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import json
import os
import signal
import struct
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from file_server import FileServer, serving

from mpisqueeze.cli import app as cli
from mpisqueeze.data import cifar10, download, getting, load_dataset
from mpisqueeze.data.download import DownloadError, Watcher
from mpisqueeze.data.published import PUBLISHED, File, Published
from mpisqueeze.errors import UsageError
from mpisqueeze.report.download_view import DownloadView
from mpisqueeze.report.terminal import TerminalChoice, make_console

RECORDS = 3
BYTES = np.random.default_rng(1).bytes(50_000)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "MPISQUEEZE_MIRROR", "MPISQUEEZE_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(download, "PAUSE_S", 0.0)
    monkeypatch.setattr(download, "TIMEOUT_S", 5.0)
    with serving() as started:
        yield started


class Notes(Watcher):
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.starts: list[tuple[str, int]] = []
        self.received = 0

    def start(self, file: File, url: str, have: int) -> None:
        self.starts.append((url, have))

    def advance(self, count: int) -> None:
        self.received += count

    def note(self, text: str) -> None:
        self.notes.append(text)


def file_of(content: bytes, name: str = "file") -> File:
    return File(name, len(content), hashlib.sha256(content).hexdigest())


def idx(array: np.ndarray) -> bytes:
    head = struct.pack(f">{1 + array.ndim}I", 0x0800 + array.ndim, *array.shape)
    return gzip.compress(head + array.tobytes(), mtime=0)


def small_mnist() -> dict[str, bytes]:
    """Files of MNIST's names and kind, a few samples each."""
    images, labels = np.arange(40, dtype=np.uint8).reshape(5, 4, 2), np.array([9, 0, 3, 3, 1], np.uint8)
    contents = (images, labels, images[:2], labels[:2])
    return {file.name: idx(array) for file, array in zip(PUBLISHED["mnist"].files, contents, strict=True)}


def publish(monkeypatch: pytest.MonkeyPatch, name: str, contents: dict[str, bytes], *mirrors: str) -> Published:
    """Have `name` stand for these files."""
    files = tuple(file_of(content, file) for file, content in contents.items())
    source = dataclasses.replace(PUBLISHED[name], files=files, mirrors=mirrors)
    monkeypatch.setitem(PUBLISHED, name, source)
    return source


def offer_all(server: FileServer, contents: dict[str, bytes], folder: str = "", **how: object) -> None:
    for name, content in contents.items():
        server.offer(f"/{folder}{name}", content, **how)


# -- a data set


def test_a_data_set_comes_whole_and_can_be_loaded(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = small_mnist()
    source = publish(monkeypatch, "mnist", contents, server.url)
    offer_all(server, contents)
    watcher = Notes()
    assert getting.present(source, tmp_path) == 0
    assert getting.get(source, tmp_path, None, False, watcher) == sum(map(len, contents.values())) == watcher.received
    assert {path.name for path in (tmp_path / "mnist").iterdir()} == {*contents, ".lock"}
    assert getting.present(source, tmp_path) == 4
    data = load_dataset("mnist", tmp_path, 0)
    assert data.train_inputs.shape == (5, 8)
    assert data.test_labels.tolist() == [9, 0]
    assert watcher.notes == []


def test_what_is_there_is_not_downloaded_again(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = small_mnist()
    source = publish(monkeypatch, "mnist", contents, server.url)
    offer_all(server, contents)
    getting.get(source, tmp_path, None, False, Watcher())
    server.requests.clear()
    assert getting.get(source, tmp_path, None, False, Watcher()) == 0
    assert server.requests == []
    (tmp_path / "mnist" / "t10k-labels-idx1-ubyte.gz").unlink()
    assert getting.get(source, tmp_path, None, False, Watcher()) == len(contents["t10k-labels-idx1-ubyte.gz"])
    assert [path for path, _ in server.requests] == ["/t10k-labels-idx1-ubyte.gz"]


def test_a_file_of_another_origin_is_left_alone_unless_told(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = small_mnist()
    source = publish(monkeypatch, "mnist", contents, server.url)
    offer_all(server, contents)
    path = tmp_path / "mnist" / "train-images-idx3-ubyte.gz"
    path.parent.mkdir()
    # As long as the published one.
    path.write_bytes(bytes(len(contents[path.name])))
    with pytest.raises(UsageError, match=r"train-images-idx3-ubyte\.gz is there and is not .* --force") as caught:
        getting.get(source, tmp_path, None, False, Watcher())
    assert caught.value.option == "--data-dir"
    assert server.requests == []
    assert not any(path.read_bytes())
    getting.get(source, tmp_path, None, True, Watcher())
    assert path.read_bytes() == contents[path.name]


def test_two_at_once_download_once(server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = small_mnist()
    source = publish(monkeypatch, "mnist", contents, server.url)
    offer_all(server, contents, pause=0.1)
    watchers = [Notes(), Notes()]
    received: list[int] = []

    def work(watcher: Watcher) -> None:
        received.append(getting.get(source, tmp_path, None, False, watcher))

    threads = [threading.Thread(target=work, args=(watcher,)) for watcher in watchers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(received) == [0, sum(map(len, contents.values()))]
    assert sorted(path for path, _ in server.requests) == sorted(f"/{name}" for name in contents)
    assert sum("another process" in note for watcher in watchers for note in watcher.notes) == 1


def test_without_locks_parts_have_names_of_their_own(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(getting.errno.ENOLCK, "No locks available")

    monkeypatch.setattr(getting.fcntl, "flock", no_locks)
    contents = small_mnist()
    source = publish(monkeypatch, "mnist", contents, server.url)
    offer_all(server, contents)
    folder = tmp_path / "mnist"
    folder.mkdir()
    # Somebody else's, who is at work.
    other = folder / "train-images-idx3-ubyte.gz.part"
    other.write_bytes(b"theirs")
    getting.get(source, tmp_path, None, False, Watcher())
    assert other.read_bytes() == b"theirs"
    assert {path.name for path in folder.iterdir()} == {*contents, ".lock", other.name}


def test_a_full_disk_is_told_before_anything_travels(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = small_mnist()
    source = publish(monkeypatch, "mnist", contents, server.url)
    offer_all(server, contents)
    needed = sum(map(len, contents.values()))
    for free in (needed, needed - 1):
        monkeypatch.setattr(getting.shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        if free < needed:
            (tmp_path / "mnist").rename(tmp_path / "before")
            server.requests.clear()
            with pytest.raises(UsageError, match=r"mnist takes .* MB, and .*mnist has .* MB free"):
                getting.get(source, tmp_path, None, False, Watcher())
            assert server.requests == []
        else:
            getting.get(source, tmp_path, None, False, Watcher())


# -- a file


def test_a_part_is_resumed_where_it_ends(server: FileServer, tmp_path: Path) -> None:
    url, _ = server.offer("/file", BYTES)
    part, watcher = tmp_path / "part", Notes()
    part.write_bytes(BYTES[:30_000])
    download.download(file_of(BYTES), [url], part, watcher)
    assert part.read_bytes() == BYTES
    assert server.requests == [("/file", "bytes=30000-")]
    assert server.sent == watcher.received == 20_000
    assert watcher.starts == [(url, 30_000)]


def test_a_server_without_ranges_starts_again(server: FileServer, tmp_path: Path) -> None:
    url, _ = server.offer("/file", BYTES, ranges=False)
    part, watcher = tmp_path / "part", Notes()
    part.write_bytes(BYTES[:30_000])
    download.download(file_of(BYTES), [url], part, watcher)
    assert part.read_bytes() == BYTES
    assert watcher.starts == [(url, 0)]


@pytest.mark.parametrize("announced", [True, False])
def test_a_connection_that_breaks_off_is_taken_up_again(server: FileServer, tmp_path: Path, announced: bool) -> None:
    url, _ = server.offer("/file", BYTES, at_most=20_000, announced=announced)
    part = tmp_path / "part"
    download.download(file_of(BYTES), [url], part, Watcher())
    assert part.read_bytes() == BYTES
    assert server.requests == [("/file", ""), ("/file", "bytes=20000-"), ("/file", "bytes=40000-")]


def test_a_server_that_always_breaks_off_is_left_for_the_next_which_goes_on(server: FileServer, tmp_path: Path) -> None:
    broken, _ = server.offer("/broken", BYTES, at_most=20_000, ranges=False)
    whole, _ = server.offer("/whole", BYTES)
    part, watcher = tmp_path / "part", Notes()
    with pytest.raises(DownloadError, match=r"no place gave file: .*/broken: it ended too early$"):
        download.download(file_of(BYTES), [broken], part, watcher)
    assert server.requests == [("/broken", "")] + (download.ATTEMPTS - 1) * [("/broken", "bytes=20000-")]
    assert part.read_bytes() == BYTES[:20_000]
    download.download(file_of(BYTES), [broken, whole], part, watcher)
    assert server.requests[-1] == ("/whole", "bytes=20000-")
    assert part.read_bytes() == BYTES


def test_a_part_of_other_bytes_is_given_up_for_a_fresh_start(server: FileServer, tmp_path: Path) -> None:
    url, _ = server.offer("/file", BYTES)
    part, watcher = tmp_path / "part", Notes()
    part.write_bytes(bytes(30_000))
    download.download(file_of(BYTES), [url], part, watcher)
    assert part.read_bytes() == BYTES
    assert server.requests == [("/file", "bytes=30000-"), ("/file", "")]
    assert "was not the published file's" in watcher.notes[0]


@pytest.mark.parametrize("length", [50_000, 60_000])
def test_a_part_that_is_as_long_as_the_file_or_longer(server: FileServer, tmp_path: Path, length: int) -> None:
    url, _ = server.offer("/file", BYTES)
    part = tmp_path / "part"
    part.write_bytes(BYTES[:49_000].ljust(length, b"x"))
    download.download(file_of(BYTES), [url], part, Watcher())
    assert part.read_bytes() == BYTES
    assert server.requests == [("/file", "")]


def test_a_whole_part_needs_no_server(server: FileServer, tmp_path: Path) -> None:
    part = tmp_path / "part"
    part.write_bytes(BYTES)
    download.download(file_of(BYTES), [f"{server.url}nothing"], part, Watcher())
    assert server.requests == []


def test_wrong_bytes_are_refused_and_the_next_place_is_tried(server: FileServer, tmp_path: Path) -> None:
    wrong, _ = server.offer("/wrong", BYTES[::-1])
    right, _ = server.offer("/right", BYTES)
    part, watcher = tmp_path / "part", Notes()
    download.download(file_of(BYTES), [wrong, right], part, watcher)
    assert part.read_bytes() == BYTES
    assert watcher.notes == [
        f"{wrong}: it has other bytes than the published file: their SHA-256 differs; trying the next place"
    ]
    part.unlink()
    with pytest.raises(DownloadError, match="SHA-256 differs"):
        download.download(file_of(BYTES), [wrong], part, Watcher())
    assert not part.exists()


@pytest.mark.parametrize(("content", "announced"), [(BYTES + b"x", True), (BYTES[:-1], True), (BYTES[:-1], False)])
def test_a_file_of_another_length_is_refused(
    server: FileServer, tmp_path: Path, content: bytes, announced: bool
) -> None:
    url, _ = server.offer("/file", content, announced=announced, ranges=False)
    part = tmp_path / "part"
    says = f"has {len(content)} bytes instead of 50000" if announced else "ended too early"
    with pytest.raises(DownloadError, match=says):
        download.download(file_of(BYTES), [url], part, Watcher())
    # Where it says how long it is, nothing of it is taken.
    assert part.exists() != announced


def test_a_place_that_has_nothing_is_passed_over(server: FileServer, tmp_path: Path) -> None:
    right, _ = server.offer("/right", BYTES)
    watcher = Notes()
    download.download(file_of(BYTES), [f"{server.url}missing", right], tmp_path / "part", watcher)
    assert watcher.notes == [f"{server.url}missing: HTTP 404 Not Found; trying the next place"]
    # Asking for it again would not bring it back.
    assert [path for path, _ in server.requests] == ["/missing", "/right"]


def test_a_server_in_trouble_is_asked_again(server: FileServer, tmp_path: Path) -> None:
    url, _ = server.offer("/file", BYTES, failures=[503, 429])
    download.download(file_of(BYTES), [url], tmp_path / "part", Watcher())
    assert len(server.requests) == 3
    assert (tmp_path / "part").read_bytes() == BYTES


def test_a_range_that_was_not_asked_for_is_refused(server: FileServer, tmp_path: Path) -> None:
    url, _ = server.offer("/file", BYTES, shift=5)
    part = tmp_path / "part"
    part.write_bytes(BYTES[:30_000])
    with pytest.raises(DownloadError, match="another part than it was asked for"):
        download.download(file_of(BYTES), [url], part, Watcher())
    assert part.read_bytes() == BYTES[:30_000]


def test_a_server_that_falls_silent_is_given_up(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "TIMEOUT_S", 0.1)
    monkeypatch.setattr(download, "ATTEMPTS", 2)
    url, _ = server.offer("/file", BYTES, pause=1.0)
    with pytest.raises(DownloadError, match="timed out"):
        download.download(file_of(BYTES), [url], tmp_path / "part", Watcher())


def test_nobody_there_is_told_in_a_line(tmp_path: Path) -> None:
    nobody = "http://127.0.0.1:1/file"
    with pytest.raises(DownloadError) as caught:
        download.download(file_of(BYTES), [nobody, "http://no-such-host.invalid/file"], tmp_path / "part", Watcher())
    message = str(caught.value)
    assert message.startswith(f"no place gave file: {nobody}: ")
    assert "http://no-such-host.invalid/file: " in message
    assert "\n" not in message


def test_a_proxy_of_the_environment_is_used(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.offer("/file", BYTES)
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.delenv("no_proxy", raising=False)
    download.download(file_of(BYTES), ["http://no-such-host.invalid/file"], tmp_path / "part", Watcher())
    assert server.requests == [("http://no-such-host.invalid/file", "")]
    assert (tmp_path / "part").read_bytes() == BYTES


def test_a_part_that_cannot_be_written_is_told(server: FileServer, tmp_path: Path) -> None:
    url, _ = server.offer("/file", BYTES)
    with pytest.raises(DownloadError, match=r"part cannot be written: No such file or directory"):
        download.download(file_of(BYTES), [url], tmp_path / "nowhere" / "part", Watcher())


# -- the archive


def cifar_contents() -> dict[str, bytes]:
    """Batches of RECORDS images each."""
    draws = np.random.default_rng(2)
    contents = {}
    for file in PUBLISHED["cifar10"].files:
        records = draws.integers(0, 256, (RECORDS, 3073), np.uint8)
        records[:, 0] %= 10
        contents[file.name] = records.tobytes()
    return contents


def packed(members: list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for member, content in members:
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member, b""


def publish_cifar(
    monkeypatch: pytest.MonkeyPatch, server: FileServer, members: list[tuple[tarfile.TarInfo, bytes]]
) -> Published:
    """Have `cifar10` stand for an archive of these members."""
    archive = packed(members)
    server.offer("/cifar-10-binary.tar.gz", archive)
    source = publish(monkeypatch, "cifar10", cifar_contents(), server.url)
    source = dataclasses.replace(source, archive=file_of(archive, "cifar-10-binary.tar.gz"))
    monkeypatch.setitem(PUBLISHED, "cifar10", source)
    return source


def batches() -> list[tuple[tarfile.TarInfo, bytes]]:
    return [(tarfile.TarInfo(f"cifar-10-batches-bin/{name}"), content) for name, content in cifar_contents().items()]


def test_an_archive_is_unpacked_and_can_be_loaded(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = publish_cifar(monkeypatch, server, [link("cifar-10-batches-bin", "", tarfile.DIRTYPE), *batches()])
    assert getting.get(source, tmp_path, None, False, Watcher()) == source.downloads[0].size
    assert {path.name for path in (tmp_path / "cifar10").iterdir()} == {*cifar_contents(), ".lock"}
    monkeypatch.setattr(cifar10, "RECORDS", RECORDS)
    data = load_dataset("cifar10", tmp_path, 0)
    assert len(data.train_labels) == 5 * RECORDS
    assert bytes(data.test_inputs[0]) == cifar_contents()["test_batch.bin"][1:3073]
    assert getting.get(source, tmp_path, None, False, Watcher()) == 0
    assert len(server.requests) == 1


def test_nothing_of_an_archive_leaves_its_folder(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = tmp_path / "outside"
    evil = [
        (tarfile.TarInfo("../../outside"), b"x"),
        (tarfile.TarInfo(str(outside)), b"x"),
        (tarfile.TarInfo("cifar-10-batches-bin/../../../outside"), b"x"),
        link("cifar-10-batches-bin/link", str(tmp_path)),
        (tarfile.TarInfo("cifar-10-batches-bin/link/outside"), b"x"),
        link("cifar-10-batches-bin/hard", "/etc/passwd", tarfile.LNKTYPE),
        (tarfile.TarInfo("cifar-10-batches-bin/readme.html"), b"x"),
    ]
    source = publish_cifar(monkeypatch, server, [*evil, *batches()])
    root = tmp_path / "data"
    getting.get(source, root, None, False, Watcher())
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if not path.is_dir()} == {
        f"data/cifar10/{name}" for name in [*cifar_contents(), ".lock"]
    }


@pytest.mark.parametrize("how", ["link", "device", "absent", "short"])
def test_an_archive_without_a_plain_file_is_refused(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    name = "cifar-10-batches-bin/data_batch_2.bin"
    others = [member for member in batches() if member[0].name != name]
    replaced = {
        "link": [link(name, "/etc/passwd")],
        "device": [link(name, "", tarfile.CHRTYPE)],
        "absent": [],
        "short": [(tarfile.TarInfo(name), b"short")],
    }[how]
    source = publish_cifar(monkeypatch, server, [*replaced, *others])
    with pytest.raises(DownloadError, match=r"lacks cifar-10-batches-bin/data_batch_2\.bin$"):
        getting.get(source, tmp_path, None, False, Watcher())
    assert not os.path.lexists(tmp_path / "cifar10" / "data_batch_2.bin")


def test_an_archive_with_other_bytes_is_refused(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = batches()
    members[3] = (members[3][0], bytes(len(members[3][1])))
    source = publish_cifar(monkeypatch, server, members)
    with pytest.raises(DownloadError, match=r"data_batch_4\.bin in the archive has other bytes"):
        getting.get(source, tmp_path, None, False, Watcher())
    assert not list((tmp_path / "cifar10").glob("data_batch_4.bin*"))


# -- the command


def test_the_command_downloads_several_and_says_so_in_plain_lines(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    contents = small_mnist()
    for name in ("mnist", "fashion-mnist"):
        publish(monkeypatch, name, contents, "http://no-such-host.invalid/")
        offer_all(server, contents, f"mirror/{name}/")
    arguments = [
        "data",
        "get",
        "mnist",
        "fashion-mnist",
        "--data-dir",
        str(tmp_path),
        "--mirror",
        f"{server.url}mirror",
    ]
    assert cli.run(arguments) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert "train-images-idx3-ubyte.gz  " in said
    assert (
        f"fashion-mnist: {sum(map(len, contents.values()))} B downloaded; 4 files in {tmp_path}/fashion-mnist" in said
    )
    assert cli.run(arguments[:3] + arguments[4:6]) == 0
    assert f"mnist: there already; 4 files in {tmp_path}/mnist" in capsys.readouterr().out
    assert cli.run(["data", "list", "--data-dir", str(tmp_path), "--json", "-"]) == 0
    listed = json.loads(capsys.readouterr().out)["data_sets"]
    assert {row["name"]: row["files_present"] for row in listed} == {"mnist": 4, "fashion-mnist": 4, "cifar10": 0}


def test_the_mirror_of_the_environment_is_the_only_place(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    contents = small_mnist()
    publish(monkeypatch, "mnist", contents, server.url)
    offer_all(server, contents)
    monkeypatch.setenv("MPISQUEEZE_MIRROR", f"{server.url}elsewhere/")
    assert cli.run(["data", "get", "mnist", "--data-dir", str(tmp_path)]) == 4
    assert [path for path, _ in server.requests] == ["/elsewhere/mnist/train-images-idx3-ubyte.gz"]
    assert "HTTP 404" in capsys.readouterr().err


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


def test_offline_ends_with_a_line_and_4(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(monkeypatch, "mnist", small_mnist(), "http://no-such-host.invalid/", "http://127.0.0.1:1/")
    monkeypatch.delenv("MPISQUEEZE_MIRROR", raising=False)
    assert cli.run(["data", "get", "mnist", "--data-dir", str(tmp_path)]) == 4
    error = capsys.readouterr().err
    assert error.startswith("mpisqueeze: error: mnist: no place gave train-images-idx3-ubyte.gz: http://no-such-host")
    assert error.endswith(f"its files may also be copied to {tmp_path}/mnist\n")
    assert error.count("\n") == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_download_goes_on_where_it_stopped(
    server: FileServer, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    first = PUBLISHED["mnist"].files[0]
    server.offer(f"/mnist/{first.name}", bytes(first.size), pause=0.01)
    command = [sys.executable, "-m", "mpisqueeze", "data", "get", "mnist", "--data-dir", str(tmp_path)]
    part = tmp_path / "mnist" / f"{first.name}.part"

    def run_until(enough: int) -> tuple[int, str]:
        process = subprocess.Popen(
            [*command, "--mirror", server.url], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        give_up = time.monotonic() + 60
        while not (part.exists() and part.stat().st_size > enough):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < give_up
            time.sleep(0.01)
        process.send_signal(number)
        _, error = process.communicate(timeout=60)
        return process.returncode, error

    assert run_until(300_000) == (code, "mpisqueeze: stopped; the same command goes on from here\n")
    have = part.stat().st_size
    assert 300_000 < have < first.size
    assert run_until(have + 300_000)[0] == code
    assert server.requests[1] == (f"/mnist/{first.name}", f"bytes={have}-")


def test_a_bar_is_drawn_in_a_terminal() -> None:
    console = make_console(TerminalChoice(color=True, live=True, width=100))
    console.file = io.StringIO()
    view = DownloadView(console, True)
    view.start(file_of(BYTES, "some-file"), "https://host/some-file", 1000)
    view.advance(24_000)
    assert view._bar is not None
    assert view._bar.tasks[0].completed == 25_000
    view.done("some", Path("folder"), 1, 49_000)
    drawn = console.file.getvalue()
    assert "some-file  50.0 kB from host, the first 1.00 kB of it there" in drawn
    assert "25.0/50.0 kB" in drawn
    assert "some: 49.0 kB downloaded; 1 file in folder, SHA-256 right" in drawn.splitlines()[-1]


# -- under mpirun


def get_on_ranks(url: str, root: str) -> None:
    """On each rank: `data get mnist` from a server that has small files of its names."""
    patch = pytest.MonkeyPatch()
    publish(patch, "mnist", small_mnist(), url)
    assert cli.run(["data", "get", "mnist", "--data-dir", root]) == 0
    assert len(load_dataset("mnist", Path(root), 0).train_labels) == 5


def test_under_mpirun_one_rank_downloads_and_all_wait(
    on_ranks: Callable[..., None], server: FileServer, tmp_path: Path
) -> None:
    offer_all(server, small_mnist(), pause=0.05)
    on_ranks(3, get_on_ranks, server.url, str(tmp_path / "data"))
    assert sorted(path for path, _ in server.requests) == sorted(f"/{name}" for name in small_mnist())


def test_under_mpirun_an_error_is_told_once(mpisqueeze_run: Callable[..., object], tmp_path: Path) -> None:
    run = mpisqueeze_run(2, "data", "get", "mnist", MPISQUEEZE_MIRROR="http://127.0.0.1:1/")
    assert run.code == 4
    assert run.err.count("mpisqueeze: error: mnist: no place gave") == 1
    run = mpisqueeze_run(2, "data", "get", "nothing")
    assert run.code == 2
    assert run.err.count("no data set 'nothing' to download") == 1
