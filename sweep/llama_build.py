"""Which build of llama.cpp this machine needs: the GPUs that it has, the tools to compile for them, and pip's command.

It needs only Python's standard library, because `make` runs it before anything is installed:
`python -m sweep.llama_build` prints the options for CMake. They are those of llama.cpp's docs/build.md.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from converters.shell import join, quote

RPC = "-DGGML_RPC=ON"  # `sweep fit` simulates GPUs by RPC devices
_PACKAGE = "llama-cpp-python"
ROCM_DRIVER = Path("/dev/kfd")
ROCM_TOOL = "/opt/rocm/bin/rocm_agent_enumerator"
_PATIENCE = 20.0  # seconds for a tool that lists devices; a broken driver can block it


@dataclass(frozen=True)
class Card:
    """A GPU of this machine: its name for people, and the target to compile for; None: CMake finds it."""

    name: str
    target: str | None = None


@dataclass(frozen=True)
class Backend:
    """A backend of llama.cpp.

    `option` turns it on in CMake, and `targets` is the variable for the cards to compile for, "" if it has none.
    `compiler` is the program that the build needs, also in one of `folders`; "" if the system has it. `library` is in
    the file name of the library in a wheel.
    """

    name: str
    option: str
    library: str
    targets: str = ""
    compiler: str = ""
    folders: tuple[str, ...] = ()
    package: str = ""

    @property
    def has_compiler(self) -> bool:
        return not self.compiler or self.compiler_path is not None

    @property
    def compiler_path(self) -> str | None:
        path = os.pathsep.join([os.environ.get("PATH", ""), *(os.path.expandvars(one) for one in self.folders)])
        return shutil.which(self.compiler, path=path) if self.compiler else None


CUDA = Backend(
    "CUDA", "-DGGML_CUDA=ON", "ggml-cuda", "CMAKE_CUDA_ARCHITECTURES", "nvcc",
    ("$CUDA_HOME/bin", "$CUDA_PATH/bin", "/usr/local/cuda/bin"), "the CUDA toolkit (nvcc)",
)  # fmt: skip
HIP = Backend(
    "ROCm", "-DGGML_HIP=ON", "ggml-hip", "GPU_TARGETS", "hipcc",
    ("$ROCM_PATH/bin", "/opt/rocm/bin"), "ROCm's compiler (hipcc)",
)  # fmt: skip
VULKAN = Backend(
    "Vulkan", "-DGGML_VULKAN=ON", "ggml-vulkan", "", "glslc", ("$VULKAN_SDK/bin",), "the Vulkan SDK (glslc)"
)
METAL = Backend("Metal", "-DGGML_METAL=ON", "ggml-metal")


@dataclass(frozen=True)
class Found:
    """The cards of one maker, and the backends that can use them, the fastest first."""

    cards: tuple[Card, ...]
    backends: tuple[Backend, ...]

    @property
    def backend(self) -> Backend | None:
        """The first backend that this machine can compile; None if tools are missing."""
        return next((one for one in self.backends if one.has_compiler), None)


@dataclass(frozen=True)
class Build:
    """A build of llama.cpp for the GPUs of this machine, `cards` by name."""

    backend: Backend
    cards: tuple[str, ...]
    options: tuple[str, ...]

    @property
    def environment(self) -> dict[str, str]:
        """The variables that the build needs beside those of this process."""
        found = {"CMAKE_ARGS": " ".join(self.options)}
        compiler = self.backend.compiler_path
        if self.backend is CUDA and compiler is not None and shutil.which("nvcc") is None:
            found["CUDACXX"] = compiler  # CMake's variable for a compiler outside PATH
        return found


def cards_of_this_machine() -> list[Found]:
    """The GPUs that tools and drivers on this machine list, by maker. CPUs that compute Vulkan are left out."""
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        return [Found((Card("Apple GPU"),), (METAL,))]
    found = [Found(_nvidia_cards(), (CUDA, VULKAN)), Found(_amd_cards(), (HIP, VULKAN))]
    if not any(one.cards for one in found):
        found.append(Found(_vulkan_cards(), (VULKAN,)))
    return [one for one in found if one.cards]


def best_build(found: Sequence[Found]) -> Build | None:
    """The build for these cards; None if there are none, or if the tools to compile for them are missing."""
    for one in found:
        backend = one.backend
        if backend is not None:
            targets = sorted({card.target for card in one.cards if card.target})
            known = bool(backend.targets) and len(targets) > 0 and all(card.target for card in one.cards)
            chosen = (f"-D{backend.targets}={';'.join(targets)}",) if known else ()
            return Build(backend, tuple(card.name for card in one.cards), (backend.option, *chosen, RPC))
    return None


def missing_tools(found: Sequence[Found]) -> str:
    """What to install to compile for these cards."""
    return " or ".join(dict.fromkeys(backend.package for one in found for backend in one.backends))


def install_command(version: str, wheel: Path | None = None) -> list[str]:
    """The command that installs this version of llama.cpp's Python package again: compiled here, or from a `wheel`.

    Everything else stays as it is. uv installs in an environment without pip.
    """
    what = [str(wheel)] if wheel is not None else ["--no-binary", _PACKAGE, f"{_PACKAGE}=={version}"]
    if find_spec("pip") is None and (uv := shutil.which("uv")):
        return [uv, "pip", "install", "--python", sys.executable, "--reinstall", "--no-deps", "--no-cache", *what]
    return [sys.executable, "-m", "pip", "install", "--force-reinstall", "--no-deps", "--no-cache-dir", *what]


def wheel_command(version: str, folder: Path) -> list[str] | None:
    """The command that downloads a wheel of this version from the user's index, if it has one; None without pip."""
    if find_spec("pip") is None:
        return None
    return [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", _PACKAGE),
        *("--dest", str(folder), f"{_PACKAGE}=={version}"),
    ]


def shell_line(environment: dict[str, str], command: Iterable[str]) -> str:
    """The command as a person types it."""
    return " ".join([*(f"{name}={quote(value)}" for name, value in environment.items()), join(command)])


def _nvidia_cards() -> tuple[Card, ...]:
    """By the driver's tool, with their compute capability: 8.9 is the target 89."""
    rows = _lines(["nvidia-smi", "--query-gpu=name,compute_cap", "--format=csv,noheader"])
    found = []
    for row in rows:
        name, _, capability = (part.strip() for part in row.rpartition(","))
        target = capability.replace(".", "")
        if name:
            found.append(Card(name, target if target.isdigit() else None))
    return tuple(found)


def _amd_cards() -> tuple[Card, ...]:
    """By ROCm's tool, if there is its driver. gfx000 is the CPU."""
    tool = shutil.which("rocm_agent_enumerator") or ROCM_TOOL
    targets = [line.strip() for line in _lines([tool])]
    found = tuple(Card(f"AMD GPU ({one})", one) for one in targets if one.startswith("gfx") and one != "gfx000")
    return found or ((Card("AMD GPU"),) if ROCM_DRIVER.exists() else ())


def _vulkan_cards() -> tuple[Card, ...]:
    """By the summary of vulkaninfo: a device has a line with its type, then one with its name."""
    found, is_gpu = [], False
    for line in _lines(["vulkaninfo", "--summary"]):
        name, _, value = (part.strip() for part in line.partition("="))
        if name == "deviceType":
            is_gpu = value.endswith("_GPU")
        if name == "deviceName" and is_gpu:
            found.append(Card(value))
    return tuple(found)


def _lines(command: list[str]) -> list[str]:
    """What a tool prints; nothing if there is no such tool, or if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_PATIENCE, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line for line in done.stdout.splitlines() if line.strip()]


def main(write: Callable[[str], object] = print) -> None:
    """Print the options for CMake, for `make`."""
    build = best_build(cards_of_this_machine())
    write(" ".join((RPC,) if build is None else build.options))


if __name__ == "__main__":
    main()
