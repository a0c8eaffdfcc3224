"""Exports interrupted by Ctrl-C or `kill -9` are resumed: the files are the same, and no work is done twice."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch

from converters.errors import InputError
from converters.export import ExportProgress, export
from converters.partial import PartialFile
from converters.plan import Importance
from converters.resolver import open_source
from converters.source import Source

QUANTS = ("Q8_0", "Q2_K", "Q4_K_M")


def counted(source: Source) -> tuple[Source, list[str]]:
    """The source, and a list that records the names of tensors in the order in which their rows are read."""
    names: list[str] = []
    read = source.read_rows

    def listen(name: str, start: int, stop: int):  # type: ignore[no-untyped-def]
        names.append(name)
        return read(name, start, stop)

    source.read_rows = listen  # type: ignore[method-assign]
    return source, names


def interrupted_export(source: Source, targets: dict[str, Path], tensor: str) -> None:
    """Start an export and interrupt it while it writes this tensor."""

    def interrupt(progress: ExportProgress) -> None:
        if progress.tensor == tensor:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(source, targets, progress=interrupt, threads=1)


@pytest.fixture
def whole(tiny: Path, tmp_path: Path) -> dict[str, bytes]:
    (tmp_path / "whole").mkdir()
    targets = {quant: tmp_path / "whole" / f"{quant}.gguf" for quant in QUANTS}
    export(open_source(tiny), targets)
    return {quant: path.read_bytes() for quant, path in targets.items()}


@pytest.fixture
def targets(tmp_path: Path) -> dict[str, Path]:
    (tmp_path / "cut").mkdir()
    return {quant: tmp_path / "cut" / f"{quant}.gguf" for quant in QUANTS}


def content(targets: dict[str, Path]) -> dict[str, bytes]:
    return {quant: path.read_bytes() for quant, path in targets.items()}


@pytest.mark.parametrize("place", [0, 1, 10, -1])
def test_an_interrupted_export_is_resumed(
    tiny: Path, whole: dict[str, bytes], targets: dict[str, Path], place: int
) -> None:
    order = [tensor.name for tensor in open_source(tiny).tensors]
    interrupted_export(open_source(tiny), targets, order[place])
    directory = targets["Q8_0"].parent
    assert not list(directory.glob("*.gguf"))
    source, names = counted(open_source(tiny))
    seen: list[ExportProgress] = []
    plans = export(source, targets, progress=seen.append)
    done = place % len(order)
    assert set(order[done + 1 :]) <= set(names) <= set(order[done:])
    total = sum(plan.tensor_bytes for plan in plans.values())
    if seen:
        assert seen[-1].done_bytes == seen[-1].total_bytes == total
        assert place == 0 or seen[0].done_bytes > total * done // len(order) // 4
    assert content(targets) == whole
    assert sorted(file.name for file in directory.iterdir()) == sorted(path.name for path in targets.values())


def test_a_file_that_is_further_along_is_not_written_again(
    tiny: Path, whole: dict[str, bytes], targets: dict[str, Path]
) -> None:
    order = [tensor.name for tensor in open_source(tiny).tensors]
    interrupted_export(open_source(tiny), {"Q2_K": targets["Q2_K"]}, order[15])
    interrupted_export(open_source(tiny), {"Q8_0": targets["Q8_0"]}, order[5])
    source, names = counted(open_source(tiny))
    interrupted_export(source, {quant: targets[quant] for quant in ("Q2_K", "Q8_0")}, order[9])
    assert order[5] in names or order[6] in names
    assert not set(names) & set(order[:5])
    export(open_source(tiny), targets)
    assert content(targets) == whole


def other_weights(tiny: Path, altered: Callable[..., Path]) -> tuple[Source, Importance | None]:
    directory = altered()
    tensors = safetensors.torch.load_file(directory / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"] *= 2
    safetensors.torch.save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    return open_source(directory, name="tiny"), None


def with_importance(tiny: Path, altered: Callable[..., Path]) -> tuple[Source, Importance | None]:
    return open_source(tiny), Importance({"blk.0.ffn_up.weight": np.full((1, 256), 2, np.float32)}, {})


@pytest.mark.parametrize("change", [other_weights, with_importance])
def test_partial_files_of_another_export_are_not_resumed(
    tiny: Path, altered: Callable[..., Path], targets: dict[str, Path], tmp_path: Path, change: Callable[..., tuple]
) -> None:
    source, importance = change(tiny, altered)
    export(source, {"Q2_K": tmp_path / "right.gguf"}, importance=importance)
    order = [tensor.name for tensor in source.tensors]
    interrupted_export(open_source(tiny), {"Q2_K": targets["Q2_K"]}, order[15])
    source, importance = change(tiny, altered)
    source, names = counted(source)
    export(source, {"Q2_K": targets["Q2_K"]}, importance=importance)
    assert set(names) == set(order)
    assert targets["Q2_K"].read_bytes() == (tmp_path / "right.gguf").read_bytes()


def test_an_export_is_resumed_after_kill_9(tiny: Path, whole: dict[str, bytes], targets: dict[str, Path]) -> None:
    script = (
        "import sys, time; from pathlib import Path\n"
        "from converters import export; from converters.resolver import open_source\n"
        "export.SAVE_EVERY = 0\n"
        "def slowly(progress): time.sleep(0.05)\n"
        "export.export(open_source(sys.argv[1]), {'Q2_K': Path(sys.argv[2])}, progress=slowly, threads=1)\n"
    )
    target = targets["Q2_K"]
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tiny), str(target)], cwd=Path(__file__).parents[2], stderr=subprocess.PIPE
    ) as process:
        while not (target.parent / f".{target.name}.partial").exists() and process.poll() is None:
            time.sleep(0.01)
        time.sleep(0.5)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    source, names = counted(open_source(tiny))
    export(source, {"Q2_K": target})
    assert 0 < len(set(names)) < len(source.tensors)
    assert target.read_bytes() == whole["Q2_K"]


def test_two_concurrent_exports_do_not_disturb_each_other(
    tiny: Path, whole: dict[str, bytes], targets: dict[str, Path]
) -> None:
    inner: list[dict[str, bytes]] = []

    def once_more(progress: ExportProgress) -> None:
        if not inner:
            inner.append({})
            export(open_source(tiny), targets)
            inner[0] = content(targets)

    export(open_source(tiny), targets, progress=once_more, threads=1)
    assert inner[0] == whole
    assert content(targets) == whole
    assert not list(targets["Q2_K"].parent.glob(".*"))


@pytest.mark.parametrize("end", ["in order", "by a restart of the machine"])
def test_unsynced_data_is_not_resumed_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    path, identity = tmp_path / "file", b"i" * 32
    file = PartialFile(path, 100, identity).__enter__()
    file.write(b"x" * 100, 0)
    file.save(7)
    left = (tmp_path / ".file.partial").read_bytes()  # as after kill -9
    file.__exit__(KeyboardInterrupt)
    if end != "in order":
        (tmp_path / ".file.partial").write_bytes(left)
    monkeypatch.setattr("converters.partial._boot", lambda: b"another boot, 16")
    with PartialFile(path, 100, identity) as file:
        assert file.steps == (7 if end == "in order" else 0)
        file.finish()
        file.publish()
    assert path.stat().st_size == 100
    assert os.listdir(tmp_path) == ["file"]


def test_bad_input_leaves_no_partial_file(tmp_path: Path) -> None:
    file = PartialFile(tmp_path / "file", 100, b"i" * 32).__enter__()
    file.save(3)
    file.__exit__(InputError)
    assert os.listdir(tmp_path) == []
