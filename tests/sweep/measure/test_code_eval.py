"""A program of a model passes if it runs to its end, and has no effect outside its directory."""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from sweep.measure import code_eval
from sweep.measure.code_eval import CodeEval, Limits, pass_at_k, run_restricted

RUNNER = str(code_eval.RUNNER)
SHORT = Limits(cpu_seconds=1, wall_seconds=1.2, memory_bytes=256 << 20)

FINE = {
    "a function": "def f(x):\n    return x + 1\nassert f(1) == 2",
    "the standard library": "import math, typing, collections, hashlib, heapq, re, random, string, datetime, json\n"
    "assert hashlib.md5(b'').hexdigest().startswith('d41d')",
    "much output": "print('x' * 10_000_000)",
    "a file of its own": "open('mine', 'w').write('x')\nassert open('mine').read() == 'x'",
    "unicode": "assert 'é🙂'.encode('utf-8').decode() == 'é🙂'",
    "recursion": "def f():\n    f()\ntry:\n    f()\nexcept RecursionError:\n    pass",
    "nothing": "",
}
FAILING = {
    "a wrong answer": "assert 1 == 2",
    "no Python": "def f(:",
    "leaving early": "import sys\nsys.exit(0)",
    "leaving earlier": "import os\nos._exit(0)",
    "an endless loop": "while True:\n    pass",
    "sleep": "import time\ntime.sleep(60)",
    "a loop after the limit": "try:\n    while True:\n        pass\nfinally:\n    while True:\n        pass",
    "all memory": "x = bytearray(1 << 30)",
    "more and more memory": "x = []\nwhile True:\n    x.append('x' * 1_000_000)",
    "a fork bomb": "import os\nwhile True:\n    os.fork()",
    "a fork by posix": "import posix\nposix.fork()",
    "a shell": "import os\nassert os.system('true') == 0",
    "a process": "import subprocess\nsubprocess.run(['true'], check=True)",
    "a process by _posixsubprocess": "import _posixsubprocess",
    "other files": "open('/etc/passwd').read()",
    "a relative path": "open('../../../../../../etc/passwd').read()",
    "a link": "import os\nos.symlink('/etc/passwd', 'p')\nopen('p').read()",
    "a listing": "import os\nos.listdir('/')",
    "its parent's memory": "open('/proc/self/mem', 'rb')",
    "a large file": "f = open('big', 'wb')\nwhile True:\n    f.write(b'x' * 65536)\n    f.flush()",
    "many files": "files = [open(str(i), 'w') for i in range(1000)]",
    "removing": "import shutil\nshutil.rmtree('/tmp')",
    "a signal to its parent": "import os\nos.kill(os.getppid(), 9)",
    "removing the alarm": "import signal\nsignal.alarm(0)",
    "ignoring the alarm": "import signal\nsignal.signal(signal.SIGALRM, signal.SIG_IGN)",
    "a connection": "import socket\nsocket.create_connection(('127.0.0.1', 9))",
    "C": "import ctypes\nctypes.string_at(0)",
    "input": "input()",
}


@pytest.fixture(params=["as this system can", "without namespaces"])
def isolation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "without namespaces":
        monkeypatch.setattr(code_eval, "_isolated", lambda: ())


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}


@pytest.mark.parametrize("what", FINE)
def test_a_program_that_runs_to_its_end_passes(what: str) -> None:
    assert run_restricted(FINE[what])


@pytest.mark.usefixtures("isolation")
def test_other_programs_fail_and_leave_no_process_or_file() -> None:
    before, files = children(), set(os.listdir("/tmp"))
    passed = [what for what, program in FAILING.items() if run_restricted(program, SHORT)]
    assert passed == []
    assert children() == before
    assert {name for name in set(os.listdir("/tmp")) - files if name.startswith("bitsweep-code-")} == set()


def test_processes_that_left_the_session_are_killed_too(tmp_path: Path) -> None:
    """The audit hook does not see a fork by an extension module; this test runs without the hook."""
    if not code_eval._isolated():
        pytest.skip("this system does not let a user create namespaces")
    mark = f"hidden-{os.getpid()}"
    program = (
        "import os, sys, time\n"
        "if os.fork() == 0:\n    os.setsid()\n"
        f"    os.execv({sys.executable!r}, [{sys.executable!r}, '-c', 'import time; time.sleep(30)  # {mark}'])\n"
    )
    done = subprocess.run([*code_eval._isolated(), sys.executable, "-c", program], check=False, timeout=20)
    assert done.returncode == 0
    deadline = time.monotonic() + 10
    while any(mark in " ".join(cmd) for cmd in _commands()):
        assert time.monotonic() < deadline, "a hidden process outlived its namespace"
        time.sleep(0.05)


def test_a_program_ends_if_its_parent_was_killed(tmp_path: Path) -> None:
    limits = Limits(wall_seconds=2.0)
    program = (
        "from sweep.measure.code_eval import Limits, run_restricted\n"
        f"run_restricted('import time\\ntime.sleep(60)', {limits!r})"
    )
    parent = subprocess.Popen([sys.executable, "-c", program])
    started = psutil.Process(parent.pid)
    deadline = time.monotonic() + 20
    while not (running := [c for c in started.children(recursive=True) if RUNNER in _command(c)]):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    started.kill()
    parent.wait()
    assert psutil.wait_procs(running, timeout=20)[1] == []


def _command(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.NoSuchProcess):  # the short process that tries out namespaces
        return process.cmdline()
    return []


def _commands() -> Iterator[list[str]]:
    for process in psutil.process_iter(["cmdline"]):
        yield process.info["cmdline"] or []


def test_pass_at_k_is_the_probability_that_one_of_k_drawn_attempts_passes() -> None:
    for n, passed, k in [(5, 2, 1), (5, 2, 3), (6, 0, 2), (4, 4, 2), (5, 3, 4)]:
        tries = [index < passed for index in range(n)]
        draws = [any(draw) for draw in itertools.combinations(tries, k)]
        assert pass_at_k(n, passed, k) == pytest.approx(sum(draws) / len(draws))


def test_a_program_is_scored_by_the_tests_that_follow_it() -> None:
    scores, verdicts = CodeEval().compute(
        references=["assert add(2, 3) == 5", "assert neg(1) == -1"],
        predictions=[["def add(a, b): return a * b"], ["def neg(x): return -x"]],
        k=[1, 10],
    )
    assert scores == {"pass@1": 0.5}
    assert verdicts == {0: [False], 1: [True]}
