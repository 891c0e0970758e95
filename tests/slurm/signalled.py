"""Start a run by a launcher, send a signal within an iteration, and tell how it ended.

    python signalled.py mpirun|launch|srun|launch-srun|scancel SIGNAL[+SIGNAL] FOLDER RESULT

A second signal comes after half a second, in which the launcher must not have ended. `scancel` sends the signal to
srun's step by that command, the others to the launcher. RESULT is a JSON file: the exit code, the seconds from the
signal to the end, the summary's status, and the iterations that a resumed run has to repeat.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from mpisqueeze.record.checkpoint import complete_early

HERE = Path(__file__).parent
STARTS = {
    "mpirun": ["mpirun", "-n", "2", "mpisqueeze"],
    "launch": ["mpisqueeze", "launch", "-n", "2"],
    "srun": ["srun", "--mpi=pmix", "-n", "2", "mpisqueeze"],
    "scancel": ["srun", "--mpi=pmix", "-n", "2", "mpisqueeze"],
    "launch-srun": ["mpisqueeze", "launch", "--launcher", "srun", "-n", "2"],
}


def main() -> None:
    how, name, folder, result = sys.argv[1:]
    first, *others = (getattr(signal, each) for each in name.split("+"))
    # A shell's `&` and batch systems have some ignored, which programs inherit.
    for each in (signal.SIGINT, signal.SIGHUP):
        signal.signal(each, signal.SIG_DFL)
    run = Path(folder)
    options = ["--problem", f"{HERE / 'slow_gradient.py'}:Slow", "--iterations", "60", "--checkpoint-every", "10min"]
    process = subprocess.Popen(
        [*STARTS[how], "train", *options, "--out", str(run)], stdin=subprocess.DEVNULL, start_new_session=True
    )
    log = run / "iterations.jsonl"
    while not (log.exists() and log.read_text().count("\n") >= 2):
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(0.3)
    began = time.monotonic()
    if how == "scancel":
        # The step is the job's last.
        said = subprocess.run(
            ["squeue", "--steps", "-h", "-j", os.environ["SLURM_JOB_ID"], "-o", "%i"], capture_output=True, text=True
        )
        step = [line for line in said.stdout.split() if line.rpartition(".")[2].isdigit()][-1]
        subprocess.run(["scancel", "--signal", name.removeprefix("SIG"), step], check=True)
    else:
        process.send_signal(first)
    for other in others:
        time.sleep(0.5)
        assert process.poll() is None
        process.send_signal(other)
    code = process.wait()
    took = time.monotonic() - began
    # Of ranks that were killed, files may still be on their way.
    time.sleep(0.5)
    complete_early(run)
    done = log.read_text().count("\n")
    saved = max((int(path.parent.name) for path in run.glob("checkpoint/*[0-9]/manifest.json")), default=0)
    summary = run / "summary.json"
    found = {
        "code": code,
        "took_s": round(took, 1),
        "status": json.loads(summary.read_text())["status"] if summary.exists() else None,
        "iterations": done,
        "lost": done - saved,
    }
    Path(result).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
