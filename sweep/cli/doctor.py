"""`sweep doctor`: versions, devices, and what this build of llama.cpp supports."""

from __future__ import annotations

import platform
import shutil
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rich.table import Table

from sweep.cli import common_options as common
from sweep.cli.output import Format, Output

EXAMPLES = """
Show versions and devices, for example for a bug report:
  $ sweep doctor
"""

PACKAGES = ("bitsweep", "llama-cpp-python", "torch", "transformers", "lm-eval", "gguf", "huggingface-hub", "textual")


_RPC = "devices not here"  # the JSON name of the fact, which stays
LABELS = {_RPC: "simulated GPUs"}
"""Facts whose label in the table differs from their JSON name."""


def doctor(workspace: Path | None = common.WORKSPACE, format: Format = common.FORMAT) -> None:
    """Show the versions of the libraries, the devices and their memory, and the workspace."""
    from converters.llamacpp import rpc
    from converters.llamacpp.devices import devices, features
    from sweep.devices import placement, threads
    from sweep.fit.local_devices import local_devices, unusable_gpus
    from sweep.fit.ram_bandwidth import measure_ram_bandwidth
    from sweep.format import size
    from sweep.workspace import open_workspace

    output = Output(format)
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
        output.line({**facts, "devices": rows, "fit_devices": [asdict(device) for device in fitted]})
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
    if where.gpu_layers == 0:
        for sign_of_gpu in unusable_gpus():
            output.say(f"warning: {sign_of_gpu}, but this build of llama.cpp only supports the CPU (see README)")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
