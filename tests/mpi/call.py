"""Functions of test files, called on ranks: `call.py FOLDER`, started on every rank.

Rank r takes calls from the pipe FOLDER/calls.r, a line each: the file, the function, its arguments and the folder
to be in. Waiting for one takes no processor. What it prints goes to FOLDER/printed.r, and that it is done to
FOLDER/done. An exception ends all ranks.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

from mpi4py import MPI


def program(folder: str, arguments: list[str]) -> None:
    """The program itself, its output to FOLDER/out.r and FOLDER/err.r, and its exit code to FOLDER/code.r."""
    from mpisqueeze.cli.app import run
    from mpisqueeze.parts import registry

    # A plug-in of this folder may have the name of one before it.
    registry._load_module.cache_clear()
    rank, kept = MPI.COMM_WORLD.rank, (os.dup(1), os.dup(2))
    for number, name in ((1, "out"), (2, "err")):
        file = os.open(f"{folder}/{name}.{rank}", os.O_WRONLY | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)
    try:
        code = run(arguments)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, before in zip((1, 2), kept, strict=True):
            os.dup2(before, number)
            os.close(before)
    Path(folder, f"code.{rank}").write_text(str(code))


def call(file: str, function: str, arguments: list[Any]) -> None:
    spec = importlib.util.spec_from_file_location("called", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["called"] = module
    spec.loader.exec_module(module)
    getattr(module, function)(*arguments)


def main() -> None:
    folder, rank = Path(sys.argv[1]), MPI.COMM_WORLD.rank
    printed = os.open(folder / f"printed.{rank}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    with open(folder / f"calls.{rank}") as calls, open(folder / "done", "w") as done:
        for line in calls:
            file, function, arguments, here = json.loads(line)
            os.chdir(here)
            if str(Path(file).parent) not in sys.path:
                sys.path.insert(0, str(Path(file).parent))
            try:
                call(file, function, arguments)
            except BaseException:
                print(f"rank {rank}:\n{traceback.format_exc()}", file=sys.stderr, flush=True)
                MPI.COMM_WORLD.Abort(1)
            sys.stdout.flush()
            gc.collect()  # of this call, so that the next finds the memory as a new process does
            done.write(f"{rank}\n")
            done.flush()


if __name__ == "__main__":
    main()
