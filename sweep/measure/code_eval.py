"""Whether programs that a model wrote pass their tests: the `code_eval` metric of Hugging Face's evaluate, run apart.

lm-eval's tasks call that metric by name and get this one. pass@k is the unbiased estimate of the HumanEval paper
(arXiv 2107.03374). Each program runs in a child process of its own: its own session, no input, no output, an empty
temporary directory, bounds on processor time, memory, files and processes (`restricted`), without network and out of
sight of other processes where the system has namespaces, and killed when its time is over. This keeps accidents and
common malice away from the user; it is not a virtual machine.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

RUNNER = Path(__file__).with_name("restricted.py")
ISOLATE = ("unshare", "--user", "--net", "--pid", "--fork", "--kill-child")  # of util-linux


@dataclass(frozen=True)
class Limits:
    """Of one program. `cpu_seconds` are code_eval's 3; a busy machine may stretch them to `wall_seconds`."""

    cpu_seconds: int = 3
    memory_bytes: int = 1 << 30
    file_bytes: int = 1 << 20
    open_files: int = 32
    wall_seconds: float = 10.0


def run_restricted(program: str, limits: Limits | None = None) -> bool:
    """Whether `program` runs to its end without an exception, within the limits."""
    limits = limits or Limits()
    secret = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="bitsweep-code-") as directory, tempfile.TemporaryFile() as report:
        source = Path(directory) / "program.py"
        source.write_text(program, encoding="utf-8", errors="replace")
        bounds = [str(math.ceil(value)) for value in astuple(limits)]
        process = subprocess.Popen(
            [*_isolated(), sys.executable, "-I", "-S", str(RUNNER), str(source), secret, *bounds],
            stdin=subprocess.DEVNULL,
            stdout=report,  # the runner's verdict; the program's own output goes nowhere
            stderr=subprocess.DEVNULL,
            cwd=directory,
            env={"PATH": os.defpath, "HOME": directory, "TMPDIR": directory, "LC_ALL": "C.UTF-8"},
            start_new_session=True,
        )
        try:
            process.wait(timeout=limits.wall_seconds)
        except subprocess.TimeoutExpired:
            return False
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # what it started, too
            process.wait()
        report.seek(0)
        return report.read(len(secret) + 1) == secret.encode()


@functools.cache
def _isolated() -> tuple[str, ...]:
    """The command that takes network and sight of other processes away, where this system lets a user do so."""
    program = shutil.which(ISOLATE[0])
    if program is None:
        return ()
    command = (program, *ISOLATE[1:])
    tried = subprocess.run(
        [*command, sys.executable, "-I", "-S", "-c", ""], stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    return command if tried.returncode == 0 else ()


def pass_at_k(n: int, passed: int, k: int) -> float:
    """The chance that of k of n tries at least one passes, `passed` of all n having passed."""
    return 1.0 - math.comb(n - passed, k) / math.comb(n, k)


class CodeEval:
    """Stands where lm-eval's tasks expect evaluate's module."""

    def compute(
        self, *, references: Sequence[str], predictions: Sequence[Sequence[str]], k: Sequence[int] = (1, 10, 100)
    ) -> tuple[dict[str, float], dict[int, list[bool]]]:
        """pass@k over problems: `predictions` are tries of each, `references` the tests that follow each try."""
        verdicts = {
            index: [run_restricted(f"{attempt}\n{tests}") for attempt in tries]
            for index, (tests, tries) in enumerate(zip(references, predictions, strict=True))
        }
        scores = {
            f"pass@{n}": sum(pass_at_k(len(tried), sum(tried), n) for tried in verdicts.values()) / len(verdicts)
            for n in k
            if all(len(tried) >= n for tried in verdicts.values())
        }
        return scores, verdicts


@contextmanager
def code_eval_in_place(wanted: bool) -> Iterator[None]:
    """While a task's module is imported, evaluate's `code_eval` is this one; evaluate would fetch it from the hub."""
    if not wanted:
        yield
        return
    import evaluate

    original = evaluate.load

    def load(path: str, *arguments: Any, **options: Any) -> Any:
        return CodeEval() if path == "code_eval" else original(path, *arguments, **options)

    evaluate.load = load
    try:
        yield
    finally:
        evaluate.load = original


def runs_restricted(config: Any) -> bool:
    """Whether a task's metrics run the model's code by `CodeEval`."""
    metrics = [entry["metric"] for entry in config.metric_list or ()]
    functions = [function for function in (config.process_results, *metrics) if callable(function)]
    return any(isinstance(value, CodeEval) for f in functions for value in getattr(f, "__globals__", {}).values())
