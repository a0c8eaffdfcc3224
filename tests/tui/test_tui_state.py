"""What the screens share, without widgets: the names that a text means, the question of Fit, what is remembered."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from converters.errors import InputError
from presets import builtin_models
from presets.catalogue import models
from presets.gpus import gpus
from sweep.planning.preset import load
from sweep.workspace import Workspace
from tui.screens.picker import gpu_picker, model_picker
from tui.state.draft import Draft
from tui.state.matching import meant, ranked
from tui.state.paths import common_start, completions
from tui.state.question import FIT_FIELDS, Question, help_of
from tui.state.remembered import Remembered, recall, remember
from tui.state.session import Session

GPUS = [
    (name, f"{gpu.memory_bytes >> 30} GiB, {gpu.bandwidth / 1e9:,.0f} GB/s, {gpu.series}")
    for name, gpu in gpus().items()
]
MODELS = [(name, "") for name in (*builtin_models(), *models())]


@pytest.mark.parametrize(
    ("typed", "choices", "name"),
    [
        ("rtx 3060 12gb", GPUS, "RTX 3060 12GB"),
        ("RTX4090", GPUS, "RTX 4090"),  # and not the RTX 4090 D
        ("a6000", GPUS, "RTX A6000"),
        ("3060", GPUS, None),  # of 8 GB, of 12 GB, Ti, Laptop
        ("24", GPUS, None),  # many have 24 GiB
        ("apple", GPUS, None),
        ("micro", MODELS, "micro"),
        ("qwen3-8b", MODELS, "Qwen3-8B"),  # and not Qwen3-VL-8B, which has these words too
        ("27b", MODELS, None),  # of several releases
        ("no such name", MODELS, None),
    ],
)
def test_a_text_means_an_equal_name_or_the_likeliest_and_otherwise_none(
    typed: str, choices: list[tuple[str, str]], name: str | None
) -> None:
    assert meant(typed, choices) == name
    if name is not None:
        assert ranked(typed, choices)[0][0] == name


@pytest.mark.parametrize(
    ("typed", "value"),
    [("4090", "RTX 4090"), ("24GB", "24GB"), ("2x3090", "2x3090"), ("3090, 64GiB RAM", "3090, 64GiB RAM")],
)
def test_a_typed_gpu_is_what_the_option_takes(typed: str, value: str) -> None:
    assert gpu_picker()._read(typed) == value


@pytest.mark.parametrize("typed", ["24", "3060", "RTX 9999", ","])
def test_a_text_that_the_option_rejects_is_no_gpu(typed: str) -> None:
    with pytest.raises(InputError):
        gpu_picker()._read(typed)


def test_paths_are_completed_and_recent_models_come_first(tmp_path: Path) -> None:
    for name in ("checkpoint-1", "checkpoint-2", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-1/config.json").write_text("{}")
    for name in ("check.gguf", "check.txt", ".check.gguf"):
        (tmp_path / name).touch()
    start = f"{tmp_path}/check"
    found = [name for name, _ in completions(start, (".gguf",))]
    assert found == [f"{tmp_path}/check.gguf", f"{tmp_path}/checkpoint-1", f"{tmp_path}/checkpoint-2/"]
    assert common_start(found) == start
    assert common_start(found[1:]) == f"{start}point-"
    assert completions(f"{tmp_path}/none/x", (".gguf",)) == []
    picker = model_picker("", "micro", [str(tmp_path / "checkpoint-1"), "Qwen3-8B"])
    names = [name for name, _ in picker._choices]
    assert names[:3] == [str(tmp_path / "checkpoint-1"), "Qwen3-8B", "micro"]
    assert len(names) == len(set(names))
    assert picker._read("Qwen/Qwen3-8B") == "Qwen/Qwen3-8B"
    with pytest.raises(InputError, match="no such model"):
        picker._read(f"{tmp_path}/none")


def test_the_settings_are_the_options_of_sweep_fit() -> None:
    question = Question("micro", ("2x3090",)).with_typed(
        ctx="32,768", kv_type="q8_0,f16", offload="no", ram="64GB", ram_bandwidth="60GB/s", reserve="2GiB",
        parallel="4", ubatch="256", flash_attn="off", projector="yes", draft="mtp",
    )  # fmt: skip
    question.check()
    assert question.arguments("W")[6:] == (
        *("--ctx", "32768", "--kv-type", "q8_0,f16", "--no-offload", "--ram", "64GB", "--ram-bandwidth", "60GB/s"),
        *(
            "--reserve",
            "2GiB",
            "--parallel",
            "4",
            "--ubatch",
            "256",
            "--no-flash-attn",
            "--projector",
            "--draft",
            "mtp",
            "--gpu",
            "2x3090",
        ),
    )
    assert all(help_of(one.name) for one in FIT_FIELDS)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ({"ctx": "many"}, "context many: give a whole number"),
        ({"parallel": "257"}, "from 1 to 256"),
        ({"kv_type": "q9"}, "KV type q9: one of f16"),
        ({"ram": "64"}, "'64' is not a size"),
        ({"reserve": "much"}, "'much' is not a size"),
        ({"ram_bandwidth": "fast"}, "'fast' is not a bandwidth"),
    ],
)
def test_a_setting_that_sweep_fit_rejects_is_rejected(typed: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Question("micro").with_typed(**typed).check()


def test_fit_carries_to_plan_and_plan_to_fit(tmp_path: Path) -> None:
    session = Session(Workspace(tmp_path))
    session.ask(Question("Qwen3-8B", ("RTX 4090",)).with_typed(ctx="16384", ram="64GiB", kv_type="q8_0"))
    draft = session.draft
    assert (draft.model, draft.typed) == ("Qwen3-8B", {"gpu": "RTX 4090, 64GiB RAM", "ctx": "16384", "kv_type": "q8_0"})
    session.draft = replace(draft, model="micro").with_typed(gpu="2x3090, 32GiB RAM", ctx="")
    session.take_plan()
    typed = {"ram": "32GiB", "kv_type": "q8_0"}
    assert session.question == Question("micro", ("2x3090",), typed)
    session.draft = session.draft.with_typed(kv_type="q4_0,f16")
    session.take_plan()
    assert session.question.kv_type == "q4_0,f16"
    session.draft = session.draft.with_typed(gpu="2x3090")
    session.take_plan()
    assert not session.question.offload  # Plan skips what is partly in RAM
    assert session.draft.typed_value("gpu") == "2x3090"
    session.ask(session.question.with_typed(ctx="65536", ram="", offload=""))
    assert session.draft.typed_value("gpu") == "2x3090, any RAM"
    session.ask(session.question, context="1024")  # the model allows no more
    assert session.draft.typed_value("ctx") == "1024"
    session.take_plan()
    assert session.question.context == 65536  # nothing was changed on Plan


def test_what_is_remembered_is_read_again_and_a_damaged_file_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BITSWEEP_STATE", str(tmp_path / "new/state"))
    assert recall() == Remembered()
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    names = ["micro", "Qwen3-8B", "model", "micro"]
    what = Remembered(theme="sweep-light")
    for name in names:
        what = what.with_question(Question(name, ("RTX 4090",)).with_typed(ctx="4096"))
    assert what.models == ("micro", str(tmp_path / "model"), "Qwen3-8B")
    remember(what)
    assert recall() == what
    file = tmp_path / "new/state/screen.json"
    for damage in (b"", b"{", b"\xff\xfe", b'{"models": 3}', b'{"question": {"gpus": "RTX"}}'):
        file.write_bytes(damage)
        with pytest.raises(InputError, match=r"screen\.json cannot be read .*starts with its defaults"):
            recall()
    remember(what)
    assert recall() == what
    assert [path.name for path in file.parent.iterdir()] == ["screen.json"]
    monkeypatch.setenv("BITSWEEP_STATE", str(file))  # in which nothing can be written
    session = Session(Workspace(tmp_path))
    with pytest.raises(InputError, match="the screen will not remember this"):
        session.remember(theme="sweep-light")
    session.remember(theme="sweep-dark")  # said once


def test_variants_of_a_repository_replace_those_of_the_preset() -> None:
    preset, files = load("q2-q8").variants, ("hub:BF16", "hub:Q4_K_M", "hub:Q2_K")
    draft = Draft(model="org/m-GGUF", variants=preset)
    assert "--variants" not in draft.arguments()
    planned = draft.with_plan(files, files[:2])
    assert (planned.variants, planned.ladder) == (files[:2], files[:2])
    assert "--variants" not in planned.arguments()
    assert planned.with_plan(files, files[:2]) == planned
    fewer = replace(planned, variants=("hub:Q2_K",))
    assert fewer.arguments()[-2:] == ("--variants", "=hub:Q2_K")
    assert fewer.with_plan(files, ("hub:BF16", "hub:Q2_K")).variants == ("hub:Q2_K",)
    assert replace(planned, variants=()).arguments()[-2:] == ("--variants", "=")
    assert fewer.with_published(files) == fewer
    for other in (fewer.with_model("micro"), replace(fewer, model="micro").with_published(())):
        assert other == Draft(model="micro", variants=preset)
    by_hand = replace(draft, variants=("IQ3_S",))
    assert by_hand.with_plan(files, ("hub:BF16", "IQ3_S")).variants == ("IQ3_S",)
    assert by_hand.with_published(files).variants == ()
