"""Tests programs that a model wrote: a restricted version of the `code_eval` metric of Hugging Face's evaluate.

lm-eval's tasks load that metric by its name and get this version. pass@k is the unbiased estimate of the HumanEval
paper (arXiv 2107.03374). Each program runs in a child process with these restrictions:

- its own session, no input, no output, and an empty temporary directory;
- limits on processor time, memory, files and processes (`restricted`);
- no network and no view of other processes, if the system allows a user to create namespaces;
- it is killed at the time limit.

This protects the user from accidents and common malicious code. It is not as strong as a virtual machine.
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
ISOLATE = ("unshare", "--user", "--net", "--pid", "--fork", "--kill-child")  # unshare is part of util-linux


@dataclass(frozen=True)
class Limits:
    """Limits of one program. `cpu_seconds` has code_eval's default of 3; on a busy machine the program has up to
    `wall_seconds` of real time to use them."""

    cpu_seconds: int = 3
    memory_bytes: int = 1 << 30
    file_bytes: int = 1 << 20
    open_files: int = 32
    wall_seconds: float = 10.0


def run_restricted(program: str, limits: Limits | None = None) -> bool:
    """Whether `program` (Python source) runs to its end within the limits and without an exception."""
    limits = limits or Limits()
    secret = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="bitsweep-code-") as directory, tempfile.TemporaryFile() as report:
        source = Path(directory) / "program.py"
        source.write_text(program, encoding="utf-8", errors="replace")
        bounds = [str(math.ceil(value)) for value in astuple(limits)]
        process = subprocess.Popen(
            [*_isolated(), sys.executable, "-I", "-S", str(RUNNER), str(source), secret, *bounds],
            stdin=subprocess.DEVNULL,
            stdout=report,  # only the runner writes its verdict there; the program's output is discarded
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
                os.killpg(process.pid, signal.SIGKILL)  # includes the processes that it started
            process.wait()
        report.seek(0)
        return report.read(len(secret) + 1) == secret.encode()


@functools.cache
def _isolated() -> tuple[str, ...]:
    """The command that removes the network and the view of other processes; empty if a user may not do so here."""
    program = shutil.which(ISOLATE[0])
    if program is None:
        return ()
    command = (program, *ISOLATE[1:])
    trial = subprocess.run(
        [*command, sys.executable, "-I", "-S", "-c", ""], stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    return command if trial.returncode == 0 else ()


def pass_at_k(n: int, passed: int, k: int) -> float:
    """The probability that at least one of k attempts passes, if k are drawn from n attempts of which `passed` pass."""
    return 1.0 - math.comb(n - passed, k) / math.comb(n, k)


class CodeEval:
    """Replaces evaluate's module in lm-eval's tasks."""

    def compute(
        self, *, references: Sequence[str], predictions: Sequence[Sequence[str]], k: Sequence[int] = (1, 10, 100)
    ) -> tuple[dict[str, float], dict[int, list[bool]]]:
        """pass@k over all problems, and for each problem whether each attempt passed.

        `predictions` holds the attempts at each problem, `references` the tests that are appended to every attempt.
        """
        verdicts = {
            index: [run_restricted(f"{attempt}\n{tests}") for attempt in attempts]
            for index, (tests, attempts) in enumerate(zip(references, predictions, strict=True))
        }
        scores = {
            f"pass@{n}": sum(pass_at_k(len(passed), sum(passed), n) for passed in verdicts.values()) / len(verdicts)
            for n in k
            if all(len(passed) >= n for passed in verdicts.values())
        }
        return scores, verdicts


@contextmanager
def replaced_code_eval(enabled: bool) -> Iterator[None]:
    """Within this context `evaluate.load("code_eval")` gives CodeEval; evaluate would download its own from the hub.

    A task's module loads the metric while it is imported. If not `enabled`, nothing is replaced.
    """
    if not enabled:
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
    """Whether the metrics of a task, given by its lm-eval `config`, run the model's code through `CodeEval`."""
    metrics = [entry["metric"] for entry in config.metric_list or ()]
    functions = [function for function in (config.process_results, *metrics) if callable(function)]
    return any(isinstance(value, CodeEval) for f in functions for value in getattr(f, "__globals__", {}).values())
