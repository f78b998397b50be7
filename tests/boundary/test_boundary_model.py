"""No input does harm: a call writes exactly the oracle's bits, or names the problem and changes nothing.

The model in `model.py` decides which of the two is expected, so a test fails both if invalid input is
accepted and if valid input is refused.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lrcore
from boundary import model
from boundary.model import Problem, View
from rules import oracle
from support import CONFIGURATIONS, Array, assert_bits, make

examples = settings(derandomize=True, deadline=None, database=None, max_examples=60)
rules = st.sampled_from(sorted(CONFIGURATIONS))


def names_of(rule: str) -> tuple[str, ...]:
    """Return the names of the operands of a step."""
    return "params", "grads", *lrcore.rules()[rule].states


def function_of(rule: str) -> Callable[..., None]:
    """Return the function that steps with a rule."""
    cls, arguments = CONFIGURATIONS[rule]
    return functools.partial(getattr(lrcore.functional, cls.__name__.lower()), **arguments)


def outcome(call: Callable[[], object], problems: Sequence[Problem]) -> bool:
    """Return whether a call was accepted; assert that it was refused only for one of `problems`."""
    refused: Exception | None = None
    try:
        call()
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        refused = error
    if refused is None:
        assert not problems, f"accepted in spite of {problems}"
        return True
    named = re.split(r"\W", str(refused), maxsplit=1)[0]
    due = [name for name, kind in problems if isinstance(refused, kind)]
    assert named in due, f"{type(refused).__name__}: {refused}; expected: {problems}"
    return False


def number_problems(**found: Any) -> list[Problem]:
    """Return a problem for each argument for which the model found an error."""
    return [(name, each) for name, each in found.items() if isinstance(each, type)]


def flat(memory: Array, view: View) -> Array:
    """Return a copy of a valid operand as a flat array."""
    return memory[view.offset // 4 :][: view.size].copy()


def expected(memory: Array, rule: str, views: dict[str, View], options: dict[str, Any]) -> Array:
    """Return the expected contents of the memory after an accepted step."""
    after = memory.copy()
    params, grads, *states = views.values()
    p, new = oracle.step32(
        rule, flat(memory, params), flat(memory, grads), [flat(memory, each) for each in states], **options
    )
    for view, values in zip((params, *states), (p, *new), strict=True):
        after[view.offset // 4 :][: view.size] = values
    return after


@st.composite
def operands(draw: st.DrawFn, rule: str) -> dict[str, View]:
    """Return the operands of a step; at most two of them may be invalid."""
    n = draw(st.integers(1, 40) | st.integers(0, 4))
    names = names_of(rule)
    wrong = draw(st.lists(st.sampled_from(names), min_size=draw(st.integers(0, 1)), max_size=2))
    return {name: draw(model.placed(n, slot, name in wrong)) for slot, name in enumerate(names)}


# ---- the functions


@settings(examples, max_examples=150)
@given(st.data())
def test_arrays_of_a_function(data: st.DataObject) -> None:
    """Whatever the dtypes, shapes, strides, offsets and overlaps, only the operands change.

    If the call is accepted, they have the oracle's bits; otherwise they are unchanged.
    """
    rule = data.draw(rules)
    views = data.draw(operands(rule))
    memory = model.fresh_memory()
    problems = [each for name, view in views.items() for each in view.problems(name, written=name != "grads")]
    problems += model.between(views)
    wanted = memory.copy()
    if not problems:
        wanted = expected(memory, rule, views, {"t": 3, "lr": 0.1} | model.for_oracle(rule, {}))
    arrays = [view.of(memory) for view in views.values()]
    outcome(lambda: function_of(rule)(*arrays, step=3, lr=0.1), problems)
    assert_bits(memory, wanted)


@examples
@given(st.data())
def test_numbers_of_a_function(data: st.DataObject) -> None:
    """Any hyperparameters, rate, scale and step number have the outcome that the model expects.

    Earlier calls make no difference.
    """
    rule = data.draw(rules)
    given_numbers, taken, problems = data.draw(model.changed_numbers(rule))
    decay = data.draw(model.DECAYS)
    step = data.draw(model.COUNTS | st.just(3))
    lr, scale = data.draw(st.tuples(st.just(0.1), st.just(1.0)) | st.tuples(model.scalars(), model.scalars()))
    numbers: dict[str, Any] = {
        "step": model.count(step, 1),
        "lr": model.rate(lr),
        "grad_scale": model.scale(scale),
    }
    problems += number_problems(**numbers)
    memory = model.fresh_memory()
    views = {
        name: View((19,), (4,), 4 * i * model.ROOM, memory.dtype, True)
        for i, name in enumerate(names_of(rule))
    }
    wanted = memory.copy()
    if not problems:
        options = {"t": numbers["step"], "lr": numbers["lr"], "grad_scale": numbers["grad_scale"]}
        wanted = expected(memory, rule, views, options | model.for_oracle(rule, taken, decay))
    arrays = [view.of(memory) for view in views.values()]
    arguments: dict[str, Any] = {"step": step, "lr": lr, "grad_scale": scale, "decay": decay} | given_numbers
    outcome(lambda: function_of(rule)(*arrays, **arguments), problems)
    assert_bits(memory, wanted)


@examples
@given(st.data())
def test_slices_in_any_order(data: st.DataObject) -> None:
    """A step on slices of the buffers, cut anywhere and taken in any order, equals a step on the whole."""
    rule = data.draw(rules)
    n = data.draw(st.integers(1, 70))
    cuts = sorted({0, n, *data.draw(st.lists(st.integers(0, n), max_size=5))})
    parts = data.draw(st.permutations([slice(a, b) for a, b in itertools.pairwise(cuts)]))
    t, lr = data.draw(st.integers(1, 50) | st.integers(1, 2**53 - 1)), data.draw(st.floats(0, 10, width=32))
    function, operands = function_of(rule), len(names_of(rule))
    memory = np.random.default_rng(n).standard_normal((operands, n)).astype(np.float32)
    whole = memory.copy()
    function(*whole, step=t, lr=lr)
    for part in parts:
        if data.draw(st.booleans()):  # a step with another step number on other arrays has no effect
            function(*np.ones((operands, 2), np.float32), step=t + 1 if t < 2**53 - 1 else 1, lr=1.0)
        function(*memory[:, part], step=t, lr=lr)
    assert_bits(memory, whole)


# ---- the classes


class Kept:
    """An optimizer, and the values that it should have according to the oracle."""

    def __init__(self, rule: str, memory: Array, decay: str) -> None:
        self.rule, self.memory, self.decay = rule, memory, decay
        self.opt: Any = make(rule, memory[16 : 16 + 19], 0.1, decay=decay)
        self.count = 0
        self.numbers: dict[str, float] = {}
        self.lr: Any = 0.1
        self.states: list[Array] = [np.array(each) for each in self.opt.state.values()]
        self.wanted = memory.copy()

    def unchanged(self) -> None:
        """Assert that the optimizer has the values that the oracle expects."""
        assert self.opt.step_count == self.count
        assert_bits(self.memory, self.wanted)
        for state, kept in zip(self.opt.state.values(), self.states, strict=True):
            assert_bits(state, kept)

    def step(self, data: st.DataObject) -> None:
        """Step on arbitrary gradients, which may be zeroed, with an arbitrary scale, under a rate that may be invalid."""
        view = data.draw(model.placed(19, 1, data.draw(st.booleans())))
        scale = data.draw(st.just(1.0) | model.scalars())
        zeroes = data.draw(st.booleans())
        checked: Any = model.scale(scale)
        lr: Any = model.rate(self.lr)
        params = View((19,), (4,), 64, self.memory.dtype, True)
        problems = [*view.problems("grads", zeroes), *number_problems(grad_scale=checked, lr=lr)]
        problems += [each for each in model.between({"params": params, "grads": view}) if each[0] == "grads"]
        if self.count == 2**53 - 1:
            problems.append(("step_count", OverflowError))
        grads = view.of(self.memory)
        if outcome(lambda: self.opt.step(grads, grad_scale=scale, zero_grads=zeroes), problems):
            self.follow(view, lr, checked)
            if zeroes:
                self.wanted[view.offset // 4 :][: view.size] = 0

    def follow(self, view: View, lr: float, scale: float) -> None:
        """Take the same step with the oracle."""
        self.count += 1
        p, self.states = oracle.step32(
            self.rule, self.wanted[16 : 16 + 19].copy(), flat(self.wanted, view), self.states, t=self.count, lr=lr,
            grad_scale=scale, **model.for_oracle(self.rule, self.numbers, self.decay),
        )  # fmt: skip
        self.wanted[16 : 16 + 19] = p

    def jump(self, data: st.DataObject) -> None:
        """Assign an arbitrary step count."""
        value = data.draw(model.COUNTS)
        checked = model.count(value, 0)
        if outcome(lambda: setattr(self.opt, "step_count", value), number_problems(step_count=checked)):
            self.count = int(value)

    def change(self, data: st.DataObject) -> None:
        """Assign arbitrary hyperparameters; either all of them are assigned, or none."""
        values, taken, problems = data.draw(model.changed_numbers(self.rule))
        if outcome(lambda: self.opt.hyper.update(values), problems):
            self.numbers |= taken

    def rate(self, data: st.DataObject) -> None:
        """Assign an arbitrary rate: a number, or a callable that returns an arbitrary value."""
        value = data.draw(model.scalars())
        if data.draw(st.booleans()):
            self.opt.lr, self.lr = lambda _: value, value
            return
        if not callable(value):
            checked = model.number("lr", value)
            if outcome(lambda: setattr(self.opt, "lr", value), number_problems(lr=checked)):
                self.lr = checked


@examples
@given(st.data())
def test_life_of_an_optimizer(data: st.DataObject) -> None:
    """Any steps and changes to the count, hyperparameters and rate yield the bits of the stateless oracle."""
    kept = Kept(data.draw(rules), model.fresh_memory(), data.draw(model.DECAYS))
    for act in data.draw(
        st.lists(st.sampled_from([kept.step, kept.step, kept.jump, kept.change, kept.rate]), max_size=8)
    ):
        act(data)
        kept.unchanged()


@pytest.mark.parametrize("rule", sorted(CONFIGURATIONS))
@settings(examples, max_examples=10)
@given(data=st.data())
def test_other_numbers_in_mid_run(rule: str, data: st.DataObject) -> None:
    """The constants of a step depend only on its number and the current hyperparameters.

    This also holds if the step number was used before.
    """
    kept = Kept(rule, model.fresh_memory(), data.draw(model.DECAYS))
    view = View((19,), (4,), 4 * model.ROOM, kept.memory.dtype, True)
    for _ in range(4):
        names = data.draw(st.lists(st.sampled_from(model.numbers(rule)), max_size=3, unique=True))
        values: dict[str, Any] = {each: data.draw(st.sampled_from([0.004, 0.1, 0.5, 0.9])) for each in names}
        values |= {"betas": (values["betas"], 0.99)} if "betas" in values else {}
        kept.opt.hyper.update(values)
        kept.numbers |= model.judged(values)[0]
        kept.opt.step_count = kept.count = data.draw(st.integers(0, 6))
        kept.opt.step(view.of(kept.memory))
        kept.follow(view, kept.lr, 1.0)
        kept.unchanged()


# ---- bugs that these tests have found


@pytest.mark.parametrize("inner", [None, 0.1, "Constant", [{"schedule": "Constant", "lr": 0.1}]])
def test_a_dictionary_whose_inner_schedule_is_none(inner: Any) -> None:
    """A dictionary without a valid inner schedule used to be accepted, and the next step failed."""
    rates = lrcore.schedules.Constant(0.1)
    opt = lrcore.SGD(np.ones(1, np.float32), lr=0.5)
    for around in (rates.warmup(3), rates * 2, rates.clip(0, 1), rates.shift(1), rates.per_epoch(3)):
        stored = around.to_dict()
        words = f"^schedule: {stored['schedule']} cannot be made from .*: inner: expected a schedule"
        with pytest.raises(ValueError, match=words):
            opt.load_state_dict(opt.state_dict() | {"schedule": stored | {"inner": inner}})
        assert opt.lr == 0.5


@pytest.mark.parametrize(
    "text",
    [
        "(Cosine(1e38, 9) * 1e300).warmup(9, start=0.1)",
        "Cosine(1e38, 9) * 1e300 * 0",
        "OneCycle(1e38, 20, div=1e-300)",
    ],
)
def test_no_rate_is_nan(text: str) -> None:
    """Infinity times 0 counts as overflow, too."""
    rates = lrcore.schedules.parse(text)
    for t in range(12):
        with contextlib.suppress(OverflowError):
            assert rates(t) >= 0
