"""A sweep started as a process of its own, which outlives whoever started it, and the command that each run is of.

It is the same `sweep run` that a person types; its JSON lines go to a file until the run's own event log is known.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from converters.atomic import write_text
from converters.errors import InputError
from sweep.workspace import Workspace

_PROGRAM = (sys.executable, "-c", "from sweep.cli import main; main()")
_FILE = "command.json"


@dataclass(frozen=True)
class Command:
    """Arguments behind `sweep`, and the directory that relative paths among them start from."""

    arguments: tuple[str, ...]
    directory: str

    @property
    def line(self) -> str:
        """As it is typed."""
        return shlex.join(["sweep", *self.arguments])


def remember_command(directory: Path, arguments: Sequence[str]) -> None:
    """Write down in a run's folder how it was started, so that it can be started again from elsewhere."""
    directory.mkdir(parents=True, exist_ok=True)
    write_text(directory / _FILE, json.dumps(asdict(Command(tuple(arguments), os.getcwd()))))


def remembered_command(directory: Path) -> Command:
    """How the run of this folder was started. Raises InputError where that is not known."""
    try:
        row = json.loads((directory / _FILE).read_text(encoding="utf-8"))
        return Command(tuple(row["arguments"]), row["directory"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{directory.name}: how it was started is not known here; the same `sweep run` goes on with it"
        ) from error


class Launch:
    """A `sweep run` in a session of its own. Nothing it needs ends with this process."""

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
                cwd=command.directory,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def run(self) -> str | None:
        """The id of the run, once it is known. Raises InputError with the process's own words where it gave up."""
        ended = self._process.poll() is not None
        lines = self._output.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        whole = [line for line in lines if line.endswith("\n")]
        for row in (json.loads(line) for line in whole if line.startswith("{")):
            if row["event"] in ("started", "finished"):
                self._output.unlink(missing_ok=True)  # the run's event log takes over; the process keeps its handle
                return str(row["run"])
        if not ended:
            return None
        said = [line.strip() for line in whole if line.strip() and not line.startswith("{")]
        self._output.unlink(missing_ok=True)
        raise InputError(said[-1].removeprefix("sweep: ") if said else f"the sweep ended with {self._process.poll()}")


def _with_json(arguments: Sequence[str], workspace: Workspace) -> list[str]:
    """The last of an option given twice counts."""
    ours = ["--workspace", str(workspace.root), "--format", "json"]
    return [*arguments] if list(arguments[-len(ours) :]) == ours else [*arguments, *ours]


class GivenUp(Exception):
    """A question was given up before its answer came."""


def _never() -> bool:
    return False


def planned(command: Command, workspace: Workspace, given_up: Callable[[], bool] = _never) -> dict[str, Any]:
    """What the command would do, in the words of its --dry-run. Raises InputError with the process's own words."""
    arguments = [*_with_json(command.arguments, workspace), "--dry-run"]
    return next(row for row in ask(arguments, command.directory, given_up) if row.get("event") == "plan")


def ask(
    arguments: Sequence[str], directory: str | None = None, given_up: Callable[[], bool] = _never
) -> list[dict[str, Any]]:
    """The JSON lines that a command answers with. Raises InputError with the process's own words where it has none.

    In a process of its own, because a stranger's model can make llama.cpp end the process that looks into it. Where
    the question is `given_up`, which is looked at every tenth of a second, that process is killed and GivenUp raised.
    """
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [*_PROGRAM, *arguments], stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True, cwd=directory
    ) as process:
        while True:
            try:
                out, err = process.communicate(timeout=0.1)
                break
            except subprocess.TimeoutExpired:
                if given_up():
                    process.kill()
                    raise GivenUp from None
    rows = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    if not rows:
        said = [line.strip() for line in err.splitlines() if line.strip()]
        raise InputError(said[-1].removeprefix("sweep: ") if said else f"the process ended with {process.returncode}")
    return rows
