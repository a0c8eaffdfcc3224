"""The toy world: it is reproducible, no item is in two splits, and an independent check finds every answer correct."""

import json
import re
from collections.abc import Callable
from itertools import islice
from random import Random

import pytest

from presets.micro import build
from presets.micro.interpreter import call
from presets.micro.world import corpus, facts, forms, functions, names, stories, sums
from presets.micro.world.item import SPLITS, WorldItem, items

KINDS: dict[str, Callable[[Random], WorldItem]] = {
    "sums": sums.draw,
    "stories": stories.draw,
    "forms": forms.draw,
    "functions": functions.draw,
    "passage": facts.passage,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow
def test_no_question_is_in_two_splits(kind: str) -> None:
    asked = {
        split: {item.identity for item in islice(items(KINDS[kind], Random(split), split), 400)} for split in SPLITS
    }
    for first in SPLITS:
        for second in SPLITS:
            assert first == second or not asked[first] & asked[second]


def test_no_tested_question_is_in_the_training_stream() -> None:
    """Looks for the prompts of the shipped tasks in the text that training reads."""
    trained = "\n".join(corpus.plain(document) for document in islice(corpus.documents(Random(1), "train"), 6_000))
    for name in ("micro_sums", "micro_story", "micro_form"):
        for row in build.rows(name):
            assert str(row.get("question") or row.get("story") or row.get("instruction")) not in trained
    tested = {fact.question() for fact in facts.facts() if fact.split == "test"}
    asked = {line.removeprefix("Question: ") for line in trained.splitlines() if line.startswith("Question: ")}
    assert not tested & asked


def test_the_generator_reproduces_the_shipped_tasks_and_texts() -> None:
    for name in [*build.LEVELED, "micro_facts"]:
        shipped = (build.ROOT / "tasks" / f"{name}.jsonl").read_text().splitlines()
        assert [json.loads(line) for line in shipped] == list(build.rows(name))
        assert len(shipped) >= (1000 if name == "micro_sums" else 200)
    text = corpus.text(Random(f"{build.SEED} test"), "test", build.TEXT_CHARACTERS)
    assert (build.ROOT / "text" / "test.txt").read_text() == text


def test_the_steps_of_every_sum_are_correct_and_consecutive() -> None:
    for item in islice(items(sums.draw, Random(3), "test"), 500):
        steps = re.findall(r"(\d+)([-+*/])(\d+)=(\d+)", item.answer)
        value = int(re.findall(r"\d+", item.prompt)[0])
        for left, sign, right, result in steps:
            assert int(left) == value
            value = {"+": value + int(right), "-": value - int(right), "*": value * int(right)}.get(
                sign, value // int(right)
            )
            assert int(result) == value
        assert item.answer.endswith(f"The answer is {value}.")
        assert item.extra["answer"] == str(value)


MOVES = (
    re.compile(r"^\w+ (?:puts|takes the \w+ out of the \w+ and hides) the (?P<thing>\w+) in the (?P<value>\w+)$"),
    re.compile(r"^(?:\w+ loses a bet and|Soon)? ?[Tt]he (?P<thing>\w+) belongs to (?P<value>\w+)$"),
    re.compile(r"^(?:Now )?(?P<thing>\w+) stays in (?P<value>\w+)$"),
    re.compile(r"^(?P<thing>\w+) goes to where (?P<other>\w+) is$"),
)
QUESTION = re.compile(
    r"^(?:In the evening \w+ finds the|At night the|When night falls) (\w+) (?:in the|belongs to|stays in)$"
)


def test_every_story_has_the_ending_that_follows_from_its_sentences() -> None:
    """Reads each story again, sentence by sentence, and looks up the value that is asked for."""
    kinds = set()
    for item in islice(items(stories.draw, Random(4), "test"), 600):
        *sentences, question = str(item.extra["story"]).split(". ")
        now: dict[str, str] = {}
        for sentence in sentences:
            match = next((match for move in MOVES if (match := move.match(sentence))), None)
            if match is None:
                assert re.match(r"^(On foot|By boat|On horseback) \w+ leaves \w+$", sentence), sentence
                continue
            found = match.groupdict()
            now[found["thing"]] = found["value"] if "value" in found else now[found["other"]]
        asked = QUESTION.match(question)
        assert asked, question
        kinds.add(question.split()[0])
        assert item.answer == f" {now[asked[1]]}"
        endings = item.extra["endings"]
        assert isinstance(endings, list)
        assert endings[int(str(item.extra["label"]))] == f"{now[asked[1]]}."
        assert len(set(endings)) == 4
    assert kinds == {"In", "At", "When"}


def test_every_function_has_the_same_results_in_python() -> None:
    """Compares the interpreter with Python's eval, on expressions that the generator wrote."""
    for item in islice(items(functions.draw, Random(5), "test"), 300):
        solution, tests = str(item.extra["solution"]), item.extra["tests"]
        assert isinstance(tests, list)
        assert len(tests) == 4
        for test in tests:
            expected = eval(solution, {}, {"x": test["x"], "y": test["y"]})
            assert test["result"] == expected
            assert call(f"def f(x, y):\n    return {solution}", test["x"], test["y"]) == expected


def test_a_fact_is_stated_and_asked_with_the_same_value() -> None:
    fact = facts.facts()[0]
    asked = facts.ask(fact, Random(1))
    choices, label = asked.extra["choices"], asked.extra["label"]
    assert isinstance(choices, list)
    assert choices[int(str(label))] == fact.value
    assert fact.value in fact.tell(Random(1))


def test_facts_about_train_only_people_are_not_tested() -> None:
    tested = {fact.entity for fact in facts.facts() if fact.split != "train"}
    assert not tested & set(names.TRAIN_ONLY_PEOPLE)
    assert len({fact.question() for fact in facts.facts()}) == len(facts.facts())
