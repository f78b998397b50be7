"""Every schedule's joints, ends and limits in exact numbers. Its other values are those of the equation in its docstring."""

from __future__ import annotations

import re

import pytest

from schedules.examples import CLASSES, EXAMPLES, build, every, made


def test_every_schedule_has_examples() -> None:
    assert set(EXAMPLES) <= set(CLASSES)
    assert set(CLASSES) - {"Function", "Plateau"} <= {type(each).__name__ for each in every()}


@pytest.mark.parametrize(
    ("code", "rates"),
    [
        ("PiecewiseConstant([10, 20], [1.0, 0.5, 0.1])", {9: 1, 10: 0.5, 19: 0.5, 20: 0.1, 10**15: 0.1}),
        ("StepDecay(1.0, 5, factor=0.5)", {0: 1, 4: 1, 5: 0.5, 9: 0.5, 10: 0.25, 5 * 1074: 2**-1074}),
        ("Exponential(1.0, 0.5, 3)", {0: 1, 3: 0.5, 6: 0.25, 3 * 1000: 2**-1000}),
        ("Exponential(1.0, 0.5, 3, True)", {2: 1, 3: 0.5, 5: 0.5, 6: 0.25}),
        ("NaturalExponential(0.1, 0.5)", {0: 0.1}),
        ("InverseTime(0.1, 1.0, 10)", {0: 0.1, 10: 0.05, 30: 0.025}),
        ("InverseTime(0.1, 1.0, 10, True)", {9: 0.1, 10: 0.05, 19: 0.05, 30: 0.025}),
        ("Linear(0.1, 0.07, 3)", {0: 0.1, 3: 0.07, 4: 0.07, 10**15: 0.07}),
        ("Linear(0.0, 0.7, 49)", {0: 0, 49: 0.7, 10**15: 0.7}),
        ("Polynomial(0.1, 7, 0.9, 0.03)", {7: 0.03, 8: 0.03, 10**15: 0.03}),
        ("Polynomial(1.0, 10, cycle=True)", {0: 1, 5: 0.5, 10: 0, 15: 0.25, 20: 0, 10**15: 0}),
        ("PolynomialProduct(1.0, 5, 1, 1)", {0: 1, 2: 0.6 * 0.5, 4: 0, 5: 0, 6: 0, 10**15: 0}),
        ("PolynomialProduct(0.1, 5, 1, 0)", {4: 0, 5: 0, 10**15: 0}),
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
        ("WarmupStableDecay(1.0, 4, 0, 4)", {0: 0.25, 3: 1, 4: 1, 5: 0.5, 8: 0, 9: 0}),
        ("WarmupStableDecay(0.1, 0, 0, 4, 0.0, 'linear')", {0: 0.1, 2: 0.05, 4: 0}),
        ("InverseSqrt(0.1, 4)", {1: 0.05, 3: 0.1, 15: 0.05, 4 * 10**14 - 1: 0.1 * 1e-7}),
        ("Noam(64, 4)", {1: 2 / 64, 3: 4 / 64, 15: 2 / 64}),
        ("CyclicStages([(0.3, 2), (0.1, 1)])", {0: 0.3, 1: 0.3, 2: 0.1, 3: 0.3, 3 * 10**15 + 2: 0.1}),
        ("PeriodicPulse(0.1, [(0.3, 4), (0.2, 2)])", {0: 0.3, 1: 0.1, 2: 0.2, 4: 0.3, 10**15 + 2: 0.2}),
        ("Rex(0.1, 10, 0.03)", {10: 0.03, 11: 0.03, 10**15: 0.03}),
        ("Rex(0.1, 10)", {0: 0.1, 10: 0}),
    ],
)
def test_joints(code: str, rates: dict[int, float]) -> None:
    """First, peak and last values, and those held, are the numbers given."""
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
    "code",
    [
        "StepDecay(1.0, 1)",
        "Exponential(1.0, 0.5)",
        "NaturalExponential(1.0, 1.0)",
        "NaturalExponential(1.0, 1e300)",
        "InverseTime(1.0, 1e300)",
        "Cyclic(0.0, 1.0, 1, 2, 'exp_range', 0.5)",
        "CosineRestarts(1.0, 3, peak_mult=0.5)",
        "Exponential(1.0, 0.5).per_epoch(3)",
        "NaturalExponential(1.0, 3e-13) * NaturalExponential(1.0, 5e-13)",
    ],
)
def test_underflow_is_zero(code: str) -> None:
    assert build(code)(10**15) == 0


@pytest.mark.parametrize(
    ("code", "match"),
    [
        ("Constant(1e-50)", "lr: 1e-50 becomes 0.0 in float32"),
        ("PolynomialProduct(0.1, 1, 1, 1)", "steps"),
        ("CyclicStages([])", "stages"),
        ("PeriodicPulse(0.1, [])", "pulses"),
        ("PiecewiseConstant([5, 20], [0.1, 0.2])", "values"),
        ("PiecewiseConstant([5, 20], [0.1] * 4)", "values"),
        ("PiecewiseConstant([10, 5, 20], [0.1] * 4)", "boundaries"),
        ("OneCycle(0.1, 10, pct_start=0.1)", "pct_start|steps"),  # a = 0
        ("OneCycle(0.1, 10, pct_start=1.0)", "pct_start|steps"),  # a = T - 1
        ("OneCycle(0.1, 3)", "pct_start|steps"),  # a < 0
        ("OneCycle(0.1, 1)", "pct_start|steps"),
        ("OneCycle(0.1, 10, pct_start=0.55, three_phase=True)", "pct_start|steps|three_phase"),  # b = T - 1
        ("OneCycle(0.1, 10, pct_start=0.7, three_phase=True)", "pct_start|steps|three_phase"),
        ("OneCycle(0.1, 10, pct_start=0.1, three_phase=True)", "pct_start|steps|three_phase"),
    ],
)
def test_arguments_that_do_not_go_together(code: str, match: str) -> None:
    with pytest.raises(ValueError, match=rf"^({match})"):
        build(code)


def test_a_height_that_would_become_negative_is_refused() -> None:
    """Where `high` is below `low` and the height grows; what falls to `high`, or does not grow, is a schedule."""
    with pytest.raises(
        ValueError, match=r"^gamma: expected at most 1 with high = 0.1 below low = 1\.0, got 2\.0"
    ):
        made.Cyclic(low=1, high=0.1, up=3, mode="exp_range", gamma=2)
    for gamma in (0.5, 1):
        falling = made.Cyclic(low=1, high=0.125, up=3, mode="exp_range", gamma=gamma)
        assert min(falling(t) for t in range(1000)) >= 0.125


def test_recursive_remembers() -> None:
    """The callable is asked once for each t, in order, whatever order the rates are asked in."""
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


def test_recursive_goes_on_after_its_callable_failed() -> None:
    fail = True

    def fn(t: int, lr: float) -> float:
        if t == 3 and fail:
            raise RuntimeError("not yet")
        return lr * 2

    schedule = made.Recursive(fn, 1)
    with pytest.raises(RuntimeError, match="not yet"):
        schedule(5)
    fail = False
    assert schedule(5) == 64
    assert schedule(2) == 8
