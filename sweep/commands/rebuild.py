"""`sweep doctor --fix`: installs a build of llama.cpp that can use the GPU of this machine."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from converters.errors import InputError, MissingRuntime
from sweep import devices
from sweep.fit.local_devices import nvidia_gpus
from sweep.llama_build import (
    CUDA,
    VULKAN,
    Build,
    Card,
    Found,
    best_build,
    cards_of_this_machine,
    install_command,
    missing_tools,
    shell_line,
    wheel_command,
)
from sweep.own_code import SAFE_PYTHON, child_environment

PACKAGE = "llama-cpp-python"
_COUNT = "from converters.llamacpp.devices import gpus; print(len(gpus()))"
Run = Callable[[Sequence[str], dict[str, str]], int]
"""Runs a command with these environment variables added, and returns its exit status."""


@dataclass(frozen=True)
class IdleGpu:
    """A GPU that this build of llama.cpp cannot use. `build` is one that can; None if `missing` tools are needed."""

    sign: str
    build: Build | None
    missing: str

    @property
    def command(self) -> list[str]:
        """The command that installs the build."""
        return install_command(version(PACKAGE))

    @property
    def line(self) -> str:
        """What is wrong, and the command."""
        said = f"{self.sign}, but this build of llama.cpp cannot use it"
        if self.build is None:
            return f"{said}; install {self.missing}, then run `sweep doctor --fix`"
        return f"{said}; `sweep doctor --fix` runs: {shell_line(self.build.environment, self.command)}"


def idle_gpu() -> IdleGpu | None:
    """The GPU that is not used; None if llama.cpp uses one, or if there is none."""
    if devices.placement().gpu_layers:
        return None
    found = cards_of_this_machine()
    if not found and (known := nvidia_gpus()):  # NVIDIA's library is there, but not its tool
        found = [Found(tuple(Card(gpu.name) for gpu in known), (CUDA, VULKAN))]
    if not found:
        return None
    sign = f"this machine has the GPU {found[0].cards[0].name}"
    return IdleGpu(sign, best_build(found), missing_tools(found))


def rebuild(idle: IdleGpu, say: Callable[[str], None], run: Run | None = None) -> None:
    """Install a build of the same version that can use the GPU: a wheel of the user's index if it has one with the
    right backend, otherwise compiled here.

    Raises InputError if tools are missing, MissingRuntime if no build that can use the GPU comes of it.
    """
    run = run or _run
    build = idle.build
    if build is None:
        raise InputError(f"{idle.sign}, but nothing can compile for it here; install {idle.missing}")
    with tempfile.TemporaryDirectory() as folder:
        wheel = _wheel(build, Path(folder), run)
        if wheel is not None:
            say(f"installing {wheel.name}, which has {build.backend.name}")
            if run(install_command(version(PACKAGE), wheel), {}) == 0 and _can_use_a_gpu():
                return
            say(f"{wheel.name} cannot use the GPU here; compiling instead")
    say(f"compiling llama.cpp for {', '.join(build.cards)} ({build.backend.name}), which takes minutes")
    if run(idle.command, build.environment) != 0:
        raise MissingRuntime(
            f"llama.cpp could not be compiled with {build.backend.name} (pip's messages are above); the earlier build "
            "is still installed"
        )
    if not _can_use_a_gpu():
        raise MissingRuntime(
            f"llama.cpp was compiled with {build.backend.name}, but it finds no GPU; check the driver, for example "
            "with nvidia-smi, rocminfo or vulkaninfo"
        )


def _wheel(build: Build, folder: Path, run: Run) -> Path | None:
    """The wheel of this version that the user's index has; None if it has none, or one without the backend."""
    command = wheel_command(version(PACKAGE), folder)
    if command is None or run(command, {}) != 0:
        return None
    wheel = next(folder.glob("*.whl"), None)
    return wheel if wheel is not None and has_backend(wheel, build) else None


def has_backend(wheel: Path, build: Build) -> bool:
    """Whether a wheel contains the library of the build's backend."""
    try:
        with zipfile.ZipFile(wheel) as opened:
            return any(build.backend.library in Path(name).name for name in opened.namelist())
    except zipfile.BadZipFile:
        return False


def _can_use_a_gpu() -> bool:
    """Whether llama.cpp, as it is installed now, finds a GPU. This process has the earlier one loaded."""
    done = subprocess.run(
        [*SAFE_PYTHON, "-c", _COUNT], capture_output=True, text=True, env=child_environment(), check=False
    )
    return done.returncode == 0 and done.stdout.strip().isdigit() and int(done.stdout) > 0


def _run(command: Sequence[str], environment: dict[str, str]) -> int:
    """Run a command. Its output goes to stderr, because stdout is for data."""
    return subprocess.run(command, env={**os.environ, **environment}, stdout=sys.stderr, check=False).returncode
