"""The local executor: real workers, one per slot, each with its own environment."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import presets
from sweep import devices
from sweep.artefact import Artefact
from sweep.execution.local import LocalExecutor, worker_environments
from sweep.execution.protocol import Answer, Failed, Finished, Order, Progressed
from sweep.jobs.export import ExportJob
from sweep.jobs.settings import ComputeResources

MICRO = presets.builtin_models()["micro"]


def job(quant: str) -> ExportJob:
    return ExportJob(Artefact.of(MICRO.directory), "micro", quant, Artefact(f"{quant}.gguf"), "f", quant, "e")


def ends(executor: LocalExecutor, count: int) -> list[Answer]:
    """The final answers of orders."""
    found: list[Answer] = []
    while len(found) < count:
        answer = executor.answer(60)
        assert answer is not None
        if not isinstance(answer, Progressed):
            found.append(answer)
    return found


def test_two_workers_have_their_own_devices(tmp_path: Path) -> None:
    """Two workers as on a machine with two GPUs: each sees one of them through its environment."""
    cards = [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}]
    with LocalExecutor(tmp_path, tmp_path / "run", ComputeResources(2), cards) as executor:
        for number, quant in enumerate(("Q8_0", "Q4_0")):
            executor.submit(Order(str(number), (job(quant),), quant, quant))
        found = ends(executor, 2)
        seen = []
        for slot in executor._slots:
            assert slot.worker is not None
            environment = Path(f"/proc/{slot.worker._process.pid}/environ")
            if environment.exists():
                seen += [row for row in environment.read_bytes().split(b"\0") if row.startswith(b"CUDA_VISIBLE")]
        assert seen in ([b"CUDA_VISIBLE_DEVICES=0", b"CUDA_VISIBLE_DEVICES=1"], [])
    assert {answer.id for answer in found} == {"0", "1"}
    for answer in found:
        assert isinstance(answer, Finished)
        assert answer.resources.threads == 1  # two workers share the threads
        assert answer.seconds > 0
    assert (tmp_path / "Q8_0.gguf").exists()
    assert (tmp_path / "Q4_0.gguf").exists()


def test_a_group_keeps_its_worker_and_another_group_gets_another_worker(tmp_path: Path) -> None:
    with LocalExecutor(tmp_path, tmp_path / "run", ComputeResources()) as executor:
        pids = []
        for number, group in enumerate(("a", "a", "b")):
            executor.submit(Order(str(number), (job("Q4_0"),), group, group))
            ends(executor, 1)
            worker = executor._slots[0].worker
            assert worker is not None
            pids.append(worker._process.pid)
        assert pids[0] == pids[1] != pids[2]
        executor.expect("c", "c")
        ahead = executor._ahead["c"]._process.pid
        executor.submit(Order("3", (job("Q4_0"),), "c", "c"))
        (answer,) = ends(executor, 1)
        assert isinstance(answer, Finished)
        assert executor._slots[0].worker is not None
        assert executor._slots[0].worker._process.pid == ahead
    assert not os.path.exists(f"/proc/{ahead}")


def test_a_cancelled_order_is_answered_and_the_next_one_runs(tmp_path: Path) -> None:
    with LocalExecutor(tmp_path, tmp_path / "run", ComputeResources()) as executor:
        for number in range(3):
            executor.submit(Order(str(number), (job("BF16"), job("Q6_K")), "a", "a"))
        executor.cancel("1")
        executor.cancel("0")
        found = ends(executor, 3)
    assert {answer.id: type(answer) for answer in found} == {"0": Failed, "1": Failed, "2": Finished}


def test_a_paused_executor_starts_nothing_until_it_is_resumed(tmp_path: Path) -> None:
    with LocalExecutor(tmp_path, tmp_path / "run", ComputeResources()) as executor:
        executor.pause()
        executor.submit(Order("0", (job("Q4_0"),), "a", "a"))
        assert executor.answer(0.3) is None
        assert executor._slots[0].worker is None
        executor.resume()
        (answer,) = ends(executor, 1)
        assert isinstance(answer, Finished)


def test_each_worker_sees_one_of_several_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    class Card:
        def __init__(self, name: str) -> None:
            self.name = name

    monkeypatch.setattr(devices, "gpus", lambda: [Card("CUDA0"), Card("CUDA1")])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert worker_environments(3) == [{"CUDA_VISIBLE_DEVICES": name} for name in ("0", "1", "0")]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a, GPU-b")
    assert worker_environments(2) == [{"CUDA_VISIBLE_DEVICES": name} for name in ("GPU-a", "GPU-b")]
    monkeypatch.setattr(devices, "gpus", lambda: [Card("CUDA0")])
    assert worker_environments(2) == [{}, {}]
