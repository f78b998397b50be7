"""What holds for schedules with any arguments, and for what is composed of them: values, bounds, ends, being values.

Where the specification promises nothing there is no test: a rate that grows without end overflows at some t, and that is
an OverflowError.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lrcore import schedules
from lrcore.schedules._composed import TALL
from schedules import equations
from schedules.examples import round_trips

made: Any = schedules
INF = math.inf
EPS = 2.0**-52

examples = settings(derandomize=True, deadline=None, database=None, max_examples=30)
many = settings(examples, max_examples=120)

rates = st.just(0.0) | st.floats(1e-9, 10.0) | st.sampled_from([0.1, 0.3, 0.7, 1.0])
positive = st.floats(1e-3, 10.0)
shares = st.floats(0.05, 1.0)
lengths = st.integers(1, 60) | st.sampled_from([1, 2, 49, 97, 10**6 + 3])
powers = st.just(0.0) | st.just(1.0) | st.floats(0.05, 4.0)
flags = st.booleans()
pairs = st.lists(st.tuples(rates, st.integers(1, 30)), min_size=1, max_size=4)
times = st.integers(0, 300) | st.integers(0, 10**15)


@st.composite
def piecewise(draw: st.DrawFn) -> dict[str, Any]:
    boundaries = draw(st.lists(lengths, unique=True, max_size=5).map(sorted))
    values = draw(st.lists(rates, min_size=len(boundaries) + 1, max_size=len(boundaries) + 1))
    return {"boundaries": boundaries, "values": values}


@st.composite
def cyclic(draw: st.DrawFn) -> dict[str, Any]:
    mode = draw(st.sampled_from(["triangular", "triangular2", "exp_range"]))
    down = st.none() | lengths
    options = {"low": draw(rates), "high": draw(rates), "up": draw(lengths), "down": draw(down), "mode": mode}
    return options | ({"gamma": draw(shares)} if mode == "exp_range" else {})


@st.composite
def one_cycle(draw: st.DrawFn) -> dict[str, Any]:
    steps, three = draw(st.integers(4, 120)), draw(flags)
    last = (steps + 1) / (2 * steps) if three else 1.0
    share = draw(st.floats(1 / steps, last))
    joints = [0, share * steps - 1, *([2 * share * steps - 2] if three else []), steps - 1]
    assume(all(later - earlier > 1e-3 for earlier, later in itertools.pairwise(joints)))
    return {
        "peak": draw(rates), "steps": steps, "pct_start": share, "div": draw(st.floats(0.5, 50)),
        "final_div": draw(st.floats(0.5, 1e4)), "shape": draw(st.sampled_from(["cosine", "linear"])), "three_phase": three,
    }  # fmt: skip


def of(**options: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(options)


ARGUMENTS: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "Constant": of(lr=rates),
    "PiecewiseConstant": piecewise(),
    "StepDecay": of(lr=rates, every=lengths, factor=shares),
    "Exponential": of(lr=rates, rate=shares, steps=lengths, staircase=flags),
    "NaturalExponential": of(lr=rates, k=st.just(0.0) | st.floats(1e-9, 3.0)),
    "InverseTime": of(lr=rates, k=st.just(0.0) | st.floats(1e-9, 3.0), steps=lengths, staircase=flags),
    "Linear": of(lr=rates, end=rates, steps=lengths),
    "Polynomial": of(lr=rates, steps=lengths, power=powers, end=rates, cycle=flags),
    "PolynomialProduct": of(lr=rates, steps=lengths.map(lambda n: n + 1), power=powers, power2=powers),
    "Cosine": of(lr=rates, steps=lengths, end=rates),
    "CosineRestarts": of(
        lr=rates, steps=lengths, cycle_mult=st.integers(1, 10), peak_mult=shares | st.just(1.0), end=rates
    ),
    "Cyclic": cyclic(),
    "OneCycle": one_cycle(),
    "WarmupStableDecay": of(
        peak=rates,
        warmup_steps=st.just(0) | lengths,
        stable=st.just(0) | lengths,
        decay=lengths,
        end=rates,
        shape=st.sampled_from(["1-sqrt", "linear", "cosine"]),
    ),
    "InverseSqrt": of(peak=rates, warmup_steps=lengths),
    "Noam": of(model_dim=lengths, warmup_steps=lengths, scale=rates),
    "CyclicStages": of(stages=pairs),
    "PeriodicPulse": of(base=rates, pulses=pairs),
    "Rex": of(lr=rates, steps=lengths, end=rates),
}
"""Arguments of every schedule with a dictionary form that is not composed; rates that cannot grow without end."""
large = rates | st.floats(1e30, 3e38)
GROWING: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "StepDecay": of(lr=large, every=lengths, factor=st.floats(1.0, 10.0)),
    "Exponential": of(lr=large, rate=st.floats(1.0, 10.0), steps=lengths, staircase=flags),
    "CosineRestarts": of(
        lr=large, steps=lengths, cycle_mult=st.integers(1, 3), peak_mult=st.floats(1.0, 10.0), end=rates
    ),
    "Cyclic": of(
        low=rates,
        high=st.just(10.0) | st.floats(1e30, 3e38),
        up=lengths,
        mode=st.just("exp_range"),
        gamma=st.floats(1.0, 2.0),
    ),
}
names = pytest.mark.parametrize("name", ARGUMENTS)


def bounds(name: str, o: dict[str, Any]) -> tuple[float, float]:
    """Return the least and the greatest rate that a schedule can have."""
    if name in ("Constant", "PiecewiseConstant", "CyclicStages", "PeriodicPulse"):
        listed = [rate for key in ("stages", "pulses") for rate, _ in o.get(key, [])]
        every = [*o.get("values", []), *listed, *(o[key] for key in ("lr", "base") if key in o)]
        return min(every), max(every)
    if name == "OneCycle":
        ends = (o["peak"], o["peak"] / o["div"], o["peak"] / o["div"] / o["final_div"])
        return min(ends), max(ends)
    if name == "Noam":
        return 0.0, o["scale"] * (o["model_dim"] * o["warmup_steps"]) ** -0.5
    if name == "Cyclic":
        return min(o["low"], o["high"]), max(o["low"], o["high"])
    if name == "WarmupStableDecay":
        first = o["peak"] / o["warmup_steps"] if o["warmup_steps"] else o["peak"]
        return min(first, o["end"]), max(o["peak"], o["end"])
    greatest: float = o["lr"] if "lr" in o else o["peak"]
    if "end" in o:
        return min(greatest, o["end"]), max(greatest, o["end"])
    return 0.0, greatest


def last(name: str, o: dict[str, Any]) -> int | None:
    """Return the t from which a schedule holds its rate."""
    if name == "PiecewiseConstant":
        return max(o["boundaries"], default=0)
    if name == "WarmupStableDecay":
        return int(o["warmup_steps"] + o["stable"] + o["decay"])
    if name in ("OneCycle", "PolynomialProduct"):
        return int(o["steps"] - 1)
    if name in ("Linear", "Cosine", "Rex") or (name == "Polynomial" and not o["cycle"]):
        return int(o["steps"])
    return 0 if name == "Constant" else None


class Built(NamedTuple):
    """A schedule, and what its arguments say about it."""

    schedule: Any
    formula: Callable[[int], float]
    low: float
    high: float
    last: int | None
    """From where it holds."""


@st.composite
def single(draw: st.DrawFn) -> Built:
    name = draw(st.sampled_from(list(ARGUMENTS)))
    options = draw(ARGUMENTS[name])
    schedule = getattr(made, name)(**options)
    return Built(schedule, schedule, *bounds(name, options), last(name, options))


def joined(parts: list[Built], lengths: list[int]) -> tuple[Callable[[int], float], float, float, int | None]:
    """Return formula, bounds and end of one after another, all but the last so many steps."""
    starts = [*itertools.accumulate(lengths, initial=0)]

    def formula(t: int) -> float:
        i = bisect.bisect_right(starts, t) - 1
        return parts[i].formula(t - starts[i])

    end = None if parts[-1].last is None else starts[-1] + parts[-1].last
    return formula, min(each.low for each in parts), max(each.high for each in parts), end


@st.composite
def composed(draw: st.DrawFn, parts: st.SearchStrategy[Built], how: str | None = None) -> Built:
    """Compose a schedule in one of the ways there are, and say the same about the whole."""
    inner, other, n, x = draw(parts), draw(single()), draw(lengths), draw(rates)
    schedule, formula, low, high, end = inner
    how = how or draw(st.sampled_from(COMPOSING))
    if how == "then":
        return Built(schedule.then(other.schedule, at=n), *joined([inner, other], [n]))
    if how == "before":
        return Built(other.schedule.then(schedule, at=n), *joined([other, inner], [n]))
    if how == "sequence":
        three, ends = [other, inner, draw(single())], [n, draw(lengths)]
        pairs = [(each.schedule, length) for each, length in zip(three, ends, strict=False)]
        return Built(made.Sequence([*pairs, three[2].schedule]), *joined(three, ends))
    if how == "warmup":
        end = None if end is None else n + end
        whole = schedule.warmup(n)
        return Built(
            whole, lambda t: formula(t - n) if t >= n else formula(0) * ((t + 1) / n), 0.0, high, end
        )
    if how == "warmup_from":
        end = None if end is None else n + end

        def ramp(t: int) -> float:
            return formula(t - n) if t >= n else x + (formula(0) - x) * (t / n)

        return Built(schedule.warmup(n, start=x), ramp, min(x, low), max(x, high), end)
    if how == "number":
        whole = draw(st.sampled_from([schedule * x, x * schedule]))
        return Built(whole, lambda t: formula(t) * x, low * x, high * x, end)
    if how == "product":
        first, second = draw(st.permutations([inner, other]))
        end = None if end is None or other.last is None else max(end, other.last)
        whole = first.schedule * second.schedule
        low, high = low * other.low, high * other.high
        return Built(whole, lambda t: first.formula(t) * second.formula(t), low, high, end)
    if how == "clip":
        least, most = sorted([x, draw(rates)])

        def cut(rate: float) -> float:
            return min(max(rate, least), most)

        return Built(schedule.clip(least, most), lambda t: cut(formula(t)), cut(low), cut(high), end)
    if how == "shift":
        end = None if end is None else max(0, end - n)
        return Built(schedule.shift(n), lambda t: formula(t + n), low, high, end)
    if how == "per_epoch":
        end = None if end is None else end * n
        return Built(schedule.per_epoch(n), lambda t: formula(t // n), low, high, end)
    return Built(made.Plateau(schedule, nan="bad"), formula, low, high, end)


COMPOSING = [
    "then",
    "before",
    "sequence",
    "warmup",
    "warmup_from",
    "number",
    "product",
    "clip",
    "shift",
    "per_epoch",
    "plateau",
]
any_schedule = single() | composed(single()) | composed(composed(single() | composed(single())))
"""Schedules, and compositions up to three deep."""


@st.composite
def tall(draw: st.DrawFn) -> Built:
    """Compose more often than is asked by recursion."""
    built = draw(single())
    for _ in range(draw(st.integers(TALL, 2 * TALL))):
        built = draw(composed(st.just(built)))
    return built


# Values, bounds and ends.


def rate_of(schedule: Any, t: int) -> float:
    """Return a rate, which is a finite float >= 0."""
    rate = schedule(t)
    assert type(rate) is float
    assert math.isfinite(rate)
    assert math.copysign(1, rate) > 0
    return rate


@names
@examples
@given(data=st.data())
def test_values_are_those_of_the_equation_and_within_bounds(name: str, data: st.DataObject) -> None:
    """Each equation is a rate plus a share, at most 1, of a difference of rates: a few roundings of the largest rate."""
    options = data.draw(ARGUMENTS[name])
    schedule, (low, high), end = getattr(made, name)(**options), bounds(name, options), last(name, options)
    asked = [*range(100), *data.draw(st.lists(times, max_size=5))]
    seen = [rate_of(schedule, t) for t in asked]
    assert min(seen) >= max(0, low - 4 * EPS * high)
    assert max(seen) <= high * (1 + 4 * EPS)
    if equations.SCRIPT.is_file() and equations.says_all(options):
        overflows = options.get("mode") == "triangular2"  # does 2^i of the equation, far off
        near = [*range(0, 100, 7), *([] if overflows else asked[100:])]
        expected = [schedule(t) for t in near]
        assert equations.rates(schedule, near) == pytest.approx(expected, rel=64 * EPS, abs=64 * EPS * high)
    if end is not None:
        held = schedule(end)
        assert {schedule(end + n) for n in (1, 2, *asked)} == {held}
        if "end" in options and options.get("power") != 0:  # 0^0 is 1
            assert held == options["end"]
        assert name != "PolynomialProduct" or held == 0
        assert name != "OneCycle" or held == options["peak"] / options["div"] / options["final_div"]


@pytest.mark.parametrize("how", [*COMPOSING, None])
@examples
@given(data=st.data())
def test_compositions_have_the_bits_of_their_formulas(how: str | None, data: st.DataObject) -> None:
    """However they are flattened, between the extreme rates of their parts; and they hold where their last part does."""
    built = data.draw(tall() if how is None else composed(any_schedule, how))
    allowed = 64 * EPS * built.high
    for t in (*range(40), *data.draw(st.lists(times, max_size=5))):
        rate = rate_of(built.schedule, t)
        assert rate == built.formula(t)
        assert built.low - allowed <= rate <= built.high + allowed
    if built.last is not None:
        assert {built.schedule(built.last + n) for n in (1, 2, 10**6)} == {built.schedule(built.last)}


@many
@given(st.sampled_from(list(GROWING)), st.data())
def test_what_grows_overflows_by_name(name: str, data: st.DataObject) -> None:
    """It is finite, or an OverflowError with the schedule and t; from there on always."""
    options = data.draw(GROWING[name])
    schedule = getattr(made, name)(**options)
    overflowed = False
    for t in sorted({*range(40), *data.draw(st.lists(st.integers(0, 10**4) | times, max_size=5))}):
        try:
            rate = schedule(t)
        except OverflowError as error:
            message, overflowed = str(error), True
        else:
            assert 0 <= rate < INF
            assert not overflowed or name in ("Cyclic", "CosineRestarts")  # whose cycles fall in between
            continue
        assert message.startswith(name)
        assert message.endswith(f" {t}")


@pytest.mark.parametrize(
    "other", ["Linear(1.0, 0.0, 50)", "Constant(0.0)", "PolynomialProduct(1.0, 50, 1, 1)", "0"]
)
def test_an_overflow_times_zero_is_an_overflow(other: str) -> None:
    growing = made.Exponential(1e38, 1e3)
    product = growing * eval(other, vars(schedules))
    with pytest.raises(OverflowError, match="100"):
        product(100)


# Being values.


@many
@given(any_schedule, st.lists(times, min_size=1, max_size=5))
def test_round_trips(built: Built, asked: list[int]) -> None:
    for each in round_trips(built.schedule):
        assert [each(t) for t in asked] == [built.schedule(t) for t in asked]


@names
@examples
@given(data=st.data())
def test_equality_is_that_of_the_arguments(name: str, data: st.DataObject) -> None:
    first, second = data.draw(ARGUMENTS[name]), data.draw(ARGUMENTS[name])
    cls = getattr(made, name)
    a, b = cls(**first), cls(**second)
    assert a == cls(**first)
    assert hash(a) == hash(cls(**first))
    assert (a == b) == (a.to_dict() == b.to_dict()) == (repr(a) == repr(b))
    for argument in first.keys() & second.keys():
        try:
            changed = cls(**first | {argument: second[argument]})
        except ValueError:
            continue  # the two do not go together
        assert (changed == a) == (changed.to_dict() == a.to_dict())
        assert first[argument] == second[argument] or changed != a or argument == "down"
    assert a.shift(1) != a
    assert a != first
    assert len({a, cls(**first), a.warmup(2), a.warmup(2)}) == 2
