"""The interpreter runs what is on its allow list and rejects everything else, quickly."""

import time

import pytest

from presets.micro.interpreter import Refused, call


def run(expression: str, x: object = 3, y: object = 2) -> object:
    return call(f"def f(x, y):\n    return {expression}", x, y)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("x + y * 2", 7),
        ("-x ** 2", -9),
        ("max(x, y, 9)", 9),
        ("[i * 2 for i in [1, x] if i > 1]", [6]),
        ("[1, 2, 3][::-1]", [3, 2, 1]),
    ],
)
def test_supported_expressions_have_the_same_value_as_in_python(expression: str, value: object) -> None:
    assert run(expression) == value == eval(expression, {}, {"x": 3, "y": 2})


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').system('true')", "x.__class__", "open('/etc/passwd')", "(lambda: 1)()", "'a' * 9", "f'{x}'",
        "9 ** 9 ** 9", "[0] * 10 ** 12", "10 ** 16 * 10 ** 16", "[i for i in [1] for j in [1]]",
        "x if x else y", "x @ y",
        "[1] * 10000 * 10000", "1 / 0", "x // 0", "x[0]", "unknown", "True", "1.5", "{1}", "(yield)", "sum([[1]])",
        "eval('1')", "x := 3", "", "[i for i in x]", "max()", "sorted([1, [2]])", "(" * 300 + "x" + ")" * 300,
    ],
)  # fmt: skip
def test_everything_else_is_rejected_quickly(expression: str) -> None:
    start = time.monotonic()
    with pytest.raises(Refused):
        run(expression)
    assert time.monotonic() - start < 2


@pytest.mark.parametrize(
    "source",
    ["",
     "x = 1", "def f(x): return x", "def f(x, y):\n    x = 1\n    return x", "import os", "def f(x, y):\n    return",
     "def f(x, y, *z):\n    return x", "@print\ndef f(x, y):\n    return x", "def f(x, y=print(1)):\n    return x"],
)  # fmt: skip
def test_a_source_that_is_not_one_function_with_one_expression_is_rejected(source: str) -> None:
    with pytest.raises(Refused):
        call(source, 1, 2)


def test_the_variable_of_a_comprehension_is_unknown_outside_it() -> None:
    with pytest.raises(Refused):
        run("[i // 0 for i in [1]] + [i]")
    with pytest.raises(Refused):
        run("[i for i in [1]] + [i]")
