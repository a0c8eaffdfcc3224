"""The program in a real pseudo-terminal: keys go in, drawn characters come out."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import shlex
import shutil
import signal
import struct
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from driving import COMMAND, PATIENCE, ROOT
from traps import imported, lay_traps

from sweep.own_code import SAFE_PYTHON
from sweep.results.history import past_runs
from sweep.workspace import Workspace
from tui.state.draft import OPTIONS
from tui.widgets.form import FIELDS

PACE = 0.15  # seconds with nothing drawn before the next key is typed
# Control sequences. Those that move the cursor separate words that are not next to each other.
SEQUENCES = re.compile(r"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b\[[0-?]*[ -/]*[@-~]|\x1b[PX^_].*?\x1b\\|\x1b.", re.S)


class Terminal:
    """A process on a terminal of 120 x 36."""

    def __init__(self, *command: str, directory: Path = ROOT) -> None:
        self.pid, self._ours = pty.fork()
        if self.pid == 0:
            os.chdir(directory)
            os.environ.update(TERM="xterm-256color", COLORTERM="truecolor", PYTHONPATH=str(ROOT))
            os.environ.pop("NO_COLOR", None)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
            for number in (signal.SIGINT, signal.SIGQUIT):  # ignored if a script started the tests in the background
                signal.signal(number, signal.SIG_DFL)
            os.execv(command[0], command)
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", 36, 120, 0, 0))
        os.kill(self.pid, signal.SIGWINCH)
        self._drawn = ""
        self.written = ""  # everything since the start, with the control sequences
        self._modes = termios.tcgetattr(self._ours)

    def press(self, keys: str) -> None:
        """Type one key after the other as a user does, and forget what was drawn before."""
        self._drawn = ""
        for key in keys:
            os.write(self._ours, key.encode())
            while select.select([self._ours], [], [], PACE)[0]:
                self._read()

    def forget(self) -> None:
        """Read what the stopped process has drawn, and forget it."""
        while select.select([self._ours], [], [], 0.2)[0] and self._read():
            continue
        self._drawn = ""

    def expect(self, words: str) -> None:
        """Wait until the words are drawn."""
        end = time.monotonic() + PATIENCE
        while words not in self._plain:
            assert time.monotonic() < end, f"{words!r} was not drawn, but: {self._plain[-3000:]}"
            if select.select([self._ours], [], [], 0.2)[0]:
                self._read()

    def ended(self) -> int:
        """Wait for the end and return the exit code."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            found, status = os.waitpid(self.pid, os.WNOHANG)
            if found:
                return os.waitstatus_to_exitcode(status)
            if select.select([self._ours], [], [], 0.1)[0]:
                self._read()
        raise AssertionError(f"the program did not end; its threads wait in {waiting(self.pid)}")

    def close(self) -> None:
        """Close the terminal, as closing its window does."""
        if self._ours >= 0:
            os.close(self._ours)
            self._ours = -1

    def check_restored(self) -> None:
        """Everything that was switched on is off again, in the right order, and the terminal has its modes again."""
        while select.select([self._ours], [], [], 0.2)[0] and self._read():
            continue
        assert "\x1b[?1049h" in self.written
        last = dict(re.findall(r"\x1b\[\?(\d+)([hl])", self.written))
        on = {mode for mode, state in last.items() if state == "h"}
        assert on == {"7", "25"}, on  # lines wrap, and the cursor is shown
        assert self.written.count("\x1b[<u") >= self.written.count("\x1b[>") > 0
        assert self.written.rindex("\x1b[<u") < self.written.rindex("\x1b[?1049l")
        assert termios.tcgetattr(self._ours) == self._modes

    @property
    def _plain(self) -> str:
        return SEQUENCES.sub("", self._drawn)

    def _read(self) -> bool:
        """Read what was drawn; False if no process has the terminal open."""
        try:
            drawn = os.read(self._ours, 1 << 16).decode(errors="replace")
        except OSError:  # what Linux reports then
            time.sleep(0.05)
            return False
        self._drawn += drawn
        self.written += drawn
        return True


def waiting(pid: int) -> list[str]:
    """What each thread of a process does in the kernel."""
    found = []
    for task in sorted(Path(f"/proc/{pid}/task").glob("*")):
        state, pending = re.findall(r"^(?:State|SigPnd):\s*(.*)$", (task / "status").read_text(), re.MULTILINE)
        found.append(f"{task.name}: {state}, {(task / 'wchan').read_text()}, pending {pending}")
    return found


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    (tmp_path / "w").mkdir()
    return Workspace(tmp_path / "w")


@pytest.fixture
def terminal(workspace: Workspace) -> Iterator[Terminal]:
    found = Terminal(*COMMAND, "tui", "--workspace", str(workspace.root))
    yield found
    found.close()


def fatal(*always: str) -> list[object]:
    """The signals that end a process and that can be caught; tests of others than `always` are for releases."""
    names = "HUP INT QUIT ABRT USR1 USR2 ALRM TERM VTALRM PROF XCPU".split()
    return [pytest.param(f"SIG{name}", marks=() if name in always else pytest.mark.release) for name in names]


@pytest.mark.parametrize("name", fatal("TERM", "HUP"))
def test_a_signal_leaves_the_terminal_as_it_was_and_ends_the_screen(terminal: Terminal, name: str) -> None:
    terminal.expect("Fit")
    os.kill(terminal.pid, signal.Signals[name])
    assert terminal.ended() == -signal.Signals[name]
    terminal.check_restored()


def test_a_screen_that_was_stopped_is_drawn_again_and_ends_as_usual(terminal: Terminal) -> None:
    """By SIGSTOP, which cannot be caught, by SIGTSTP and by Ctrl-Z. In the meantime the shell has used the terminal."""
    terminal.expect("Fit")
    for stop in (signal.SIGSTOP, signal.SIGTSTP, "\x1a"):
        terminal.press(stop if isinstance(stop, str) else "")
        if not isinstance(stop, str):
            os.kill(terminal.pid, stop)
        assert os.WIFSTOPPED(os.waitpid(terminal.pid, os.WUNTRACED)[1])
        terminal.forget()
        if stop is not signal.SIGSTOP:
            terminal.check_restored()
        os.kill(terminal.pid, signal.SIGCONT)
        terminal.expect("Fit")
    terminal.press("q")
    assert terminal.ended() == 0
    terminal.check_restored()


def test_a_terminal_without_a_known_clipboard_shows_the_command_for_selection(terminal: Terminal) -> None:
    """On the main screen, without the mouse, so that the terminal itself selects and copies it."""
    terminal.expect("Run this")
    terminal.press("y")
    terminal.expect("Select and copy it")
    terminal.expect("Press enter")
    assert "llama-server -m " in terminal.written.rsplit("\x1b[?1049l", 1)[1]
    assert "Copied" not in terminal.written
    terminal.check_restored()
    terminal.press("\r")
    terminal.expect("Fit")
    terminal.press("q")
    assert terminal.ended() == 0
    terminal.check_restored()


@pytest.mark.release
def test_ctrl_z_gives_the_terminal_to_the_shell_and_fg_comes_back(workspace: Workspace) -> None:
    """Also in a window with a field that takes letters, and if a program that is not a shell started the screen."""
    shell = Terminal(shutil.which("bash") or "/bin/bash", "--norc", "-i")
    try:
        started = shlex.join(["env", "sh", "-c", f"{shlex.join(COMMAND)} tui --workspace {workspace.root}; true"])
        shell.press(f"{started}\r")
        shell.expect("Fit")
        shell.press("m")
        shell.expect("A Qwen3 of 5 million")
        shell.press("\x1a")
        shell.expect("Stopped")
        shell.press("echo usable-$((40 + 2))\r")
        shell.expect("usable-42")
        shell.press("fg\r")
        shell.expect("A Qwen3 of 5 million")
        shell.press("\x1b")
        shell.press("q")
        shell.expect("bash-")  # the prompt
        shell.press("echo after-$((40 + 2))\r")
        shell.expect("after-42")
    finally:
        shell.close()


@pytest.mark.parametrize("where", ["in_the_event_loop", "in_a_worker_thread", "while_the_terminal_is_restored"])
def test_an_exception_leaves_the_terminal_as_it_was(workspace: Workspace, where: str) -> None:
    terminal = Terminal(sys.executable, str(Path(__file__).parent / "broken_screen.py"), str(workspace.root), where)
    try:
        assert terminal.ended() == 1
        terminal.check_restored()
        assert "broken" in terminal.written
    finally:
        terminal.close()


def plan(terminal: Terminal, text: Path) -> None:
    """From the first screen to a plan of two variants with one task and a short text."""
    terminal.expect("Fit")
    terminal.press("m")
    terminal.expect("A Qwen3 of 5 million")
    terminal.press("micro\r")
    terminal.expect("fits")
    terminal.press("2")
    terminal.expect("sweep run micro")
    # After a key that moves the focus, wait for its effect: on a busy machine the next key may be read before.
    terminal.press("u/")
    terminal.expect("filter by name")
    terminal.press("q4_k_m\r ")
    terminal.expect("=Q4_K_M")
    terminal.press("\x1b")
    terminal.expect("Q8_0")
    typed = {"tasks": "micro_form", "limit": "4", "perplexity": str(text)}
    key = "e"
    for name in [field.name for field in FIELDS]:
        terminal.press(key)
        terminal.expect(f"{OPTIONS[name].name}  ")  # the hint of the field
        terminal.press(typed.pop(name, ""))
        if not typed:
            break
        key = "\t"
    terminal.expect("8 of 8 jobs to do")
    terminal.press("\x1b")
    terminal.expect("Presets")  # a key of the table, which has the focus again


@pytest.mark.slow
def test_the_screen_in_a_directory_with_python_files_runs_none_of_them(workspace: Workspace, tmp_path: Path) -> None:
    """It opens, looks at the model of that directory in a process of its own, and quits."""
    directory = Path(shutil.copytree(ROOT / "presets/micro/model", tmp_path / "repository"))
    lay_traps(directory)
    terminal = Terminal(*SAFE_PYTHON, *COMMAND[1:], "tui", "--workspace", str(workspace.root), directory=directory)
    try:
        terminal.expect("Fit")
        terminal.press("m")
        terminal.expect("A Qwen3 of 5 million")
        terminal.press(".\r")
        terminal.expect("fits")
        terminal.press("2")
        terminal.expect("jobs to do")
        terminal.press("q")
        assert terminal.ended() == 0
    finally:
        terminal.close()
    assert imported(directory) == ""


@pytest.mark.slow
def test_the_screen_ends_with_its_terminal(terminal: Terminal) -> None:
    terminal.expect("Fit")
    terminal.close()
    assert os.waitstatus_to_exitcode(os.waitpid(terminal.pid, 0)[1]) == -signal.SIGHUP


@pytest.mark.slow
def test_a_user_gets_from_the_first_screen_to_a_result(terminal: Terminal, workspace: Workspace, text: Path) -> None:
    plan(terminal, text)
    terminal.press("R")
    terminal.expect("enter start")
    terminal.press("\r")
    terminal.expect("running")
    terminal.expect("✓ done")
    terminal.press("4")
    terminal.expect("Run ")
    terminal.expect("KL divergence")
    terminal.press("q")
    assert terminal.ended() == 0
    (run,) = past_runs(workspace)
    assert (run.done, run.failed) == (8, 0)
    assert run.plan.variants == ("BF16", "Q4_K_M")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
def test_killing_the_screen_does_not_stop_the_sweep(
    terminal: Terminal, workspace: Workspace, text: Path, name: str
) -> None:
    plan(terminal, text)
    terminal.press("R")
    terminal.expect("enter start")
    terminal.press("\r")
    terminal.expect("running")
    os.kill(terminal.pid, signal.Signals[name])
    assert terminal.ended() == -signal.Signals[name]
    end = time.monotonic() + PATIENCE
    while past_runs(workspace)[0].done < 8:
        assert time.monotonic() < end, "the sweep went with its screen"
        time.sleep(0.2)
    assert past_runs(workspace)[0].failed == 0
