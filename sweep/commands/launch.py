"""Starts a sweep as a separate process, which continues when this process ends, and stores the command of each run.

The process is the same `sweep run` that a person types. Its JSON lines go to a file until the run's event log exists.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from converters.atomic import write_text
from converters.errors import InputError
from converters.shell import join
from sweep.own_code import SAFE_PYTHON, child_environment
from sweep.workspace import Workspace

_PROGRAM = (*SAFE_PYTHON, "-c", "from sweep.cli import main; main()")
_FILE = "command.json"


@dataclass(frozen=True)
class Command:
    """The arguments after `sweep`, and the directory that relative paths in them refer to."""

    arguments: tuple[str, ...]
    directory: str

    @property
    def line(self) -> str:
        """The command as a person types it."""
        return join(["sweep", *self.arguments])


def remember_command(directory: Path, arguments: Sequence[str]) -> None:
    """Store the command of a run in its folder, so that another process can start the run again."""
    directory.mkdir(parents=True, exist_ok=True)
    write_text(directory / _FILE, json.dumps(asdict(Command(tuple(arguments), os.getcwd()))))


def remembered_command(directory: Path) -> Command:
    """The command of the run in this folder. Raises InputError if it is not stored."""
    try:
        row = json.loads((directory / _FILE).read_text(encoding="utf-8"))
        return Command(tuple(row["arguments"]), row["directory"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{directory.name}: the command of this run is not stored; give the same `sweep run` again to resume it"
        ) from error


class Launch:
    """A `sweep run` in a session of its own, which does not need this process."""

    def __init__(self, command: Command, workspace: Workspace) -> None:
        folder = workspace.root / "launches"
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(".log", dir=folder)
        self.command = command
        self._output = Path(name)
        arguments = _with_json(command.arguments, workspace)
        with os.fdopen(handle, "wb") as output:
            self._process = subprocess.Popen(
                [*_PROGRAM, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=child_environment(),
                cwd=command.directory,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def run(self) -> str | None:
        """The id of the run; None until it is known. Raises InputError with the process's message if it ended
        before."""
        ended = self._process.poll() is not None
        lines = self._output.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        whole = [line for line in lines if line.endswith("\n")]
        for row in (json.loads(line) for line in whole if line.startswith("{")):
            if row["event"] in ("started", "finished"):
                self._output.unlink(missing_ok=True)  # the run's event log takes over; the process keeps its handle
                return str(row["run"])
        if not ended:
            return None
        messages = [line.strip() for line in whole if line.strip() and not line.startswith("{")]
        self._output.unlink(missing_ok=True)
        if messages:
            raise InputError(messages[-1].removeprefix("sweep: "))
        raise InputError(f"the sweep ended with exit code {self._process.poll()}")


def _with_json(arguments: Sequence[str], workspace: Workspace) -> list[str]:
    """The arguments with this workspace and JSON output. If an option is given twice, the last one applies."""
    ours = ["--workspace", str(workspace.root), "--format", "json"]
    return [*arguments] if list(arguments[-len(ours) :]) == ours else [*arguments, *ours]


class CommandCancelled(Exception):
    """A command was cancelled before it ended."""


def _never() -> bool:
    return False


def planned(command: Command, workspace: Workspace, is_cancelled: Callable[[], bool] = _never) -> dict[str, Any]:
    """What the command would do: the plan of its --dry-run. Raises InputError with the process's message."""
    arguments = [*_with_json(command.arguments, workspace), "--dry-run"]
    return next(row for row in run_command(arguments, command.directory, is_cancelled) if row.get("event") == "plan")


def run_command(
    arguments: Sequence[str], directory: str | None = None, is_cancelled: Callable[[], bool] = _never
) -> list[dict[str, Any]]:
    """Run `sweep` with these arguments. Returns its JSON lines; raises InputError with its message if there are none.

    The command runs in a process of its own, because an unknown model can make llama.cpp end the process that reads it.
    `is_cancelled` is called ten times per second: when it returns True, the process is killed and CommandCancelled is
    raised.
    """
    done = _run_process(arguments, directory, is_cancelled)
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if not rows:
        messages = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        if messages:
            raise InputError(messages[-1].removeprefix("sweep: "))
        raise InputError(f"the process ended with exit code {done.returncode}")
    return rows


def _run_process(
    arguments: Sequence[str], directory: str | None, is_cancelled: Callable[[], bool]
) -> subprocess.CompletedProcess[str]:
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [*_PROGRAM, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=pipe,
        stderr=pipe,
        encoding="utf-8",
        errors="replace",  # native code prints what it likes
        env=child_environment(),
        cwd=directory,
    ) as process:
        while True:
            try:
                out, err = process.communicate(timeout=0.1)
                break
            except subprocess.TimeoutExpired:
                if is_cancelled():
                    process.kill()
                    raise CommandCancelled from None
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)
