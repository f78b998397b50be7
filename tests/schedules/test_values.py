"""Exact rates at the joints, ends and limits of schedules and compositions.

test_properties.py tests all other rates.
"""

from __future__ import annotations

import re

import pytest

from schedules.examples import EXAMPLES, build, made


@pytest.mark.parametrize(
    ("code", "rates"),
    [
        ("PiecewiseConstant([10, 20], [1.0, 0.5, 0.1])", {9: 1, 10: 0.5, 19: 0.5, 20: 0.1, 10**15: 0.1}),
        ("StepDecay(1.0, 5, factor=0.5)", {0: 1, 4: 1, 5: 0.5, 9: 0.5, 10: 0.25, 5 * 1074: 2**-1074}),
        ("Exponential(1.0, 0.5, 3)", {0: 1, 3: 0.5, 6: 0.25, 3 * 1000: 2**-1000}),
        ("Linear(0.1, 0.07, 3)", {0: 0.1, 3: 0.07, 4: 0.07, 10**15: 0.07}),
        ("Linear(0.0, 0.7, 49)", {0: 0, 49: 0.7, 10**15: 0.7}),
        ("Polynomial(0.1, 7, 0.9, 0.03)", {7: 0.03, 8: 0.03, 10**15: 0.03}),
        ("Polynomial(1.0, 10, cycle=True)", {0: 1, 5: 0.5, 10: 0, 15: 0.25, 20: 0, 10**15: 0}),
        ("PolynomialProduct(1.0, 5, 1, 1)", {0: 1, 2: 0.6 * 0.5, 4: 0, 5: 0, 6: 0, 10**15: 0}),
        ("Cosine(0.1, 10, 0.03)", {10: 0.03, 11: 0.03, 10**15: 0.03}),
        (
            "CosineRestarts(0.1, 4, peak_mult=0.5, end=0.02)",
            {0: 0.1, 4: 0.05, 8: 0.025, 12: 0.02, 13: 0.02, 10**15: 0.02},
        ),
        ("CosineRestarts(0.1, 4, peak_mult=0.5, end=0.3)", {0: 0.1, 4: 0.1, 6: 0.2, 10**15: 0.1}),
        ("Cyclic(0.0, 1.0, 4, 2)", {0: 0, 1: 0.25, 4: 1, 5: 0.5, 6: 0, 10: 1, 6 * 10**15 + 4: 1}),
        (
            "Cyclic(0.0, 1.0, 1, mode='triangular2')",
            {1: 1, 3: 0.5, 5: 0.25, 2149: 2**-1074, 2201: 0, 10**15 + 1: 0},
        ),
        ("Cyclic(0.25, 1.0, 1, mode='triangular2')", {2200: 0.25, 2201: 0.25, 10**15 + 1: 0.25}),
        ("Cyclic(0.0, 1.0, 1, mode='exp_range', gamma=0.5)", {0: 0, 1: 0.5, 3: 0.125, 10**15 + 1: 0}),
        (
            "OneCycle(0.1, 50)",
            {0: 0.1 / 25, 14: 0.1, 49: 0.1 / 25 / 1e4, 50: 0.1 / 25 / 1e4, 10**15: 0.1 / 25 / 1e4},
        ),
        (
            "OneCycle(0.1, 16, 0.25, 10, 10, 'linear', True)",
            {0: 0.1 / 10, 3: 0.1, 6: 0.1 / 10, 15: 0.1 / 10 / 10, 16: 0.1 / 10 / 10, 10**15: 0.1 / 10 / 10},
        ),
        ("WarmupStableDecay(0.1, 49, 3, 5, 0.07)", {48: 0.1, 49: 0.1, 51: 0.1, 57: 0.07, 10**15: 0.07}),
        ("InverseSqrt(0.1, 4)", {1: 0.05, 3: 0.1, 15: 0.05, 4 * 10**14 - 1: 0.1 * 1e-7}),
        ("CyclicStages([(0.3, 2), (0.1, 1)])", {0: 0.3, 1: 0.3, 2: 0.1, 3: 0.3, 3 * 10**15 + 2: 0.1}),
        ("PeriodicPulse(0.1, [(0.3, 4), (0.2, 2)])", {0: 0.3, 1: 0.1, 2: 0.2, 4: 0.3, 10**15 + 2: 0.2}),
        ("Rex(0.1, 10, 0.03)", {10: 0.03, 11: 0.03, 10**15: 0.03}),
        # `high` is below `low`, and the height shrinks or stays constant.
        ("Cyclic(1.0, 0.125, 3, mode='exp_range', gamma=0.5)", {0: 1, 3: 1 - 0.875 * 0.5**3, 10**15: 1}),
        ("Cyclic(1.0, 0.125, 3, mode='exp_range', gamma=1.0)", {0: 1, 3: 0.125, 6 * 10**15 + 3: 0.125}),
        # Compositions.
        ("Linear(1.0, 0.0, 4).warmup(4)", {0: 0.25, 3: 1, 4: 1, 5: 0.75, 8: 0, 10**15: 0}),
        ("Linear(1.0, 0.0, 4).warmup(4, start=0.5)", {0: 0.5, 2: 0.75, 3: 0.875, 4: 1, 5: 0.75}),
        ("Linear(1.0, 0.0, 4).warmup(0, start=0.5)", {0: 1, 1: 0.75}),
        (
            "Sequence([(Linear(1.0, 0.0, 4), 3), (0.3, 1), StepDecay(1.0, 2, 0.5)])",
            {2: 0.5, 3: 0.3, 4: 1, 6: 0.5},
        ),
        ("Constant(1).then(2, at=2).then(Linear(3, 4, 2), at=3)", {1: 1, 2: 2, 3: 3, 4: 3.5, 6: 4}),
        ("Linear(1.0, 0.0, 4).per_epoch(3)", {0: 1, 2: 1, 3: 0.75, 5: 0.75, 6: 0.5}),
        # Rates that underflow are 0.
        ("StepDecay(1.0, 1)", {10**15: 0}),
        ("Exponential(1.0, 0.5)", {10**15: 0}),
        ("NaturalExponential(1.0, 1.0)", {10**15: 0}),
        ("NaturalExponential(1.0, 1e300)", {10**15: 0}),
        ("InverseTime(1.0, 1e300)", {10**15: 0}),
        ("CosineRestarts(1.0, 3, peak_mult=0.5)", {10**15: 0}),
        ("Exponential(1.0, 0.5).per_epoch(3)", {10**15: 0}),
        ("NaturalExponential(1.0, 3e-13) * NaturalExponential(1.0, 5e-13)", {10**15: 0}),
    ],
)
def test_joints(code: str, rates: dict[int, float]) -> None:
    """The first, peak, last and held rates are exactly the given numbers."""
    schedule = build(code)
    assert {t: schedule(t) for t in rates} == rates


@pytest.mark.parametrize(
    ("code", "name", "t"),
    [
        ("Exponential(1e38, 1e3)", "Exponential", 100),
        ("Exponential(1.0, 10.0)", "Exponential", 10**15),
        ("StepDecay(1.0, 1, factor=10.0)", "StepDecay", 400),
        ("CosineRestarts(1.0, 1, peak_mult=10.0)", "CosineRestarts", 400),
        ("Cyclic(0.0, 1.0, 1, mode='exp_range', gamma=2.0)", "Cyclic", 2001),
        ("Exponential(1.0, 10.0).shift(7)", "", 400),
        ("Exponential(1.0, 10.0) * Exponential(1.0, 10.0)", "", 200),
        *(
            (f"Exponential(1e38, 1e3) * {zero}", "", 100)
            for zero in ("Linear(1.0, 0.0, 50)", "Constant(0.0)", "0")
        ),
    ],
)
def test_overflow_names_the_schedule_and_t(code: str, name: str, t: int) -> None:
    schedule = build(code)
    assert schedule(0) <= 1e38
    for asked in (t, [0, t]):
        with pytest.raises(OverflowError, match=rf"{name}.*\b({t}|{t + 7})$"):
            schedule(asked)


@pytest.mark.parametrize(
    ("code", "refusal"),
    [
        ("Constant(1e-50)", "ValueError: lr: 1e-50 becomes 0.0 in float32"),
        ("PolynomialProduct(0.1, 1, 1, 1)", "ValueError: steps"),
        ("CyclicStages([])", "ValueError: stages"),
        ("PeriodicPulse(0.1, [])", "ValueError: pulses"),
        ("PiecewiseConstant([5, 20], [0.1, 0.2])", "ValueError: values"),
        ("PiecewiseConstant([5, 20], [0.1] * 4)", "ValueError: values"),
        ("PiecewiseConstant([10, 5, 20], [0.1] * 4)", "ValueError: boundaries"),
        ("OneCycle(0.1, 10, pct_start=0.1)", "ValueError: pct_start"),  # a = 0
        ("OneCycle(0.1, 10, pct_start=1.0)", "ValueError: pct_start"),  # a = T - 1
        ("OneCycle(0.1, 1)", "ValueError: pct_start"),  # a < 0
        ("OneCycle(0.1, 10, pct_start=0.55, three_phase=True)", "ValueError: pct_start"),  # b = T - 1
        ("OneCycle(0.1, 10, pct_start=0.1, three_phase=True)", "ValueError: pct_start"),
        (
            "Cyclic(1, 0.1, 3, None, 'exp_range', 2)",
            r"ValueError: gamma: expected at most 1 .* low = 1\.0, got 2\.0",
        ),
        ("Cyclic(0, 0.1, 3, gamma=0.5)", "ValueError: gamma: has no effect"),
        ("Plateau(0.1, window=2)", "ValueError: window: has no effect"),
        ("Plateau(0.1, 1.0)", "ValueError: factor: expected a number between 0 and 1, got 1.0"),
        ("Constant(0.1).then(-0.2, at=2)", "ValueError: lr"),
        ("Constant(0.1).then('x', at=2)", "TypeError: parts: lr"),
        ("Constant(0.1).then(Cosine, at=2)", "TypeError: parts: lr"),
        ("Sequence([(-0.1, 3), 0.2])", "ValueError: lr"),
        ("Constant(0.1) * -1", "ValueError: factor"),
        ("Constant(0.1) * float('inf')", "ValueError: factor"),
        ("Constant(0.1) * 'x'", "TypeError: factor"),
        ("Constant(0.1).clip(0.2, 0.1)", "ValueError: low"),
    ],
)
def test_arguments_that_do_not_go_together(code: str, refusal: str) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        build(code)
    assert re.match(refusal, f"{caught.type.__name__}: {caught.value}")


def test_recursive_remembers() -> None:
    """The callable is called once for each t, in order, whatever the order in which rates are requested."""
    asked: list[tuple[int, float]] = []

    def fn(t: int, lr: float) -> float:
        asked.append((t, lr))
        return lr + 1

    schedule = made.Recursive(fn, 0.5)
    assert asked == []
    assert [schedule(t) for t in (3, 0, 3, 1, 5, 4)] == [4.5, 1.5, 4.5, 2.5, 6.5, 5.5]
    assert schedule([5, 0]).tolist() == [6.5, 1.5]
    assert asked == [(t, t + 0.5) for t in range(6)]
    assert schedule(20_000) == 20_001.5
    assert len(asked) == 20_001
    with pytest.raises(ValueError, match=re.escape("10000001")):
        schedule(10**7 + 1)
    assert len(asked) == 20_001


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_value_has_no_state(name: str) -> None:
    schedule = getattr(made, name)(**EXAMPLES[name][0])
    assert schedule.state_dict() == {}
    schedule.load_state_dict({})
    with pytest.raises(ValueError, match="^state_dict: expected the entries"):
        schedule.load_state_dict({"states": []})
