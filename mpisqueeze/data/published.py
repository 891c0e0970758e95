"""The data sets that `data get` can download: addresses, lengths and SHA-256 of their files.

The sums are those under which these files have been passed on for years; where their makers publish MD5 sums only, they
belong to the same bytes. Whatever a server sends is compared with them, so that no mirror needs to be trusted.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class File:
    """A file that never changes: its name, length in bytes and SHA-256."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Published:
    """A data set as its makers publish it.

    Attributes:
        name: the name for `--data`, and of its folder below the data folder.
        mirrors: addresses that end with /, below which its files are; in order of preference.
        archive: a .tar.gz that is downloaded in their place, with the files in `archive_folder`.
    """

    name: str
    summary: str
    page: str
    mirrors: tuple[str, ...]
    files: tuple[File, ...]
    archive: File | None = None
    archive_folder: str = ""

    @property
    def downloads(self) -> tuple[File, ...]:
        """The files that travel."""
        return (self.archive,) if self.archive else self.files


class DownloadError(Exception):
    """A data set could not be had; the message is one line for the user."""


class DownloadWatcher:
    """Receives the progress of a download; this one ignores it."""

    def start(self, file: File, url: str, have: int) -> None:
        """Bytes are about to arrive, after the `have` that are there."""

    def advance(self, count: int) -> None:
        """So many more bytes have arrived."""

    def note(self, text: str) -> None:
        """The user should know this and need not act upon it."""


def _files(table: str) -> tuple[File, ...]:
    """The files of a table: a name, a length and a SHA-256 in each line."""
    return tuple(File(name, int(size), digest) for name, size, digest in map(str.split, table.strip().splitlines()))


_MNIST = Published(
    "mnist",
    "70 000 handwritten digits, 28×28",
    "http://yann.lecun.com/exdb/mnist/",
    ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"),
    _files("""
        train-images-idx3-ubyte.gz 9912422 440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609
        train-labels-idx1-ubyte.gz 28881 3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c
        t10k-images-idx3-ubyte.gz 1648877 8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6
        t10k-labels-idx1-ubyte.gz 4542 f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6
    """),
)
_FASHION_MNIST = Published(
    "fashion-mnist",
    "70 000 pictures of clothes, 28×28",
    "https://github.com/zalandoresearch/fashion-mnist",
    (
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    ),
    _files("""
        train-images-idx3-ubyte.gz 26421880 3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84
        train-labels-idx1-ubyte.gz 29515 a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845
        t10k-images-idx3-ubyte.gz 4422102 346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073
        t10k-labels-idx1-ubyte.gz 5148 67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5
    """),
)
_CIFAR10 = Published(
    "cifar10",
    "60 000 photographs, 32×32×3, binary version",
    "https://www.cs.toronto.edu/~kriz/cifar.html",
    (
        "https://www.cs.toronto.edu/~kriz/",
        "https://mindspore-website.obs.cn-north-4.myhuaweicloud.com/notebook/datasets/",
        "https://storage.googleapis.com/s4tf-hosted-binaries/datasets/CIFAR10/",
    ),
    _files("""
        data_batch_1.bin 30730000 cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5
        data_batch_2.bin 30730000 a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed
        data_batch_3.bin 30730000 bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67
        data_batch_4.bin 30730000 014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48
        data_batch_5.bin 30730000 755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add
        test_batch.bin 30730000 8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b
    """),
    _files("cifar-10-binary.tar.gz 170052171 c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd")[0],
    "cifar-10-batches-bin",
)

PUBLISHED: dict[str, Published] = {source.name: source for source in (_MNIST, _FASHION_MNIST, _CIFAR10)}
