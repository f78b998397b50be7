"""Schedules from text, which is parsed and never executed."""

from __future__ import annotations

import ast
import inspect
import operator
import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from lrcore._lrcore_core import to_float
from lrcore._names import remedy, unknown_argument
from lrcore.schedules._base import Schedule, as_schedule

_LONGEST = 10_000
_DEEPEST = 50
TEXT_METHODS = ("then", "warmup", "clip", "shift", "per_epoch")
_FOREIGN = re.compile(r"[^\w\s.,()\[\]=*/+\-'\"]", re.ASCII)
_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
}


def parse(text: str, /, **names: float) -> Schedule:
    """Return the schedule that a Python expression describes, such as the `repr` of a schedule.

    The expression may call the public schedules except `Function` and `Recursive`, and their methods `then`, `warmup`,
    `clip`, `shift` and `per_epoch`, with numbers, quoted words, lists and schedules as arguments. It may multiply
    schedules with ``*``, and compute with numbers using ``+ - * / //``. A number alone is a constant rate. Each
    `Plateau` in the text is a new one: unlike `Schedule.to_dict`, text cannot express that one `Plateau` is used in two
    places. Expressions may be nested up to 50 levels deep.

    Parameters
    ----------
    text : str
        The expression, of at most 10,000 characters.
    **names : float
        Numbers that the expression may use by name.

    Raises
    ------
    TypeError
        If `text` is not a string, or one of `names` is not a number.
    ValueError
        If the expression contains anything else. The message names its column, counted from 1.

    Examples
    --------
    >>> parse("Cosine(1e-3, steps=1000).warmup(100)")
    Cosine(lr=0.001, steps=1000).warmup(100)
    >>> parse("Linear(lr, 0, steps=10) * 0.5", lr=0.1)(5)
    0.025
    >>> parse("Cosine(1e-3, steps=total)")
    Traceback (most recent call last):
    ValueError: schedule: unknown name total, at column 20 near "total)"
    """
    if not isinstance(text, str):
        raise TypeError(f"schedule: expected a string, got {type(text).__name__}")
    return _Parser(text, {name: _number(name, value) for name, value in names.items()}).parse()


def _number(name: str, value: Any) -> float:
    """Check a number, and return it as an int or a float."""
    number = to_float(name, value)
    try:
        return operator.index(value)
    except TypeError:
        return number


class _Parser:
    """Turns the syntax tree of Python's own parser into a schedule."""

    def __init__(self, text: str, names: Mapping[str, float]) -> None:
        self._text = text
        self._names = names

    def parse(self) -> Schedule:
        text = self._text
        if len(text) > _LONGEST:
            raise ValueError(f"schedule: expected at most {_LONGEST} characters, got {len(text)}")
        if foreign := _FOREIGN.search(text):
            raise self._refusal(f"unexpected character {foreign.group()!r}", foreign.start())
        if not text.strip():
            raise ValueError("schedule: expected a schedule, got an empty string")
        blank = len(text) - len(text.lstrip())
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # Python warns about a number before a keyword, as in 1if
                tree = ast.parse(re.sub(r"\s", " ", text)[blank:], mode="eval").body
        except SyntaxError as error:
            raise self._refusal(error.msg, blank + (error.offset or 1) - 1) from None
        except (MemoryError, RecursionError, ValueError):
            raise ValueError("schedule: too long, or nested too deeply") from None
        self._blank = blank
        schedule: Schedule = self._made(as_schedule, [self._value(tree, 0)], {}, self._position(tree))
        return schedule

    def _refusal(self, problem: str, position: int) -> ValueError:
        """Return the error for a problem, with its position before the remedy."""
        near = self._text[position : position + 30].strip()
        what, semicolon, advice = problem.partition("; ")
        return ValueError(f'schedule: {what}, at column {position + 1} near "{near}"{semicolon}{advice}')

    def _position(self, node: ast.expr | ast.keyword) -> int:
        return self._blank + node.col_offset

    def _value(self, node: ast.expr, depth: int) -> Any:
        """Return the value that a node stands for."""
        if depth > _DEEPEST:
            raise self._refusal("nested too deeply", self._position(node))
        match node:
            case ast.Constant(value=bool() | int() | float() | str() | None):
                return node.value
            case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=operand):
                number = self._value(operand, depth + 1)
                if _is_number(number):
                    return -number if isinstance(node.op, ast.USub) else number
            case ast.List(elts=elements) | ast.Tuple(elts=elements):
                return [self._value(each, depth + 1) for each in elements]
            case ast.Name(id=name) if name in self._names:
                return self._names[name]
            case ast.Name(id=name) if name in text_classes():
                raise self._refusal(f"{name} has no arguments; write {name}(...)", self._position(node))
            case ast.Name(id=name):
                hint = remedy(name, {each: each for each in self._names})
                raise self._refusal(f"unknown name {name}{hint}", self._position(node))
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
                return self._computed(node, self._value(left, depth + 1), self._value(right, depth + 1))
            case ast.Call(func=ast.Name(id=name)):
                if name not in text_classes():
                    names = {each: each for each in text_classes()}
                    hint = remedy(name, names) or f"; expected one of {', '.join(sorted(names))}"
                    raise self._refusal(f"{name} is not a schedule{hint}", self._position(node))
                return self._called(node, text_classes()[name], self._position(node), depth)
            case ast.Call(func=ast.Attribute(value=owner, attr=name) as attribute):
                schedule = self._value(owner, depth + 1)
                position = self._blank + (attribute.end_col_offset or 0) - len(name)
                if name not in TEXT_METHODS or not isinstance(schedule, Schedule):
                    names = {each: each for each in TEXT_METHODS}
                    hint = remedy(name, names) or f"; expected one of {', '.join(TEXT_METHODS)}"
                    raise self._refusal(f"unknown method {name}{hint}", position)
                return self._called(node, getattr(schedule, name), position, depth)
        raise self._refusal("expected a schedule, a number, a quoted word or a list", self._position(node))

    def _computed(self, node: ast.BinOp, left: Any, right: Any) -> Any:
        numbers = _is_number(left) + _is_number(right)
        schedules = isinstance(left, Schedule) + isinstance(right, Schedule)
        if numbers < 2 and not (isinstance(node.op, ast.Mult) and schedules and numbers + schedules == 2):
            raise self._refusal(
                "expected two numbers, or a schedule times a number or a schedule", self._position(node)
            )
        return self._made(_OPERATORS[type(node.op)], [left, right], {}, self._position(node))

    def _called(self, node: ast.Call, function: Any, position: int, depth: int) -> Any:
        for each in node.args:
            if isinstance(each, ast.Starred):
                raise self._refusal("unexpected *", self._position(each))
        args = [self._value(each, depth + 1) for each in node.args]
        known = inspect.signature(function).parameters
        keywords: dict[str, Any] = {}
        for keyword in node.keywords:
            if keyword.arg is None or keyword.arg in keywords:
                problem = f"repeated argument {keyword.arg}" if keyword.arg else "unexpected **"
                raise self._refusal(problem, self._position(keyword))
            if keyword.arg not in known:
                error = unknown_argument(function.__name__, keyword.arg, known)
                raise self._refusal(str(error), self._position(keyword))
            keywords[keyword.arg] = self._value(keyword.value, depth + 1)
        return self._made(function, args, keywords, position)

    def _made(self, function: Any, args: list[Any], keywords: dict[str, Any], position: int) -> Any:
        try:
            return function(*args, **keywords)
        except (ArithmeticError, TypeError, ValueError) as error:
            raise self._refusal(str(error).replace(".__init__()", "()"), position) from None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def text_classes() -> dict[str, type[Schedule]]:
    """Return the classes of the schedules that an expression may use, by name."""
    return {
        name: cls for name, cls in Schedule._classes.items() if cls._in_text and not inspect.isabstract(cls)
    }
