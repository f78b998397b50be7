"""The equations in docstrings and pages, computed in float64, match the results of the code."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from lrcore import schedules
from schedules import equations as schedule_equations
from schedules.examples import EXAMPLES
from support import CLASSES, flat_hyper

pytestmark = schedule_equations.needs_script


@pytest.fixture(name="equations", scope="module")
def load_equations() -> Any:
    """Return the module that parses equations."""
    return schedule_equations.load()


OPTIONS: dict[str, list[tuple[dict[str, Any], set[str]]]] = {
    "SGD": [
        ({}, {"plain"}),
        ({"momentum": 0.9, "dampening": 0.3}, {"momentum"}),
        ({"momentum": 0.9, "nesterov": True}, {"nesterov"}),
        ({"momentum": 0.9, "lr_in_velocity": True}, {"lr_in_velocity"}),
        ({"momentum": 0.9, "nesterov": True, "lr_in_velocity": True}, {"nesterov, lr_in_velocity"}),
    ],
    "Adagrad": [({"lr_decay": 0.1}, set())],
    "RMSprop": [
        ({}, {"not centered", "plain"}),
        ({"centered": True, "alpha": 0.9}, {"centered", "plain"}),
        ({"momentum": 0.8}, {"not centered", "momentum"}),
        ({"momentum": 0.8, "centered": True, "lr_in_velocity": True}, {"centered", "lr_in_velocity"}),
    ],
    "AdamW": [({"weight_decay": 0.25}, set())],
    "RAdam": [({}, set()), ({"betas": (0.8, 0.9)}, set())],
}
"""Arguments, and the conditions of the equation lines that apply to them. An optimizer that is not listed is
tested with its defaults, and all lines of its equation apply."""

CASES = [(name, *each) for name in CLASSES for each in OPTIONS.get(name, [({}, set())])]


def letters(docstring: str) -> dict[str, str]:
    """Return the letter of each state in the equation."""
    return dict(re.findall(r"``(\w+)`` \((\w)\)", docstring))


def equation(equations: Any, cls: Any) -> Any:
    """Return the lines of a class's equation."""
    return equations.lines(equations.block(inspect.getdoc(cls)))


@pytest.mark.parametrize(("name", "arguments", "lines"), CASES, ids=str)
def test_an_optimizers_equation(
    equations: Any, name: str, arguments: dict[str, Any], lines: set[str]
) -> None:
    """Ten steps of the equation equal ten steps of the optimizer.

    Each float32 step rounds a few numbers of magnitude 1 by 2^-24 each. The root of the second moment
    magnifies these errors in the first steps. Over ten steps, they add up to far less than 1e-4 of a step. A
    wrong sign or factor causes a much larger difference.
    """
    cls = CLASSES[name]
    read = equation(equations, cls)
    assert lines <= {line.when for line in read}
    params = np.array([1.0, -0.5, 2.0], np.float32)
    opt = cls(params, lr=0.0625, **arguments)
    letter_of = letters(str(cls.__doc__))
    states = {letter_of[each]: np.zeros(3) for each in opt.state}
    p = params.astype(np.float64)
    for t in range(1, 11):
        g = np.cos(np.arange(3) + t).astype(np.float32)
        for i in range(3):
            known = flat_hyper(opt) | {"lr": 0.0625, "t": float(t), "p": p[i], "g": float(g[i])}
            if name == "SGD" and t == 1:
                known["dampening"] = 0.0  # "Dampening does not apply to the first gradient."
            known |= {letter: values[i] for letter, values in states.items()}
            known = equations.compute(read, known, lines.__contains__)
            p[i] = known["p"]
            for letter, values in states.items():
                values[i] = known[letter]
        opt.step(g)
        np.testing.assert_allclose(params, p, rtol=0, atol=1e-4 * 0.0625 * t + 1e-6)


def test_every_line_of_an_optimizers_equation_is_computed(equations: Any) -> None:
    for name, cls in CLASSES.items():
        read = equation(equations, cls)
        options = {line.when for line in read if line.when and equations._condition(line.when) is None}
        assert options == set().union(*(lines for each, _, lines in CASES if each == name)), name


def examples() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the schedules whose equation covers all their arguments."""
    for name, several in EXAMPLES.items():
        for options in several:
            if schedule_equations.says_all(options):
                yield name, options
    yield "Function", {"fn": lambda t: 1 / (1 + t)}
    yield "Plateau", {"lr": schedules.Cosine(0.1, 30), "factor": 0.5, "min_lr": 0.02, "patience": 0}
    yield "Sequence", {"parts": [(schedules.Cosine(0.1, 9), 12), (0.3, 5), schedules.Rex(0.2, 8)]}


@pytest.mark.parametrize(("name", "options"), [*examples()], ids=lambda each: str(each)[:50])
def test_a_schedules_equation(name: str, options: dict[str, Any]) -> None:
    """The equation and the schedule give the same rates, except that they round in a different order."""
    schedule = getattr(schedules, name)(**options)
    if name == "Plateau":
        for _ in range(4):
            schedule.observe(1.0)
        assert schedule.reductions == 3
    expected = [schedule(t) for t in range(100)]
    assert schedule_equations.rates(schedule, range(100)) == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_every_schedule_has_one(equations: Any) -> None:
    tested = {name for name, _ in examples()}
    for name in schedules.__all__:
        cls = getattr(schedules, name)
        if inspect.isclass(cls) and issubclass(cls, schedules.Schedule) and cls is not schedules.Schedule:
            read = equation(equations, cls)
            assert read[-1].equations[-1].arguments[0].head == "s", name
            assert name in tested


@pytest.mark.parametrize(
    ("text", "latex", "value"),
    [
        ("a - b / c d", r"a - \frac{b}{c} \, d", 2 - 3 / 4 * 5),
        ("a / b c / d", r"\frac{a}{b} \, \frac{c}{d}", 2 / 3 * 4 / 5),
        ("a b / c", r"\frac{a \, b}{c}", 2 * 3 / 4),
        ("a (b - c)", r"a \, (b - c)", 2 * (3 - 4)),
        ("a - (b - c)", r"a - (b - c)", 2 - (3 - 4)),
        ("a^-0.5 2", r"a^{-0.5} \cdot 2", 2**-0.5 * 2),
        ("(a b)^c", r"(a \, b)^{c}", 6**4),
        ("|b - d| + max(a, c)", r"\left|b - d\right| + \max(a, c)", 2 + 4),
        ("-a d", r"-a \, d", -10),
        ("weight_decay", r"\mathrm{weight\_decay}", 7),
        ("mod(floor(d / a), c)", r"\left\lfloor \frac{d}{a} \right\rfloor \bmod c", 2),
    ],
)
def test_reading(equations: Any, text: str, latex: str, value: float) -> None:
    node = equations.parse(text)
    assert equations.latex(node) == latex
    known = dict(zip("abcd", (2.0, 3.0, 4.0, 5.0), strict=True)) | {"weight_decay": 7.0}
    assert equations.value(node, known) == pytest.approx(value)
