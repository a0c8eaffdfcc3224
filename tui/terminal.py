"""Checks that the terminal can show the screen, and leaves the terminal as it was, however the program ends."""

from __future__ import annotations

import asyncio
import codecs
import os
import select
import signal
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from converters.errors import InputError

INSTEAD = "these commands need none: `sweep fit`, `sweep run`, `sweep report`"


def require_terminal() -> None:
    """Raise InputError if there is no terminal or only a dumb one; the message names the commands to use instead."""
    for number, name in enumerate(("input", "output", "error")):  # the screen is drawn on standard error
        if not os.isatty(number):
            raise InputError(f"the screen needs a terminal, but standard {name} is a pipe, a file or closed; {INSTEAD}")
    kind = os.environ.get("TERM", "")
    if kind in ("", "dumb", "unknown"):
        raise InputError(
            f"the screen needs a terminal that can move its cursor, but TERM is {kind or 'not set'!r}; {INSTEAD}"
        )
    encoding = codecs.lookup(sys.__stderr__.encoding).name if sys.__stderr__ is not None else "utf-8"
    if encoding != "utf-8":
        raise InputError(
            f"the screen needs a terminal with UTF-8, but the encoding is {encoding}; set LC_ALL=C.UTF-8 and unset "
            f"PYTHONIOENCODING; {INSTEAD}"
        )


# What Textual switches on, off again: bracketed paste, mouse, focus events, resize events, synchronized output, the
# keyboard protocol; line wrap, main screen, cursor and plain text on again. The keyboard protocol belongs to the
# alternate screen, so it comes before the main screen.
_RESTORE = (
    "\x1b[?2026l\x1b[?2004l\x1b[?1000l\x1b[?1003l\x1b[?1015l\x1b[?1006l\x1b[?1016l\x1b[?1004l\x1b[?2048l\x1b[?7h\x1b[<u"
    "\x1b[?1049l\x1b[?25h\x1b[0m"
)
# Signals that do not end a process, cannot be caught, or report a fault in native code, to which a handler would return
_OTHER_SIGNALS = {
    signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU,
    signal.SIGKILL, signal.SIGSTOP, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL,
}  # fmt: skip
_WRITABLE_WITHIN = 1.0  # seconds: output of the terminal may be stopped, and the process must end nevertheless


@contextmanager
def restored_terminal() -> Iterator[None]:
    """Leave the terminal as it was if a signal ends this process, or an exception.

    Textual restores the terminal when it is quit. A signal is handled here: the terminal is restored without the event
    loop, which may be busy, and the process ends by that signal. This includes the end of the terminal itself
    (SIGHUP), even under nohup, because Textual would read forever.
    """
    terminal = _Terminal()
    handlers = {number: signal.getsignal(number) for number in _fatal_signals()}
    for number in handlers:
        signal.signal(number, terminal.end)
    try:
        yield
    finally:
        if terminal.is_changed:  # an exception, perhaps in Textual's own code that restores it
            terminal.restore()
        for number, handler in handlers.items():
            signal.signal(number, handler)
        terminal.close()


def _fatal_signals() -> list[int]:
    """The signals that end this process, and SIGHUP."""
    usual = (signal.SIG_DFL, signal.default_int_handler)
    return [
        number
        for number in signal.valid_signals() - _OTHER_SIGNALS
        if number == signal.SIGHUP or signal.getsignal(number) in usual
    ]


class _Terminal:
    """The terminal that the screen is drawn on, by file descriptors of its own."""

    def __init__(self) -> None:
        self._output = os.dup(2)
        self._nowhere = os.open(os.devnull, os.O_WRONLY)
        self._modes = termios.tcgetattr(0)

    @property
    def is_changed(self) -> bool:
        """Whether it has other modes than at the start."""
        try:
            return bool(termios.tcgetattr(0) != self._modes)
        except termios.error:  # it was closed
            return False

    def restore(self) -> None:
        """Restore the terminal. What other threads draw in the meantime goes nowhere."""
        self._restore()
        os.dup2(self._output, 2)

    def end(self, number: int, _frame: object) -> None:
        """Restore the terminal and end by this signal."""
        self._restore()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    def _restore(self) -> None:
        os.dup2(self._nowhere, 2)
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # a background process would be stopped
        with suppress(OSError, termios.error):  # the terminal may have been closed
            if not select.select([], [self._output], [], _WRITABLE_WITHIN)[1]:
                return
            os.write(self._output, _RESTORE.encode())
            if os.tcgetpgrp(0) == os.getpgrp():  # otherwise the shell has set modes of its own
                termios.tcsetattr(0, termios.TCSANOW, self._modes)

    def close(self) -> None:
        os.close(self._output)
        os.close(self._nowhere)


def after_stop(
    leave: Callable[[], object], restart: Callable[[], object], redraw: Callable[[], object]
) -> Callable[[], None]:
    """In the running event loop, call `restart` when the process continues after SIGSTOP, and `redraw` after SIGTSTP.

    Returns a function that stops the whole job of the shell, as Ctrl-Z does: it calls `leave`, which gives the terminal
    back, before any process of the job stops, because the shell takes the terminal when the first one does.

    Textual itself handles SIGTSTP: it restarts the screen, but does not draw what has not changed. Its handler of
    SIGCONT would start the screen a second time after SIGSTOP, and then take the modes of the screen for those that the
    terminal had before.
    """
    suspend, resume = signal.getsignal(signal.SIGTSTP), signal.getsignal(signal.SIGCONT)
    assert callable(suspend)
    assert callable(resume)
    suspended = False

    def stopped() -> None:
        nonlocal suspended
        suspended = True
        suspend(signal.SIGTSTP, None)

    def stop_job() -> None:
        nonlocal suspended
        suspended = True
        leave()
        os.kill(0, signal.SIGSTOP)

    def continued() -> None:
        nonlocal suspended
        if suspended:
            suspended = False
            resume(signal.SIGCONT, None)
            redraw()
        else:
            restart()

    loop = asyncio.get_running_loop()  # it handles one after the other: none interrupts a restart that has begun
    loop.add_signal_handler(signal.SIGTSTP, stopped)
    loop.add_signal_handler(signal.SIGCONT, continued)
    return stop_job
