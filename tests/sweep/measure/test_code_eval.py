"""Programs of a model pass when they pass, and whatever else they try comes to nothing."""

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
    "an end put off": "try:\n    while True:\n        pass\nfinally:\n    while True:\n        pass",
    "all memory": "x = bytearray(1 << 30)",
    "more and more memory": "x = []\nwhile True:\n    x.append('x' * 1_000_000)",
    "a fork bomb": "import os\nwhile True:\n    os.fork()",
    "a fork from below": "import posix\nposix.fork()",
    "a shell": "import os\nassert os.system('true') == 0",
    "a process": "import subprocess\nsubprocess.run(['true'], check=True)",
    "a process from below": "import _posixsubprocess",
    "files of others": "open('/etc/passwd').read()",
    "a way up": "open('../../../../../../etc/passwd').read()",
    "a link": "import os\nos.symlink('/etc/passwd', 'p')\nopen('p').read()",
    "a listing": "import os\nos.listdir('/')",
    "its parent's memory": "open('/proc/self/mem', 'rb')",
    "a large file": "f = open('big', 'wb')\nwhile True:\n    f.write(b'x' * 65536)\n    f.flush()",
    "many files": "files = [open(str(i), 'w') for i in range(1000)]",
    "removing": "import shutil\nshutil.rmtree('/tmp')",
    "a signal to its parent": "import os\nos.kill(os.getppid(), 9)",
    "putting its end off": "import signal\nsignal.alarm(0)",
    "not hearing of its end": "import signal\nsignal.signal(signal.SIGALRM, signal.SIG_IGN)",
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
def test_what_comes_to_its_end_passes(what: str) -> None:
    assert run_restricted(FINE[what])


@pytest.mark.usefixtures("isolation")
def test_nothing_else_passes_or_leaves_a_trace() -> None:
    before, files = children(), set(os.listdir("/tmp"))
    passed = [what for what, program in FAILING.items() if run_restricted(program, SHORT)]
    assert passed == []
    assert children() == before
    assert {name for name in set(os.listdir("/tmp")) - files if name.startswith("bitsweep-code-")} == set()


def test_processes_that_hide_go_too(tmp_path: Path) -> None:
    """What the hook would not see, such as an extension that forks: here the runner's own hook is left out."""
    if not code_eval._isolated():
        pytest.skip("this system lets a user have no namespaces")
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


def test_a_program_ends_when_nobody_waits_for_it(tmp_path: Path) -> None:
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
    with contextlib.suppress(psutil.NoSuchProcess):  # one that was only there to look the system over
        return process.cmdline()
    return []


def _commands() -> Iterator[list[str]]:
    for process in psutil.process_iter(["cmdline"]):
        yield process.info["cmdline"] or []


def test_pass_at_k_is_the_chance_that_one_of_k_drawn_passes() -> None:
    for n, passed, k in [(5, 2, 1), (5, 2, 3), (6, 0, 2), (4, 4, 2), (5, 3, 4)]:
        tries = [index < passed for index in range(n)]
        draws = [any(draw) for draw in itertools.combinations(tries, k)]
        assert pass_at_k(n, passed, k) == pytest.approx(sum(draws) / len(draws))


def test_scores_are_of_programs_followed_by_their_tests() -> None:
    scores, verdicts = CodeEval().compute(
        references=["assert add(2, 3) == 5", "assert neg(1) == -1"],
        predictions=[["def add(a, b): return a * b"], ["def neg(x): return -x"]],
        k=[1, 10],
    )
    assert scores == {"pass@1": 0.5}
    assert verdicts == {0: [False], 1: [True]}
