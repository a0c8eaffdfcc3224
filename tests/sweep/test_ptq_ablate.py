"""`sweep ablate` around a variant of post-training quantization: its figures, its texts, and what it keeps."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from checkpoints import make_checkpoint
from command_line import call
from rich.console import Console

from converters.errors import InputError
from int8.quantize_model import CalibrationText, RandomTokens
from int8.tokenizer import load_tokenizer
from ptq.checkpoint import load, read_summary
from ptq.design_space import PtqSetup
from ptq.quantize import quantize
from sweep.analysis.ablation import Ablation
from sweep.analysis.setup_words import name_of
from sweep.backends.torch import TorchBackend
from sweep.backends.torch_vocabulary import TorchVocabulary
from sweep.commands.ablate import AblationRequest, ablate, prepare
from sweep.jobs.ptq_ablation import SetupText
from sweep.measure.perplexity import cut_windows
from sweep.measure.text_measurement import measure_text
from sweep.measure.texts import as_conversations
from sweep.planning.ablation import PTQ_LENGTH
from sweep.report.ablation import render_ablation

SPACE = """
version = 1
[axes.order]
values = ["static", "none"]
[axes.calibration]
values = ["own", "chat", "random"]
[axes.samples]
values = [2, 100000]
[axes.alpha]
values = [0.5, 0.8]
"""
SMALL = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16, "num_hidden_layers": 2}
OPTIONS = ["--window", "32", "--windows", "3", "--samples", "4", "--device", "cpu"]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """For tiny matrices several threads cost more than they gain."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model and two texts."""
    directory = tmp_path_factory.mktemp("ablation")
    make_checkpoint(directory / "model", **SMALL)
    (directory / "calibration.txt").write_text("\n\n".join(f"word{i % 97} {i * 31 % 11} apples" for i in range(900)))
    (directory / "text.txt").write_text(" ".join(f"take {i * 7 % 13} of {i % 31}" for i in range(100)))
    (directory / "space.toml").write_text(SPACE)
    return directory


def words(folder: Path, base: str = "gptq:w3g32", axes: str = "order,calibration,samples") -> list[object]:
    files = {name: folder / f"{name}.txt" for name in ("calibration",)} | {"perplexity": folder / "text.txt"}
    options: list[object] = ["ablate", folder / "model", "--design-space", folder / "space.toml", *OPTIONS]
    options += [part for name, file in files.items() for part in (f"--{name}", file)]
    return [*options, "--base", base, "--axes", axes, "--workspace", folder / "workspace"]


@pytest.fixture(scope="module")
def done(folder: Path) -> dict[str, object]:
    """What the last line of JSON says."""
    ran = call(*words(folder), "--format", "json")
    assert ran.returncode == 1, ran.stderr  # one setup asks for more samples than the text has
    finished: dict[str, object] = json.loads(ran.stdout.splitlines()[-1])
    return finished


def request(folder: Path) -> AblationRequest:
    return AblationRequest(
        str(folder / "model"),
        space=folder / "space.toml",
        base="gptq:w3g32",
        axes=("order", "calibration"),
        calibration=str(folder / "calibration.txt"),
        samples=4,
        perplexity=folder / "text.txt",
        window=32,
        windows=3,
        device="cpu",
        workspace=folder / "workspace",
    )


def again(folder: Path) -> tuple[Ablation, list[str]]:
    """The stored result without the setup that failed, which would be tried again, and the events."""
    heard: list[str] = []
    found, _ = ablate(prepare(request(folder), lambda _: None), lambda event: heard.append(event.event))
    return found, heard


def test_a_setup_has_the_figures_of_its_own_checkpoint(folder: Path, done: dict[str, object], tmp_path: Path) -> None:
    found, heard = again(folder)
    assert not {"cell_started", "cell_done"} & set(heard)  # all results are stored
    backend = TorchBackend.open(folder / "model", dtype="bfloat16")
    windows = cut_windows(backend, (folder / "text.txt").read_text(), n_ctx=32, max_windows=3)
    content = (folder / "calibration.txt").read_text()
    texts = {
        str(folder / "calibration.txt"): CalibrationText("own", lambda _: content),
        "chat": CalibrationText("chat", lambda one: as_conversations(content, TorchVocabulary(one), "text"), True),
        "random": RandomTokens(),
    }
    assert len(found.points) == 4
    for number, point in enumerate(found.points):
        setup: PtqSetup = point.recipe
        assert setup.calibration is not None
        out = tmp_path / str(number)
        quantize(
            folder / "model", setup.recipe, texts[setup.calibration], out, count=setup.samples, length=PTQ_LENGTH,
            dtype="bfloat16",
        )  # fmt: skip
        own = measure_text(TorchBackend(load(out)[0], load_tokenizer(out)), windows).perplexity
        assert point.measured.window_nll == pytest.approx(own.window_nll, rel=1e-6), name_of(setup)
        assert point.measured.bits_per_weight == read_summary(out).bits_per_weight
        assert point.measured.kld_mean > 0
    values = {point.measured.perplexity.value for point in found.points}
    assert len(values) == 4  # order and text matter
    assert not list((folder / "workspace" / "artefacts").rglob("*.ptq*"))


def test_what_cannot_be_measured_is_named_and_the_rest_goes_on(folder: Path, done: dict[str, object]) -> None:
    assert isinstance(done["failed"], list)
    failed = {one["status"]: one for one in done["failed"]}
    assert set(failed) == {"failed", "skipped"}
    assert "too short for 100000 samples of 256 tokens" in failed["failed"]["error"]
    assert failed["failed"]["recipe"]["samples"] == 100_000
    assert failed["skipped"]["recipe"]["calibration"] == "own"
    assert failed["skipped"]["error"] == "only built-in models have a text of their own"
    grids = done["grids"]
    assert isinstance(grids, list)
    assert [[one is None for one in grid["points"][0]] for grid in grids] == [
        [False, False], [True, False, False], [False, True]
    ]  # fmt: skip
    assert done["title"] == "gptq:w3g32, one setting at a time"


def test_the_table_shows_what_differs_and_bits_per_weight(folder: Path, done: dict[str, object]) -> None:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(render_ablation(again(folder)[0], 200))
    shown = console.export_text()
    head = next(line for line in shown.splitlines() if "bpw" in line).split()
    assert head[:4] == ["order", "calibration", "bpw", "PPL"]
    assert "Settings of all recipes: recipe gptq:w3g32, damp 0.01, inputs layer, samples 4." in shown
    assert "only built-in models have a text of their own" in shown


@pytest.mark.parametrize(
    ("base", "axes", "message"),
    [
        ("rtn:w4g32", "order", "'order' changes nothing: only gptq has it"),
        ("foo:w4", "order", "--base: 'base' is 'foo:w4'"),
        ("gptq:w4", "alpha", "'alpha' changes nothing: only sq has it; its axes are order, calibration, samples"),
    ],
)
def test_a_wrong_base_or_axis_ends_before_any_work(folder: Path, base: str, axes: str, message: str) -> None:
    ran = call(*words(folder, base, axes))
    assert (ran.returncode, ran.stdout) == (2, "")
    assert message in ran.stderr
    assert ran.stderr.count("\n") == 1


def test_random_tokens_are_the_same_each_time_and_have_no_special_ones(folder: Path) -> None:
    tokenizer = load_tokenizer(folder / "model")
    one, other = (RandomTokens().samples(tokenizer, 50, 20) for _ in range(2))
    assert torch.equal(one, other)
    assert one.shape == (50, 20)
    assert not set(one.unique().tolist()) & set(tokenizer.all_special_ids)
    assert len(one.unique()) > 300  # of 509
    assert RandomTokens().samples(tokenizer, None, None).shape == (1000, 256)


def test_paragraphs_become_conversations_in_the_models_template(folder: Path) -> None:
    vocabulary = TorchVocabulary(load_tokenizer(folder / "model"))
    found = as_conversations("one\n\n\ntwo\n\nthree\n\nfour\n\nlast", vocabulary, "text")
    turn = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n{}<|im_end|>\n"
    assert found == turn.format("one", "two") + turn.format("three", "four")
    vocabulary.chat_template = None
    with pytest.raises(InputError, match="text: the model has no chat template"):
        as_conversations("one\n\ntwo", vocabulary, "text")
    assert SetupText("a", None).identity != SetupText("a", None, as_chat=True).identity


@pytest.mark.slow
def test_random_tokens_calibrate_worse_than_the_models_own_text(tmp_path: Path) -> None:
    """The calibration text of `docs/ptq.md`'s example, by divergence: own about 0.005, random about 0.014."""
    file = tmp_path / "space.toml"
    file.write_text('version = 1\n[axes.calibration]\nvalues = ["own", "chat", "random"]\n')
    request = AblationRequest(
        "micro", space=file, base="gptq:w3g128", samples=32, windows=8, device="cpu", workspace=tmp_path / "workspace"
    )
    found, _ = ablate(prepare(request, lambda _: None), lambda _: None)
    lost = {point.recipe.calibration: point.measured.kld_mean for point in found.points}
    assert lost["random"] > 2 * lost["own"] > 0
    assert lost["chat"] < lost["random"]
    assert not found.of(next(p.recipe for p in found.points if p.recipe.calibration == "random")).least_kld
