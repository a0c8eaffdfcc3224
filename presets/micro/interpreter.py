"""Runs a function of one expression that a model wrote, by an allow list of syntax nodes instead of Python's `exec`.

It supports numbers, lists, arithmetic, comparisons, slices, list comprehensions and six functions. Sizes and steps are
bounded, so no answer can take long or need much memory.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from typing import Any

MAX_SOURCE = 2_000  # characters
MAX_STEPS = 10_000  # nodes evaluated in one call
MAX_ITEMS = 10_000  # items of a list
MAX_NUMBER = 10**30

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {ast.USub: operator.neg, ast.UAdd: operator.pos}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": abs,
    "max": max,
    "min": min,
    "sum": sum,
    "len": len,
    "sorted": sorted,
}


class Refused(Exception):
    """The source is not a function of the supported form, or its evaluation failed or exceeded a limit."""


def call(source: str, x: object, y: object) -> Any:
    """The value of `def f(x, y): return EXPRESSION` for x and y, which are integers or lists of integers.

    Raises Refused for everything that is not on the allow list, and for an evaluation that fails.
    """
    if len(source) > MAX_SOURCE:
        raise Refused("the source is too long")
    try:
        module = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise Refused(f"the source is not valid Python: {error}") from error
    match module.body:
        case [ast.FunctionDef(args=arguments, body=[ast.Return(value)], decorator_list=[])] if value:
            plain = ast.arguments([], [ast.arg("x"), ast.arg("y")], None, [], [], None, [])
            if ast.dump(arguments) == ast.dump(plain):
                return _Evaluation({"x": x, "y": y}).value(value)
    raise Refused("the source is not a function f(x, y) that returns one expression")


class _Evaluation:
    def __init__(self, names: dict[str, object]) -> None:
        self.names = names
        self.steps = 0

    def value(self, node: ast.expr) -> Any:
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise Refused("too many steps")
        try:
            result = self._evaluate(node)
        except (TypeError, ValueError, ZeroDivisionError, IndexError, OverflowError, RecursionError) as error:
            raise Refused(str(error)) from error
        if isinstance(result, int) and abs(result) > MAX_NUMBER:
            raise Refused("the number is too large")
        if isinstance(result, list) and len(result) > MAX_ITEMS:
            raise Refused("the list is too long")
        return result

    def _evaluate(self, node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=int() as number) if not isinstance(number, bool):
                return number
            case ast.Name(id=name) if name in self.names:
                return self.names[name]
            case ast.List(elts=items):
                return [self.value(item) for item in items]
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
                return self._binary(type(op), self.value(left), self.value(right))
            case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
                return _UNARY[type(op)](self.value(operand))
            case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _COMPARE:
                return _COMPARE[type(op)](self.value(left), self.value(right))
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in _FUNCTIONS:
                return _FUNCTIONS[name](*[self.value(argument) for argument in arguments])
            case ast.Subscript(value=whole, slice=ast.Slice(lower=lower, upper=upper, step=step)):
                bounds = [None if bound is None else self.value(bound) for bound in (lower, upper, step)]
                return self.value(whole)[slice(*bounds)]
            case ast.Subscript(value=whole, slice=index):
                return self.value(whole)[self.value(index)]
            case ast.ListComp(
                elt=element, generators=[ast.comprehension(target=ast.Name(id=name), iter=source, ifs=tests)]
            ):
                return self._comprehension(element, name, self.value(source), tests)
        raise Refused(f"{type(node).__name__} is not supported")

    def _binary(self, op: type[ast.operator], left: Any, right: Any) -> Any:
        # checked before it is computed, because a power or a repeated list could fill the memory
        if op is ast.Pow and (not isinstance(right, int) or abs(right) > 16):
            raise Refused("the power is too large")
        if op is ast.Mult and isinstance(left, list) != isinstance(right, list):
            items, times = (left, right) if isinstance(left, list) else (right, left)
            if isinstance(times, int) and len(items) * times > MAX_ITEMS:
                raise Refused("the list is too long")
        return _BINARY[op](left, right)

    def _comprehension(self, element: ast.expr, name: str, source: Any, tests: list[ast.expr]) -> list[Any]:
        if not isinstance(source, list):
            raise Refused("a comprehension needs a list")
        outer = self.names
        result = []
        for item in source:
            self.names = {**outer, name: item}
            if all(self.value(test) for test in tests):
                result.append(self.value(element))
        self.names = outer
        return result
