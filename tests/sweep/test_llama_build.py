"""The build of llama.cpp for the GPU of this machine, with stand-ins for the tools that list devices and compile."""

from __future__ import annotations

import json
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
from command_line import call

from converters.errors import InputError, MissingRuntime
from sweep import devices, llama_build
from sweep.commands import rebuild
from sweep.llama_build import CUDA, HIP, VULKAN, best_build, cards_of_this_machine

VERSION = version("llama-cpp-python")
Tools = Callable[..., None]
PIP = [sys.executable, "-m", "pip", "install", "--force-reinstall", "--no-deps", "--no-cache-dir"]


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tools:
    """Puts programs on PATH, which then has nothing else: each prints a text. Without a GPU that llama.cpp uses."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    for name in ("CUDA_HOME", "CUDA_PATH", "ROCM_PATH", "VULKAN_SDK"):
        monkeypatch.delenv(name, raising=False)
    for name, backend in {"CUDA": CUDA, "HIP": HIP, "VULKAN": VULKAN}.items():
        monkeypatch.setattr(llama_build, name, replace(backend, folders=()))  # compilers that this machine really has
    monkeypatch.setattr(llama_build, "ROCM_DRIVER", tmp_path / "kfd")
    monkeypatch.setattr(llama_build, "ROCM_TOOL", str(tmp_path / "enumerator"))
    monkeypatch.setattr(devices, "placement", lambda: devices.Placement("cpu", 0))
    monkeypatch.setattr(rebuild, "nvidia_gpus", list)

    def put(**programs: str) -> None:
        for name, printed in programs.items():
            path = folder / name
            path.write_text(f"#!/bin/sh\n/bin/cat <<'EOT'\n{printed}\nEOT\n")
            path.chmod(0o755)

    return put


NVIDIA = "NVIDIA GeForce RTX 4090, 8.9\nNVIDIA H200, 9.0"
SUMMARY = """
GPU0:
	deviceType         = PHYSICAL_DEVICE_TYPE_DISCRETE_GPU
	deviceName         = Intel(R) Arc(tm) A770
GPU1:
	deviceType         = PHYSICAL_DEVICE_TYPE_CPU
	deviceName         = llvmpipe (LLVM 17.0.6, 256 bits)
"""


@pytest.mark.parametrize(
    ("programs", "options"),
    [
        (
            {"nvidia-smi": NVIDIA, "nvcc": "", "glslc": ""},
            ("-DGGML_CUDA=ON", "-DCMAKE_CUDA_ARCHITECTURES=89;90", "-DGGML_RPC=ON"),
        ),
        ({"nvidia-smi": "Tesla K40m, [N/A]", "nvcc": ""}, ("-DGGML_CUDA=ON", "-DGGML_RPC=ON")),
        ({"nvidia-smi": NVIDIA, "glslc": ""}, ("-DGGML_VULKAN=ON", "-DGGML_RPC=ON")),
        (
            {"rocm_agent_enumerator": "gfx000\ngfx1100", "hipcc": ""},
            ("-DGGML_HIP=ON", "-DGPU_TARGETS=gfx1100", "-DGGML_RPC=ON"),
        ),
        ({"vulkaninfo": SUMMARY, "glslc": ""}, ("-DGGML_VULKAN=ON", "-DGGML_RPC=ON")),
        ({"nvidia-smi": NVIDIA}, None),  # nothing can compile for it
        ({"nvcc": "", "hipcc": "", "glslc": ""}, None),  # there is no GPU
        ({"vulkaninfo": SUMMARY.split("GPU1")[0].replace("DISCRETE_GPU", "CPU"), "glslc": ""}, None),
    ],
)
def test_the_build_is_for_the_cards_that_are_there(
    tools: Tools, programs: dict[str, str], options: tuple[str, ...] | None, capsys: pytest.CaptureFixture[str]
) -> None:
    tools(**programs)
    build = best_build(cards_of_this_machine())
    assert (None if build is None else build.options) == options
    llama_build.main()
    assert capsys.readouterr().out == " ".join(options or ("-DGGML_RPC=ON",)) + "\n"  # what `make` reads


def test_a_compiler_outside_path_is_named(tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools(**{"nvidia-smi": NVIDIA})
    nvcc = tmp_path / "cuda" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.touch(0o755)
    monkeypatch.setattr(llama_build, "CUDA", llama_build.Backend(
        "CUDA", "-DGGML_CUDA=ON", "ggml-cuda", "CMAKE_CUDA_ARCHITECTURES", "nvcc", (str(nvcc.parent),)
    ))  # fmt: skip
    build = best_build(cards_of_this_machine())
    assert build is not None
    assert build.environment["CUDACXX"] == str(nvcc)


def test_doctor_prints_the_command_and_run_says_that_the_card_is_idle(tools: Tools, tmp_path: Path) -> None:
    tools(**{"nvidia-smi": NVIDIA, "nvcc": ""})
    command = [*PIP, "--no-binary", "llama-cpp-python", f"llama-cpp-python=={VERSION}"]
    answer = json.loads(call("doctor", "--fix", "--dry-run", "--format", "json").stdout)
    options = "-DGGML_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES=89;90 -DGGML_RPC=ON"
    assert answer == {"environment": {"CMAKE_ARGS": options}, "command": command}
    line = llama_build.shell_line(answer["environment"], command)
    assert line.startswith(f"CMAKE_ARGS='{options}' ")
    assert call("doctor", "--fix", "--dry-run").stdout.replace("\n", " ").strip() == line
    said = call("doctor", "--workspace", tmp_path).stderr
    expected = (
        "this machine has the GPU NVIDIA GeForce RTX 4090, but this build of llama.cpp cannot use it; `sweep doctor"
    )
    assert f"warning: {expected} --fix` runs: {line}" in said


def test_run_and_eval_say_in_one_line_that_the_card_is_idle(
    tools: Tools, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> None:
        raise InputError("stopped")

    tools(**{"nvidia-smi": NVIDIA})
    monkeypatch.setattr("sweep.commands.run.run", stopped)
    expected = (
        "sweep: this machine has the GPU NVIDIA GeForce RTX 4090, but this build of llama.cpp cannot use it; install "
        "the CUDA toolkit (nvcc) or the Vulkan SDK (glslc), then run `sweep doctor --fix`\n"
    )
    for command in (("run", "micro", "--variants", "=Q4_K_M", "--dry-run"), ("eval", "micro")):
        arguments = (*command, "--tasks", "none", "--workspace", tmp_path / "w")
        assert expected in call(*arguments).stderr
        assert expected not in call(*arguments, "--format", "json").stderr


class Installer:
    """Stands in for pip: records the commands, and puts a wheel with these files where one is asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, wheel: Sequence[str] | None, works: Sequence[bool]) -> None:
        self.commands: list[tuple[list[str], dict[str, str]]] = []
        self._wheel, self._works = wheel, list(works)
        monkeypatch.setattr(rebuild, "_can_use_a_gpu", lambda: self._works.pop(0))

    def __call__(self, command: Sequence[str], environment: dict[str, str]) -> int:
        self.commands.append(([*command], environment))
        if "download" not in command:
            return 0
        if self._wheel is None:
            return 1
        folder = Path(command[command.index("--dest") + 1])
        with zipfile.ZipFile(folder / f"llama_cpp_python-{VERSION}-py3-none-any.whl", "w") as opened:
            for name in self._wheel:
                opened.writestr(name, "")
        return 0

    @property
    def installs(self) -> list[str]:
        """The last word of each command that installs."""
        return [command[-1].rpartition("/")[2] for command, _ in self.commands if "install" in command]


WHEEL, SOURCE = f"llama_cpp_python-{VERSION}-py3-none-any.whl", f"llama-cpp-python=={VERSION}"


@pytest.mark.parametrize(
    ("wheel", "works", "installs"),
    [
        (["llama_cpp/lib/libggml-cuda.so"], [True], [WHEEL]),
        (["llama_cpp/lib/libggml-cpu.so"], [True], [SOURCE]),  # a wheel for the CPU
        (["llama_cpp/lib/libggml-cuda.so"], [False, True], [WHEEL, SOURCE]),  # for another driver
        (None, [True], [SOURCE]),
    ],
)
def test_a_wheel_with_the_backend_is_preferred_to_compiling(
    tools: Tools,
    monkeypatch: pytest.MonkeyPatch,
    wheel: list[str] | None,
    works: list[bool],
    installs: list[str],
) -> None:
    tools(**{"nvidia-smi": NVIDIA, "nvcc": ""})
    idle = rebuild.idle_gpu()
    assert idle is not None
    installer = Installer(monkeypatch, wheel, works)
    rebuild.rebuild(idle, lambda _: None, installer)
    assert installer.installs == installs
    command, environment = installer.commands[-1]
    if installs[-1] == SOURCE:
        assert command == [*PIP, "--no-binary", "llama-cpp-python", SOURCE]
        assert environment["CMAKE_ARGS"].startswith("-DGGML_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES=89;90")


def test_a_build_that_fails_or_finds_no_gpu_is_an_error(tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    tools(**{"nvidia-smi": NVIDIA, "nvcc": ""})
    idle = rebuild.idle_gpu()
    assert idle is not None
    with pytest.raises(MissingRuntime, match=r"could not be compiled with CUDA .*; the earlier build is still"):
        rebuild.rebuild(idle, lambda _: None, lambda _command, _environment: 1)
    with pytest.raises(MissingRuntime, match="compiled with CUDA, but it finds no GPU"):
        rebuild.rebuild(idle, lambda _: None, Installer(monkeypatch, None, [False]))


def test_missing_tools_and_nothing_to_mend_are_said(tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    tools()
    assert "Nothing to mend" in call("doctor", "--fix").stderr
    tools(**{"nvidia-smi": NVIDIA})
    failed = call("doctor", "--fix")
    assert failed.returncode == 2
    assert "nothing can compile for it here; install the CUDA toolkit (nvcc) or the Vulkan SDK (glslc)" in failed.stderr
    assert call("doctor", "--dry-run").returncode == 2
    idle = rebuild.idle_gpu()
    assert idle is not None
    with pytest.raises(InputError, match="install"):
        rebuild.rebuild(idle, print)
