"""What the screens share: the workspace, the current run, the GPUs, and the planned sweep."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from converters.errors import InputError
from tui.state.draft import Draft

if TYPE_CHECKING:
    from sweep.commands.launch import Command, Launch
    from sweep.workspace import Workspace


@dataclass(frozen=True)
class Limit:
    """A memory limit for the recommendation: the GPUs and their usable memory less the reserve."""

    name: str
    bytes: int


@dataclass
class Session:
    """`run_id` is the id of the current run or a prefix of it, None until there is a run. `run_error` is the message if
    the store cannot be read.

    `gpus` are those of the Fit screen (empty: the GPUs of this machine), and `limit` is the memory limit for results.
    `launch` is a sweep that was started and has not yet reported its run.
    """

    workspace: Workspace
    run_id: str | None = None
    run_error: str = ""
    gpus: tuple[str, ...] = ()
    limit: Limit | None = None
    launch: Launch | None = None
    draft: Draft = field(default_factory=Draft)

    def store_stamp(self) -> tuple[int, ...]:
        """A value that changes whenever something is written to the store."""
        database = self.workspace.database
        files = (database, database.with_name(f"{database.name}-wal"))
        found = [file.stat() for file in files if file.exists()]
        return tuple(one.st_mtime_ns for one in found if one.st_size)

    def use_gpus(self, gpus: tuple[str, ...]) -> None:
        """Use the memory of these GPUs as the limit for results; no limit if none is given. Raises InputError."""
        from sweep.fit.hardware import parse_devices

        devices = parse_devices(gpus)
        room = sum(device.usable_bytes - device.reserve_bytes for device in devices)
        self.gpus = gpus
        self.limit = Limit(", ".join(gpus), room) if devices else None

    def start_sweep(self, command: Command) -> None:
        """Start a sweep in its own process. Raises InputError if it cannot be started."""
        from sweep.commands.launch import Launch

        try:
            self.launch = Launch(command, self.workspace)
        except OSError as error:
            raise InputError(f"the sweep cannot be started: {error.strerror or error}") from error
