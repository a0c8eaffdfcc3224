"""`sweep doctor` shows the devices that `sweep fit` uses, and warns of a GPU that this llama.cpp cannot use."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from converters.llamacpp.devices import gpus
from sweep.cli import main


def doctor(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[str, str]:
    monkeypatch.setattr(sys, "argv", ["sweep", "doctor", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    captured = capsys.readouterr()
    return captured.out, captured.err


def library_with_one_gpu() -> ModuleType:
    """NVIDIA's management library on a machine with one GPU."""
    library = ModuleType("pynvml")
    library.NVMLError = type("NVMLError", (Exception,), {})  # type: ignore[attr-defined]
    library.nvmlInit = library.nvmlShutdown = lambda: None  # type: ignore[attr-defined]
    library.nvmlDeviceGetCount = lambda: 1  # type: ignore[attr-defined]
    library.nvmlDeviceGetHandleByIndex = lambda index: index  # type: ignore[attr-defined]
    library.nvmlDeviceGetName = lambda _: "NVIDIA GeForce RTX 4090"  # type: ignore[attr-defined]
    library.nvmlDeviceGetMemoryInfo = lambda _: SimpleNamespace(total=24 << 30, free=20 << 30)  # type: ignore[attr-defined]
    return library


def test_the_devices_of_sweep_fit_are_listed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out, _ = doctor(monkeypatch, capsys, "--workspace", str(tmp_path), "--format", "json")
    answer = json.loads(out)
    assert answer["fit_devices"][-1]["kind"] == "cpu"
    assert 0 < answer["fit_devices"][-1]["usable_bytes"] <= answer["fit_devices"][-1]["total_bytes"]
    assert "RPC" in answer["devices not here"]


@pytest.mark.skipif(bool(gpus()), reason="this build of llama.cpp has a GPU")
def test_a_gpu_is_listed_with_a_warning_if_llama_cpp_is_built_for_the_cpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", library_with_one_gpu())
    out, err = doctor(monkeypatch, capsys, "--workspace", str(tmp_path))
    assert "RTX 4090 (cuda, 1,008 GB/s): 20.0 GiB free, of which 1.50 GiB are reserved" in out
    assert "warning: this machine has the GPU RTX 4090, but this build of llama.cpp cannot use it; " in err
