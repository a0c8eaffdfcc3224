"""`sweep doctor` tells what a fit looks at, and warns of a GPU that this build of llama.cpp cannot use."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from converters.llamacpp.devices import gpus
from sweep.cli import main


def told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[str, str]:
    monkeypatch.setattr(sys, "argv", ["sweep", "doctor", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    captured = capsys.readouterr()
    return captured.out, captured.err


def card() -> ModuleType:
    """NVIDIA's library on a machine with one card."""
    library = ModuleType("pynvml")
    library.NVMLError = type("NVMLError", (Exception,), {})  # type: ignore[attr-defined]
    library.nvmlInit = library.nvmlShutdown = lambda: None  # type: ignore[attr-defined]
    library.nvmlDeviceGetCount = lambda: 1  # type: ignore[attr-defined]
    library.nvmlDeviceGetHandleByIndex = lambda index: index  # type: ignore[attr-defined]
    library.nvmlDeviceGetName = lambda _: "NVIDIA GeForce RTX 4090"  # type: ignore[attr-defined]
    library.nvmlDeviceGetMemoryInfo = lambda _: SimpleNamespace(total=24 << 30, free=20 << 30)  # type: ignore[attr-defined]
    return library


def test_what_a_fit_looks_at_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out, _ = told(monkeypatch, capsys, "--workspace", str(tmp_path), "--format", "json")
    answer = json.loads(out)
    assert answer["fit_devices"][-1]["kind"] == "cpu"
    assert 0 < answer["fit_devices"][-1]["usable_bytes"] <= answer["fit_devices"][-1]["total_bytes"]
    assert "RPC" in answer["devices not here"]


@pytest.mark.skipif(bool(gpus()), reason="this build of llama.cpp has a GPU")
def test_a_gpu_beside_a_build_for_the_cpu_is_warned_of_and_fitted_to(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", card())
    out, err = told(monkeypatch, capsys, "--workspace", str(tmp_path))
    assert "RTX 4090 (cuda, 1,008 GB/s): 20.0 GiB free" in out
    assert "warning: this machine has a GPU RTX 4090, but this llama.cpp is built for the CPU alone" in err
