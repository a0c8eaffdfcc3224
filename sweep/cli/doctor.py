"""`sweep doctor`: versions, devices, and what this build of llama.cpp supports."""

from __future__ import annotations

import platform
import shutil
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.table import Table

from converters.errors import InputError
from sweep.cli import common_options as common
from sweep.cli.help import Panel
from sweep.cli.output import Format, Output

if TYPE_CHECKING:
    from sweep.commands.rebuild import IdleGpu

EXAMPLES = """
Show versions and devices, for example for a bug report:
  $ sweep doctor
Print the command that builds llama.cpp for the GPU of this machine:
  $ sweep doctor --fix --dry-run
Build and install it:
  $ sweep doctor --fix
"""

PACKAGES = ("bitsweep", "llama-cpp-python", "torch", "transformers", "lm-eval", "gguf", "huggingface-hub", "textual")


_RPC = "devices not here"  # the JSON name of the fact, which stays
LABELS = {_RPC: "simulated GPUs"}
"""Facts whose label in the table differs from their JSON name."""


FIX = typer.Option(
    False,
    "--fix",
    help="If llama.cpp cannot use the GPU of this machine, install a build that can: a wheel of the same version, if "
    "your package index has one with the right backend, otherwise compiled for this GPU.",
    rich_help_panel=Panel.EXECUTION,
)
DRY_RUN = typer.Option(
    False,
    "--dry-run",
    help="With --fix: print the command, and install nothing.",
    rich_help_panel=Panel.EXECUTION,
)


def doctor(
    fix: bool = FIX,
    dry_run: bool = DRY_RUN,
    workspace: Path | None = common.WORKSPACE,
    format: Format = common.FORMAT,
) -> None:
    """Show the versions of the libraries, the devices and their memory, and the workspace.

    If this machine has a GPU that llama.cpp cannot use, it says so and prints the command that mends it.
    """
    from converters.llamacpp import rpc
    from converters.llamacpp.devices import devices, features
    from sweep.commands.rebuild import idle_gpu
    from sweep.devices import placement, threads
    from sweep.fit.local_devices import local_devices
    from sweep.fit.ram_bandwidth import measure_ram_bandwidth
    from sweep.format import size
    from sweep.workspace import open_workspace

    output = Output(format)
    idle = idle_gpu()
    if dry_run and not fix:
        raise InputError("--dry-run is for --fix; give both options")
    if fix:
        _fix(idle, dry_run, output)
        return
    space = open_workspace(workspace)
    found, fitted = devices(), local_devices()
    where = placement()
    facts = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        **{name: _version(name) for name in PACKAGES},
        "llama.cpp": features(),
        _RPC: "computed by llama.cpp through RPC" if rpc.supported() else "estimated: this build has no RPC",
        "threads": str(threads()),
        "RAM bandwidth": f"{measure_ram_bandwidth(threads()) / 1e9:.1f} GB/s, measured by copying",
        "measures on": where.device,
        "workspace": str(space.root),
        "free disk": size(shutil.disk_usage(space.root).free),
    }
    if output.is_json:
        rows = [
            {"name": d.name, "kind": d.kind, "free_bytes": d.free_bytes, "total_bytes": d.total_bytes} for d in found
        ]
        build = None if idle is None else idle.build
        mended = build and {"environment": build.environment, "command": idle.command if idle else []}
        output.line({**facts, "fix": mended, "devices": rows, "fit_devices": [asdict(device) for device in fitted]})
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in facts.items():
        table.add_row(LABELS.get(name, name), value)
    for device in found:
        memory = f"{size(device.free_bytes)} free of {size(device.total_bytes)}"
        table.add_row("device", f"{device.name} ({device.kind}): {device.description}, {memory}")
    for fit_device in fitted:
        speed = f", {fit_device.bandwidth / 1e9:,.0f} GB/s" if fit_device.bandwidth else ""
        memory = f"{size(fit_device.usable_bytes)} free, of which {size(fit_device.reserve_bytes)} are reserved"
        table.add_row("device of sweep fit", f"{fit_device.name} ({fit_device.kind}{speed}): {memory}")
    output.show(table)
    if idle is not None:
        output.say(f"warning: {idle.line}")


def _fix(idle: IdleGpu | None, dry_run: bool, output: Output) -> None:
    """Install the build, or print the command that does it."""
    from sweep.commands.rebuild import rebuild
    from sweep.llama_build import shell_line

    if idle is None:
        output.say("Nothing to mend: llama.cpp uses the GPU of this machine, or this machine has none.")
        return
    if not dry_run or idle.build is None:
        rebuild(idle, output.say)
        output.say("llama.cpp can use the GPU now.")
        return
    if output.is_json:
        output.line({"environment": idle.build.environment, "command": idle.command})
        return
    output.show(shell_line(idle.build.environment, idle.command))


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
