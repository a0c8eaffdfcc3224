"""Small functions described in words and by examples, to be written as one expression, like HumanEval."""

from __future__ import annotations

from random import Random

from presets.micro.interpreter import call
from presets.micro.world.item import WorldItem

LEVELS = 4  # 1 + level operations

# (description of an operation, expression that applies it to `{}`)
_NUMBER = [
    ("add {k}", "{} + {k}"),
    ("subtract {k}", "{} - {k}"),
    ("multiply by {k}", "{} * {k}"),
    ("add y", "{} + y"),
    ("subtract y", "{} - y"),
    ("multiply by y", "{} * y"),
    ("take the larger of it and {k}", "max({}, {k})"),
    ("take the smaller of it and y", "min({}, y)"),
    ("take the rest on division by {k}", "{} % {k}"),
    ("take its absolute value", "abs({})"),
    ("negate it", "-{}"),
    ("square it", "{} ** 2"),
]
_LIST = [
    ("sort it", "sorted({})"),
    ("reverse it", "{}[::-1]"),
    ("drop the first item", "{}[1:]"),
    ("drop the last item", "{}[:-1]"),
    ("add {k} to each item", "[i + {k} for i in {}]"),
    ("multiply each item by {k}", "[i * {k} for i in {}]"),
    ("keep the items above {k}", "[i for i in {} if i > {k}]"),
    ("put {k} at the end", "{} + [{k}]"),
    ("repeat it twice", "{} * 2"),
]
_FOLD = [("return the sum", "sum({})"), ("return the length", "len({})"), ("return the list", "{}")]


def draw(rng: Random, level: int | None = None) -> WorldItem:
    """A description, two examples and the function's expression; `tests` are more inputs with their results."""
    level = rng.randrange(LEVELS) if level is None else level
    on_list = rng.random() < 0.45
    steps = []
    expression = "x"
    for _ in range(1 + level):
        said, template = rng.choice(_LIST if on_list else _NUMBER)
        operand = str(rng.randint(2, 9))
        steps.append(said.replace("{k}", operand))
        expression = template.replace("{k}", operand).replace("{}", _bracketed(expression, template))
    if on_list:
        said, template = rng.choice(_FOLD)
        steps.append(said)
        expression = template.replace("{}", _bracketed(expression, template))
    source = f"def f(x, y):\n    return {expression}"
    cases = []
    for _ in range(6):
        x: object = [rng.randint(0, 12) for _ in range(rng.randint(3, 5))] if on_list else rng.randint(-9, 12)
        y = rng.randint(1, 9)
        cases.append({"x": x, "y": y, "result": call(source, x, y)})
    said = ", then ".join(steps)
    examples = "".join(f"# f({case['x']}, {case['y']}) = {case['result']}\n" for case in cases[:2])
    prompt = f"# Take x, {said}.\n{examples}def f(x, y):\n    return"
    return WorldItem(
        identity=said,
        prompt=prompt,
        answer=f" {expression}",
        level=level,
        extra={"prompt": prompt, "tests": cases[2:], "solution": expression},
    )


def _bracketed(expression: str, template: str) -> str:
    """The expression, in brackets if the template binds more tightly than it."""
    tight = template.startswith(("{} ", "{}[", "-{}"))
    return f"({expression})" if tight and not (expression == "x" or _closed(expression)) else expression


def _closed(expression: str) -> bool:
    """Whether the expression is a single call or list, that is, whether its first bracket closes at the end."""
    depth = 0
    if not expression.startswith(("max(", "min(", "abs(", "sorted(", "[")):
        return False
    for position, character in enumerate(expression):
        depth += character in "(["
        depth -= character in ")]"
        if depth == 0 and character in ")]":
            return position == len(expression) - 1
    return False
