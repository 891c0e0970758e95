"""mpisqueeze: does compressed or decentralized SGD pay off on this cluster, which variant, and by how much?"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("mpisqueeze")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"
