"""Data sets by the name that `--data` gives them."""

from __future__ import annotations

from pathlib import Path

from mpisqueeze.data.cifar10 import CIFAR10
from mpisqueeze.data.dataset import Dataset, DataSource
from mpisqueeze.data.digits import DIGITS
from mpisqueeze.data.idx import FASHION_MNIST, MNIST
from mpisqueeze.data.kept import keeping, once
from mpisqueeze.data.synthetic import SYNTHETIC
from mpisqueeze.data.tables import CSV, LIBSVM
from mpisqueeze.data.text import SYNTHETIC_TEXT, TEXT
from mpisqueeze.errors import UsageError
from mpisqueeze.language import parse_spec, resolve_parameters, suggestion

__all__ = ["DATASETS", "DataSource", "Dataset", "check_data_spec", "keeping", "load_dataset"]

DATASETS: dict[str, DataSource] = {
    source.name: source
    for source in (DIGITS, MNIST, FASHION_MNIST, CIFAR10, SYNTHETIC, CSV, LIBSVM, TEXT, SYNTHETIC_TEXT)
}


def check_data_spec(spec_text: str) -> tuple[DataSource, dict[str, object]]:
    """The source and the parameters that the value of `--data` names, without reading anything. Raises UsageError."""
    try:
        spec = parse_spec(spec_text)
        if spec.name not in DATASETS:
            known = ", ".join(DATASETS)
            raise UsageError(f"no data set {spec.name!r}{suggestion(spec.name, DATASETS)}; known: {known}")
        source = DATASETS[spec.name]
        return source, resolve_parameters(spec, source.parameters)
    except UsageError as error:
        raise UsageError(error.message, "--data") from None


def load_dataset(spec_text: str, data_dir: Path | None, seed: int, shared: bool = False) -> Dataset:
    """The data set that `spec_text`, the value of `--data`, names. Raises UsageError.

    Args:
        data_dir: the value of `--data-dir`; None means $MPISQUEEZE_DATA, else `data` in the current folder.
        seed: the run's; only generated data depend on it.
        shared: nobody writes to its arrays, so that it may be the one that `keeping` has kept.
    """
    source, parameters = check_data_spec(spec_text)

    def load() -> Dataset:
        try:
            return source.load(data_dir, seed, **parameters)
        except UsageError as error:
            raise UsageError(error.message, error.option or "--data") from None

    key = (spec_text, data_dir, seed if source.seeded else None)
    return once("data", None, key, load, lambda found: found.nbytes) if shared else load()
