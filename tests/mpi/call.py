"""Call a function of a test file on this rank: `call.py FILE FUNCTION JSON-ARGUMENTS`, started on every rank."""

from __future__ import annotations

import importlib.util
import json
import sys
import traceback
from pathlib import Path

from mpi4py import MPI


def main() -> None:
    file, function, arguments = sys.argv[1:]
    sys.path.insert(0, str(Path(file).parent))
    spec = importlib.util.spec_from_file_location("called", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["called"] = module
    try:
        spec.loader.exec_module(module)
        getattr(module, function)(*json.loads(arguments))
    except BaseException:
        print(f"rank {MPI.COMM_WORLD.rank}:\n{traceback.format_exc()}", file=sys.stderr, flush=True)
        MPI.COMM_WORLD.Abort(1)


if __name__ == "__main__":
    main()
