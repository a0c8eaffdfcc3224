"""Questions that people ask about models and GPUs, answered as experienced users answer them."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from command_line import call

from sweep.analysis.advice import Advice
from sweep.analysis.fit_candidates import Measurements
from sweep.commands.fit import FitQuestion, advise_on
from sweep.fit.fit_report import FitOptions
from sweep.fit.hardware import parse_devices, with_ram

QUESTIONS = tomllib.loads(Path(__file__).with_name("advice_questions.toml").read_text())["question"]
# From the reference to what nobody should run; less than all quants, because each costs time.
VARIANTS = (
    *("BF16", "Q8_0", "Q6_K", "Q5_K_XL", "Q5_K_M", "Q5_K_S", "Q4_K_XL", "Q4_K_M", "Q4_K_S", "IQ4_XS", "Q4_1"),
    *("Q3_K_XL", "Q3_K_M", "IQ3_M", "Q3_K_S", "IQ3_XS", "IQ3_XXS", "Q2_K_XL", "Q2_K", "IQ2_M", "IQ2_XXS"),
    *("IQ1_M", "TQ1_0"),
)


@dataclass(frozen=True)
class Asked:
    """A model, devices as `--gpu` takes them, a context, and the size of the RAM if it is given."""

    model: str
    gpu: str
    context: int
    ram: str | None

    @classmethod
    def parse(cls, text: str) -> Asked:
        model, gpu, context, *ram = (part.strip() for part in text.split(","))
        return cls(model, gpu, int(context), ram[0] if ram else None)

    def answer(self) -> Advice:
        devices = with_ram(parse_devices([self.gpu]), self.ram, None)
        options = FitOptions(context=self.context)
        question = FitQuestion(self.model, VARIANTS, devices, options)
        return advise_on(question, question.answer(), Measurements())


@pytest.mark.slow
@pytest.mark.parametrize("question", QUESTIONS, ids=[question["ask"] for question in QUESTIONS])
def test_the_answer_is_one_that_experienced_users_give(question: dict[str, Any]) -> None:
    advice = Asked.parse(question["ask"]).answer()
    assert advice.pick is not None
    assert advice.pick.variant in question.get("accept", VARIANTS), question["why"]
    assert advice.pick.placement == question.get("place", advice.pick.placement), question["why"]
    assert advice.other_model is not None or not question.get("other"), question["why"]
    if "max_ctx" in question:
        least, most = question["max_ctx"]
        assert least <= (advice.pick.max_context or 0) <= most, question["why"]


def test_there_are_enough_questions() -> None:
    assert len(QUESTIONS) >= 40
    assert len({question["ask"] for question in QUESTIONS}) == len(QUESTIONS)


def test_the_command_answers_as_the_library_does(tmp_path: Path) -> None:
    """The command's table, its JSON and --best name the same variant; the Fit screen shows the JSON's advice."""
    asked = Asked.parse("Qwen3-14B, RTX 3060 12GB, 16384")
    pick = asked.answer().pick
    assert pick is not None
    command = ("fit", asked.model, "--gpu", asked.gpu, "--ctx", str(asked.context), "--variants", ",".join(VARIANTS))
    command = (*command, "--workspace", str(tmp_path))
    answer = json.loads(call(*command, "--format", "json").stdout)["advice"]
    assert (answer["variant"], answer["kv_type"]) == (pick.variant, pick.kv_type) == ("Q4_K_M", "q8_0")
    assert answer["command"] == pick.commands.run
    assert "-ctk q8_0 -ctv q8_0" in answer["command"]
    printed = call(*command).stdout
    assert f"► Run {pick.name}" in printed
    shorter = next(one for one in answer["alternatives"] if one["direction"] == "shorter context")
    assert (shorter["variant"], shorter["kv_type"], shorter["placement"]) == ("Q4_K_M", "f16", "gpu")
    assert asked.context / 4 <= shorter["ctx"] < asked.context
    assert f"With a context of {shorter['ctx']:,} tokens: Q4_K_M (" in printed
    assert call(*command, "--best", "--format", "quiet").stdout == f"{pick.variant}\n"
