"""mpisqueeze: does compressed or decentralized SGD pay off on this cluster, which variant, and by how much?"""


def __getattr__(name: str) -> str:
    """Find `__version__` on demand: importlib.metadata loads slowly, and Ctrl-C meanwhile would show a traceback."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version

    try:
        found = version("mpisqueeze")
    except PackageNotFoundError:  # run from a source tree that was never installed
        found = "0+unknown"
    globals()[name] = found
    return found
