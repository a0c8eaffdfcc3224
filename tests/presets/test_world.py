"""The toy world: same seed, same world; no item in two splits; every answer right by a reckoning of its own."""

import json
import re
from collections.abc import Callable
from itertools import islice
from random import Random

import pytest

from presets.micro import build
from presets.micro.interpreter import call
from presets.micro.world import corpus, facts, forms, functions, stories, sums
from presets.micro.world.item import SPLITS, Item, items

KINDS: dict[str, Callable[[Random], Item]] = {
    "sums": sums.draw,
    "stories": stories.draw,
    "forms": forms.draw,
    "functions": functions.draw,
    "passage": facts.passage,
}


@pytest.mark.parametrize("kind", KINDS)
def test_no_question_is_in_two_splits(kind: str) -> None:
    asked = {
        split: {item.identity for item in islice(items(KINDS[kind], Random(split), split), 400)} for split in SPLITS
    }
    for first in SPLITS:
        for second in SPLITS:
            assert first == second or not asked[first] & asked[second]


def test_no_tested_question_is_in_the_training_stream() -> None:
    """The very prompts of the shipped tasks, looked for in what training reads."""
    trained = "\n".join(corpus.plain(document) for document in islice(corpus.documents(Random(1), "train"), 6_000))
    for name in ("micro_sums", "micro_story", "micro_form"):
        for row in build.rows(name):
            assert str(row.get("question") or row.get("story") or row.get("instruction")) not in trained
    tested = {fact.question() for fact in facts.facts() if fact.split == "test"}
    asked = {line.removeprefix("Question: ") for line in trained.splitlines() if line.startswith("Question: ")}
    assert not tested & asked


def test_the_shipped_tasks_and_texts_are_what_the_generator_writes() -> None:
    for name in [*build.LEVELED, "micro_facts"]:
        shipped = (build.ROOT / "tasks" / f"{name}.jsonl").read_text().splitlines()
        assert [json.loads(line) for line in shipped] == list(build.rows(name))
        assert len(shipped) >= (1000 if name == "micro_sums" else 200)
    text = corpus.text(Random(f"{build.SEED} test"), "test", build.TEXT_CHARACTERS)
    assert (build.ROOT / "text" / "test.txt").read_text() == text


def test_the_steps_of_every_sum_are_true_and_follow_each_other() -> None:
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


def test_every_story_ends_where_its_middle_leads() -> None:
    """Read each story again, sentence by sentence, and look up what is asked."""
    moves = re.compile(
        r"^\w+ (?:puts the (\w+) in the (\w+)|moves the (\w+) from the \w+ to the (\w+)"
        r"|takes the (\w+) out and puts it in the (\w+))$"
    )
    seen = 0
    for item in islice(items(stories.draw, Random(4), "test"), 600):
        sentences = str(item.extra["story"]).removesuffix(".").split(". ")
        if " looks for the " not in sentences[-1]:
            continue
        seen += 1
        where: dict[str, str] = {}
        for sentence in sentences[:-1]:
            match = moves.match(sentence)
            assert match, sentence
            thing, place = [group for group in match.groups() if group]
            where[thing] = place
        sought = sentences[-1].rpartition(" ")[2]
        assert item.answer == f" It is in the {where[sought]}."
        endings = item.extra["endings"]
        assert isinstance(endings, list)
        assert endings[int(str(item.extra["label"]))] == item.answer.strip()
        assert len(set(endings)) == 4
    assert seen > 100


def test_every_function_gives_its_stated_results_in_python_too() -> None:
    """Python's own eval is the oracle of the interpreter, on expressions this generator wrote."""
    for item in islice(items(functions.draw, Random(5), "test"), 300):
        solution, tests = str(item.extra["solution"]), item.extra["tests"]
        assert isinstance(tests, list)
        assert len(tests) == 4
        for test in tests:
            expected = eval(solution, {}, {"x": test["x"], "y": test["y"]})
            assert test["result"] == expected
            assert call(f"def f(x, y):\n    return {solution}", test["x"], test["y"]) == expected


def test_told_facts_agree_with_what_is_asked() -> None:
    fact = facts.facts()[0]
    asked = facts.ask(fact, Random(1))
    choices, label = asked.extra["choices"], asked.extra["label"]
    assert isinstance(choices, list)
    assert choices[int(str(label))] == fact.value
    assert fact.value in fact.tell(Random(1))
