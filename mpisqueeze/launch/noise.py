"""Removal of what a launcher adds to stderr when its ranks end with an error that they have reported themselves."""

from __future__ import annotations

import json
import re
from typing import Any

from mpisqueeze.comm.launched import MARK
from mpisqueeze.errors import ExitCode

#: The rules around messages: of Open MPI, of its older versions' shorter ones, and of Hydra.
_RULES = (b"-" * 74, b"-" * 55, b"=" * 83)
#: Longer messages are none of those below.
_MOST_LINES = 40
_OURS = "|".join(str(int(code)) for code in ExitCode if code)
#: Messages, between rules, about ranks that ended with one of the program's own exit codes.
_MESSAGES = tuple(
    # Their lines are broken at various places.
    re.compile(text.replace(" ", r"\s+").encode())
    for text in (
        r"\S+ detected that one or more processes exited with non-zero status, thus causing the job to be terminated\."
        rf" The first process to do so was: Process name: \S+ Exit code: (?:{_OURS})",
        r"Primary job terminated normally, but \d+ process(?:es)? returned a non-zero exit code\. Per user-direction, "
        r"the job has been aborted\.",
        rf"MPI_ABORT was invoked on rank \d+ in communicator MPI_COMM_WORLD (?:Proc: \S+ )?(?:with e|E)rrorcode:? "
        rf"(?:{_OURS})\.? NOTE: invoking MPI_ABORT causes Open MPI to kill all MPI processes\. You may or may not see "
        r"output from other processes, depending on exactly when Open MPI kills them\.",
        r"\S+ has exited due to process rank \d+ with PID \d+ on node \S+ calling \"abort\"\. This may have caused "
        r"other processes in the application to be terminated by signals sent by \S+ \(as reported here\)\.",
        r"(?:= )?BAD TERMINATION OF ONE OF YOUR APPLICATION PROCESSES (?:= )?PID \d+ RUNNING AT \S+ (?:= )?EXIT CODE: "
        rf"(?:{_OURS}) (?:= )?CLEANING UP REMAINING PROCESSES (?:= )?YOU CAN IGNORE THE BELOW CLEANUP MESSAGES",
    )
)
#: The same in a line.
_LINES = re.compile(
    rf"Abort\((?:{_OURS})\) on node \d+ .*: application called MPI_Abort\(.*|"
    # Open MPI's server writes to a rank that has ended meanwhile.
    r"\[\S+:\d+\] PMIX ERROR: PMIX_ERR_UNREACH in file \S+/pmix_server\.c at line \d+|"
    rf"srun: error: \S+: tasks? [\d,-]+: Exited with exit code (?:{_OURS})".encode()
)
_FIRST_BYTES = (b"-", b"=", b"Abort(", b"srun: ", b"[")
#: The message in which rank 0 tells `launch` something, and its most bytes.
_TOLD = re.compile(rf"{MARK}(.*?){MARK}\r?\n".encode(), re.DOTALL)
_LONGEST_TOLD = 1 << 14
#: A launcher's words for the loss of a host.
_LOST = re.compile(rb"lost communication with a remote daemon.*Remote daemon: \S+ on node (\S+)", re.DOTALL)
#: A launcher's words for more ranks than it has slots for.
_NO_SLOTS = b"There are not enough slots available"


class Noise:
    """Takes such messages out of a stream; `feed` it, and `flush` at the end.

    Attributes:
        silent: nothing has been shown.
        no_slots: the launcher refused to start so many ranks; its words about that are taken out, too.
        told: what rank 0 has told this program, which is taken out.
        lost: the host that the launcher says it has lost, or None.
    """

    def __init__(self) -> None:
        self.silent = True
        self.no_slots = False
        self.told: dict[str, Any] = {}
        self.lost: str | None = None
        self._untold = b""
        self._rest = b""
        #: A part of the present line has been shown.
        self._begun = False
        self._held: list[bytes] = []

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes of the stream; return those that can be shown by now."""
        data = self._listen(data)
        shown = b""
        if self._begun:
            rest, newline, data = data.partition(b"\n")
            shown, self._begun = rest + newline, not newline
        *lines, self._rest = (self._rest + data).split(b"\n")
        shown += b"".join(self._line(line + b"\n") for line in lines)
        known = any(self._rest.startswith(first[: len(self._rest)]) for first in _FIRST_BYTES)
        if self._rest and not self._held and not known:
            # A part of a line may be a prompt, or a bar that moves.
            shown, self._rest, self._begun = shown + self._rest, b"", True
        self.silent = self.silent and not shown
        return shown

    def flush(self) -> bytes:
        """The rest."""
        shown = b"".join([*self._held, self._rest, self._untold])
        self._held, self._rest, self._untold = [], b"", b""
        self.silent = self.silent and not shown
        return shown

    def _listen(self, data: bytes) -> bytes:
        """Take out what rank 0 tells this program."""
        data = self._untold + data
        for found in _TOLD.finditer(data):
            self.told |= json.loads(found[1])
        data = _TOLD.sub(b"", data)
        at = data.find(MARK[:1].encode())
        at = len(data) if at < 0 or len(data) - at > _LONGEST_TOLD else at
        self._untold = data[at:]
        return data[:at]

    def _line(self, line: bytes) -> bytes:
        is_rule = line.rstrip() in _RULES
        if not self._held:
            if is_rule:
                self._held = [line]
                return b""
            return b"" if _LINES.fullmatch(line.strip()) else line
        self._held.append(line)
        if not is_rule and len(self._held) < _MOST_LINES:
            return b""
        message, held, self._held = b"".join(self._held[1:-1]).strip(), b"".join(self._held), []
        if is_rule and (lost := _LOST.search(message)):
            self.lost = lost[1].decode(errors="replace")
        if is_rule and message.startswith(_NO_SLOTS):
            self.no_slots = True
            return b""
        return b"" if is_rule and any(known.fullmatch(message) for known in _MESSAGES) else held
