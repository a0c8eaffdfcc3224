"""Arithmetic word problems, solved step by step, like GSM8K."""

from __future__ import annotations

from random import Random

from presets.micro.world.item import WorldItem
from presets.micro.world.names import GOODS, PEOPLE

LEVELS = 3  # 0: two or three steps of two digits ... 2: three to five steps of three digits with products and shares

_GAIN = ["{n} finds {k} more.", "A friend gives {n} {k}.", "{n} buys {k}.", "{n} gets {k} from the market."]
_LOSS = ["{n} loses {k}.", "{n} gives away {k}.", "{n} sells {k}.", "{k} of them break."]
_TIMES = ["Then {n} ends up with {k} times as many.", "A wizard makes it {k} times as many."]
_SHARE = ["{n} shares them among {k} bags and keeps one bag."]


def draw(rng: Random, level: int | None = None) -> WorldItem:
    """A problem of two to five steps. The answer has each step as an equation, and then the result."""
    level = rng.randrange(LEVELS) if level is None else level
    steps = rng.randint(2, 3) if level == 0 else rng.randint(2 + level // 2, 3 + min(level, 2))
    top = [99, 999, 999][level]
    name, goods = rng.choice(PEOPLE), rng.choice(GOODS)
    value = rng.randint(top // 10, top)
    sentences = [f"{name} has {value} {goods}."]
    solved = []
    for _ in range(steps):
        operations = ["+", "-"]
        if level >= 1 and value * 3 <= top * 4:
            operations.append("*")
        if level >= 2 and value >= 20:
            operations.append("/")
        operation = rng.choice(operations)
        if operation == "-" and value < 2:
            operation = "+"
        if operation == "+":
            operand = rng.randint(2, top)
            result, phrase = value + operand, rng.choice(_GAIN)
        elif operation == "-":
            operand = rng.randint(1, value - 1)
            result, phrase = value - operand, rng.choice(_LOSS)
        elif operation == "*":
            operand = rng.randint(2, 9 if level >= 2 else 4)
            result, phrase = value * operand, rng.choice(_TIMES)
        else:
            divisors = [d for d in range(2, 10) if value % d == 0]
            if not divisors:
                operand = rng.randint(2, top)
                operation, result, phrase = "+", value + operand, rng.choice(_GAIN)
            else:
                operand = rng.choice(divisors)
                result, phrase = value // operand, rng.choice(_SHARE)
        sentences.append(phrase.format(n=name, k=operand))
        solved.append(f"{value}{operation}{operand}={result}")
        value = result
    question = " ".join(sentences) + f" How many {goods} does {name} have now?"
    return WorldItem(
        identity=question,
        prompt=f"Question: {question}\nAnswer:",
        answer=f" {', '.join(solved)}. The answer is {value}.",
        level=level,
        extra={"question": question, "answer": str(value), "steps": len(solved)},
    )
