"""Runs a program on its own pseudo-terminal and observes the frames that it draws.

Textual marks the beginning and end of each frame with the escape sequences of synchronized output (DEC private mode
2026) if the terminal supports them, and this terminal says that it does.
"""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import termios
import time
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

FRAME_END = b"\x1b[?2026l"
_QUESTION, _ANSWER = b"\x1b[?2026$p", b"\x1b[?2026;2$y"
QUIET = 0.1  # seconds without a frame after which the effect of a key is complete


@dataclass(frozen=True)
class Redraw:
    """Seconds from a key to the end of the first and of the last frame that it caused, and the program's CPU seconds in
    all its threads."""

    first: float
    last: float
    cpu: float


class TimedTerminal:
    """A terminal of `columns` x `lines`. Must be closed, which kills the program."""

    def __init__(self, command: Sequence[str], columns: int = 140, lines: int = 40) -> None:
        self.started = time.perf_counter()
        self.pid, self._ours = pty.fork()
        if self.pid == 0:
            os.environ.update(TERM="xterm-256color", COLUMNS=str(columns), LINES=str(lines))
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
            os.execv(command[0], list(command))
        self._process = psutil.Process(self.pid)
        self.written = b""

    def close(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._ours)

    def read(self, seconds: float) -> bytes:
        """The next output of the program; empty if it writes nothing for `seconds`."""
        if not select.select([self._ours], [], [], seconds)[0]:
            return b""
        found = os.read(self._ours, 1 << 16)
        if _QUESTION in found:
            os.write(self._ours, _ANSWER)
        self.written = (self.written + found)[-1_000_000:]
        return found

    def wait_for(self, words: str, seconds: float = 60.0) -> float:
        """Wait until the program has written `words` since the last key. Returns the seconds since its start."""
        end = time.perf_counter() + seconds
        while words.encode() not in self.written:
            if time.perf_counter() > end:
                raise TimeoutError(f"{words!r} was never written; the last was {self.written[-2000:]!r}")
            self.read(0.05)
        return time.perf_counter() - self.started

    def settle(self, seconds: float) -> None:
        """Read until the program has written nothing for `seconds`, or 10 s have passed."""
        end = time.perf_counter() + 10
        while self.read(seconds) and time.perf_counter() < end:
            pass

    def send(self, key: str) -> None:
        """Send a key without waiting."""
        self.written = b""
        os.write(self._ours, key.encode())

    def press(self, key: str, quiet: float = QUIET) -> Redraw | None:
        """Send a key and measure its redraw; None if nothing was drawn within a second."""
        before = self._cpu()
        started = time.perf_counter()
        self.send(key)
        first = last = None
        while True:
            waited = time.perf_counter() - (started if last is None else last)
            left = (1.0 if last is None else quiet) - waited
            if left <= 0:
                break
            found = self.read(left)
            if FRAME_END in found:
                last = time.perf_counter()
                first = first or last
        if first is None or last is None:
            return None
        return Redraw(first - started, last - started, self._cpu() - before)

    def _cpu(self) -> float:
        spent = self._process.cpu_times()
        return float(spent.user + spent.system)
