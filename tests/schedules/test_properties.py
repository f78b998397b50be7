"""What holds for schedules with any arguments, and for what is composed of them: bounds, joints, ends, being values.

Where the specification promises nothing there is no test: a rate that grows without end overflows at some t, and that is
an OverflowError.
"""

from __future__ import annotations

import copy
import itertools
import json
import math
import pickle
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lrcore import schedules
from lrcore.schedules import Schedule
from schedules import oracle

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
    oracle: oracle.Rate
    low: float
    high: float
    last: int | None
    """From where it holds."""


@st.composite
def single(draw: st.DrawFn) -> Built:
    name = draw(st.sampled_from(list(ARGUMENTS)))
    options = draw(ARGUMENTS[name])
    schedule = getattr(made, name)(**options)
    return Built(schedule, oracle.of(name, **options), *bounds(name, options), last(name, options))


@st.composite
def composed(draw: st.DrawFn, parts: st.SearchStrategy[Built], how: str | None = None) -> Built:
    """Compose schedules in one of the ways there are, and say the same about the whole."""
    s, low, high = draw(parts), 0.0, 0.0
    schedule, at = s.schedule, draw(lengths)
    how = how or draw(st.sampled_from(COMPOSING))
    if how == "then":
        other = draw(parts)
        whole = schedule.then(other.schedule, at=at)
        end = None if other.last is None else at + other.last
        rate = oracle.then(s.oracle, other.oracle, at)
        return Built(whole, rate, min(s.low, other.low), max(s.high, other.high), end)
    if how == "sequence":
        b, c, more = draw(parts), draw(parts), draw(lengths)
        whole = made.Sequence([(schedule, at), (b.schedule, more), c.schedule])
        end = None if c.last is None else at + more + c.last
        rate = oracle.then(s.oracle, oracle.then(b.oracle, c.oracle, more), at)
        return Built(whole, rate, min(s.low, b.low, c.low), max(s.high, b.high, c.high), end)
    if how == "warmup":
        start = draw(st.none() | rates)
        low, high = (0.0, s.high) if start is None else (min(start, s.low), max(start, s.high))
        rate = oracle.warmup(s.oracle, at, start)
        return Built(schedule.warmup(at, start), rate, low, high, None if s.last is None else at + s.last)
    if how == "number":
        x = draw(rates)
        whole = draw(st.sampled_from([schedule * x, x * schedule]))
        return Built(whole, oracle.times(s.oracle, lambda _: x), s.low * x, s.high * x, s.last)
    if how == "product":
        other = draw(parts)
        end = None if s.last is None or other.last is None else max(s.last, other.last)
        rate = oracle.times(s.oracle, other.oracle)
        return Built(schedule * other.schedule, rate, s.low * other.low, s.high * other.high, end)
    if how == "clip":
        low, high = sorted([draw(rates), draw(rates)])
        rate = oracle.clip(s.oracle, low, high)
        inner = [min(max(each, low), high) for each in (s.low, s.high)]
        return Built(schedule.clip(low, high), rate, inner[0], inner[1], s.last)
    if how == "shift":
        end = None if s.last is None else max(0, s.last - at)
        return Built(schedule.shift(at), oracle.shift(s.oracle, at), s.low, s.high, end)
    if how == "per_epoch":
        end = None if s.last is None else s.last * at
        return Built(schedule.per_epoch(at), oracle.per_epoch(s.oracle, at), s.low, s.high, end)
    return Built(made.Plateau(schedule, nan="bad"), s.oracle, s.low, s.high, s.last)


COMPOSING = ("then", "sequence", "warmup", "number", "product", "clip", "shift", "per_epoch", "plateau")
one_deep = composed(single())
two_deep = composed(single() | one_deep)
any_schedule = single() | one_deep | two_deep | composed(one_deep | two_deep)
"""Schedules, and compositions up to three deep."""


def test_every_schedule_with_a_dictionary_form_is_built() -> None:
    classes = {name for name in schedules.__all__ if isinstance(getattr(schedules, name), type)}
    concrete = {name for name in classes if issubclass(getattr(schedules, name), Schedule)} - {"Schedule"}
    assert concrete >= {*ARGUMENTS, "Sequence", "Plateau", "Function", "Recursive"}
    base = {name for name, each in vars(Schedule).items() if not name.startswith("_") and callable(each)}
    assert base == {
        "then",
        "warmup",
        "clip",
        "shift",
        "per_epoch",
        "to_dict",
        "state_dict",
        "load_state_dict",
    }


# Values and bounds.


@pytest.mark.parametrize("how", [None, *COMPOSING])
@examples
@given(data=st.data())
def test_finite_within_bounds_and_the_oracles(how: str | None, data: st.DataObject) -> None:
    """Between the extreme rates of the parts.

    Each formula is a rate plus a share, at most 1, of a difference of rates: less than four roundings of half a unit in the
    largest rate; a composition adds two of its own. 64 such units leave room for three of them, one in another.
    """
    parts = single() | single() | one_deep | two_deep
    built = data.draw(single() if how is None else composed(parts, how))
    allowed = 64 * EPS * built.high
    for t in (*range(40), *data.draw(st.lists(times, max_size=5))):
        rate = built.schedule(t)
        assert type(rate) is float
        assert math.isfinite(rate)
        assert rate >= 0
        assert not math.copysign(1, rate) < 0
        assert built.low - allowed <= rate <= built.high + allowed
        assert rate == pytest.approx(built.oracle(t), rel=64 * EPS, abs=allowed)


@names
@examples
@given(data=st.data())
def test_bounds_and_values_of_each(name: str, data: st.DataObject) -> None:
    """Not above or below the extreme rates by more than four roundings; at each step of the first hundred and far off."""
    options = data.draw(ARGUMENTS[name])
    schedule, (low, high) = getattr(made, name)(**options), bounds(name, options)
    asked = [*range(100), *data.draw(st.lists(times, max_size=5))]
    seen = [schedule(t) for t in asked]
    assert min(seen) >= max(0, low - 4 * EPS * high)
    assert max(seen) <= high * (1 + 4 * EPS)
    expected = [oracle.ORACLES[name](t, **options) for t in asked]
    assert seen == pytest.approx(expected, rel=16 * EPS, abs=16 * EPS * high)


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


# Joints.


def step_of_power(power: float, steps: int) -> float:
    """Return the greatest step of (1 - z)^power: the first of a convex one, the last of a concave one."""
    if power == 0:
        return 1.0  # 0^0 is 1: it holds to the end, and no step is greater than the whole
    return power / steps if power >= 1 else steps**-power


def slope(name: str, o: dict[str, Any]) -> float | None:
    """Return a bound of what a schedule without jumps changes in one step: its greatest slope."""
    steps: int = o.get("steps", 1)
    span: float = abs(o.get("lr", 0.0) - o.get("end", 0.0))
    if name == "Linear":
        return span / steps
    if name == "Cosine":  # |d/dz (1 + cos pi z) / 2| <= pi / 2
        return span * math.pi / 2 / steps
    if name == "Rex":  # d/dz (1 - z) / (1 - z/2) = -1/2 / (1 - z/2)^2, which is -2 at the end
        return span * 2 / steps
    if name == "Polynomial" and not o["cycle"]:
        return span * step_of_power(o["power"], steps)
    if (
        name == "PolynomialProduct"
    ):  # both factors are at most 1; with power2 = 0 it jumps to 0 from (2/T)^power
        joint = (2 / steps) ** o["power"] if o["power2"] == 0 else 0.0
        both = step_of_power(o["power"], steps) + step_of_power(o["power2"], steps - 1)
        return float(o["lr"] * max(joint, both))
    if name == "Cyclic":  # a change of the height, at most 1 / min(up, down), and one of the scale
        down = o["up"] if o["down"] is None else o["down"]
        return float(abs(o["high"] - o["low"]) * (1 / min(o["up"], down) + 1 - o.get("gamma", 1.0)))
    if name == "OneCycle":
        begin = o["peak"] / o["div"]
        a, final = o["pct_start"] * steps - 1, steps - 1
        phases = [(a, begin, o["peak"]), (final - a, o["peak"], begin / o["final_div"])]
        if o["three_phase"]:
            b = 2 * o["pct_start"] * steps - 2
            phases[1:] = [(b - a, o["peak"], begin), (final - b, begin, begin / o["final_div"])]
        steepest = math.pi / 2 if o["shape"] == "cosine" else 1
        return float(steepest * max(abs(second - first) / length for length, first, second in phases))
    if name == "WarmupStableDecay":  # sqrt(z + h) - sqrt(z) <= sqrt(h)
        part = {"linear": 1 / o["decay"], "cosine": math.pi / 2 / o["decay"], "1-sqrt": o["decay"] ** -0.5}
        rise = o["peak"] / o["warmup_steps"] if o["warmup_steps"] else 0.0
        return float(max(rise, abs(o["peak"] - o["end"]) * part[o["shape"]]))
    if name == "InverseSqrt":  # the rise; the fall begins with half its slope
        return float(o["peak"] / o["warmup_steps"])
    if name == "Noam":
        return float(o["scale"] * o["model_dim"] ** -0.5 * o["warmup_steps"] ** -1.5)
    if name == "Exponential" and not o["staircase"]:
        return float(o["lr"] * (1 - o["rate"] ** (1 / steps)))
    if name == "NaturalExponential":
        return float(o["lr"] * -math.expm1(-o["k"]))
    if name == "InverseTime" and not o["staircase"]:
        return float(o["lr"] * o["k"] / steps)
    return 0.0 if name == "Constant" else None


JUMPING = {"PiecewiseConstant", "StepDecay", "CosineRestarts", "CyclicStages", "PeriodicPulse"}
continuous = pytest.mark.parametrize("name", [name for name in ARGUMENTS if name not in JUMPING])


def joints(name: str, o: dict[str, Any]) -> Iterator[int]:
    """Yield where the formula changes: ends, tops and bottoms."""
    if name == "Cyclic":
        whole = o["up"] + (o["down"] or o["up"])
        yield from (k * whole + more for k in (0, 1, 7, 1000) for more in (0, o["up"]))
    elif name == "OneCycle":
        yield from (round(k * o["pct_start"] * o["steps"]) - k for k in (1, 2))
        yield o["steps"] - 1
    elif name == "WarmupStableDecay":
        yield from (
            o["warmup_steps"],
            o["warmup_steps"] + o["stable"],
            o["warmup_steps"] + o["stable"] + o["decay"],
        )
    else:
        yield from (o[key] for key in ("steps", "warmup_steps") if key in o)


@continuous
@examples
@given(data=st.data())
def test_no_step_is_greater_than_the_greatest_slope(name: str, data: st.DataObject) -> None:
    """Around each joint as well: between two steps that share a formula and two that do not."""
    options = data.draw(ARGUMENTS[name])
    steepest = slope(name, options)
    assume(steepest is not None)
    assert steepest is not None
    schedule, (_, high) = getattr(made, name)(**options), bounds(name, options)
    windows = [range(max(0, t - 3), t + 3) for t in joints(name, options)]
    for window in (range(60), *windows, range(t := data.draw(times), t + 5)):
        values = [schedule(t) for t in window]
        for t, before, after in zip(window, values, values[1:], strict=False):
            assert abs(after - before) <= steepest * (1 + 1e-9) + 8 * EPS * high, t


@many
@given(single(), st.integers(1, 200), st.none() | rates)
def test_a_warm_up_meets_its_schedule(built: Built, steps: int, start: float | None) -> None:
    """It rises evenly, has the full rate at its last step or its first after, and no step there is greater."""
    schedule = built.schedule.warmup(steps, start)
    full = built.schedule(0)
    ramp = [schedule(t) for t in range(steps + 1)]
    assert ramp[steps] == full
    allowed = 4 * EPS * max(full, start or 0)
    if start is None:
        assert ramp[steps - 1] == full
        assert ramp[0] == pytest.approx(full / steps, rel=4 * EPS)
    else:
        assert ramp[0] == start
    step = full / steps if start is None else abs(full - start) / steps
    assert all(abs(b - a) <= step + allowed for a, b in itertools.pairwise(ramp))
    assert [schedule(steps + t) for t in range(50)] == [built.schedule(t) for t in range(50)]


# Ends.


@names
@examples
@given(data=st.data())
def test_each_holds_after_its_end(name: str, data: st.DataObject) -> None:
    """To the last bit; and what has a last rate holds that very number."""
    options = data.draw(ARGUMENTS[name])
    end = last(name, options)
    if end is None:
        return
    schedule = getattr(made, name)(**options)
    held = schedule(end)
    assert {schedule(end + n) for n in (1, 2, *data.draw(st.lists(times, max_size=5)))} == {held}
    if "end" in options and options.get("power") != 0:  # 0^0 is 1
        assert held == options["end"]
    assert name != "PolynomialProduct" or held == 0
    assert name != "OneCycle" or held == options["peak"] / options["div"] / options["final_div"]


@many
@given(any_schedule, st.lists(times, max_size=5))
def test_compositions_hold_after_their_end(built: Built, later: list[int]) -> None:
    """A warm-up of W steps before one of T ends at W + T, a sequence where its last part does."""
    assume(built.last is not None)
    assert built.last is not None
    held = built.schedule(built.last)
    assert {built.schedule(built.last + n) for n in (1, 2, *later)} == {held}


# Arrays.


INTEGERS = [np.dtype(kind) for kind in "bBhHiIlLqQ"]


@many
@given(any_schedule, st.sampled_from(INTEGERS), st.lists(times, max_size=12), st.data())
def test_arrays_hold_the_scalar_forms_floats(
    built: Built, dtype: np.dtype[Any], asked: list[int], data: st.DataObject
) -> None:
    """To the last bit, for every dtype of integers and every shape; and so does one element of an array."""
    asked = [t for t in asked if t <= np.iinfo(dtype).max]
    expected = [built.schedule(t).hex() for t in asked]
    array = np.array(asked, dtype)
    n = len(asked)
    rows = data.draw(st.sampled_from([k for k in range(1, n + 1) if n % k == 0] or [1]))
    for shaped in (array, array.reshape(rows, n // rows), array.reshape(1, n, 1), array[::-1][::-1]):
        given_out = built.schedule(shaped)
        assert given_out.dtype == np.float64
        assert given_out.shape == shaped.shape
        assert [float(each).hex() for each in given_out.ravel()] == expected
    assert [built.schedule(each).hex() for each in array] == expected
    assert [each.hex() for each in built.schedule(asked).tolist()] == expected
    if n:
        scalar = built.schedule(array[0].reshape(()))
        assert float(scalar).hex() == expected[0]


# Being values.


def round_trips(schedule: Schedule) -> Iterator[Schedule]:
    """Yield the same value by every way there is."""
    yield eval(repr(schedule), vars(schedules))
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        yield pickle.loads(pickle.dumps(schedule, protocol))
    yield copy.copy(schedule)
    yield copy.deepcopy(schedule)
    yield schedules.from_dict(json.loads(json.dumps(schedule.to_dict(), allow_nan=False)))


@many
@given(any_schedule, st.lists(times, min_size=1, max_size=5))
def test_round_trips(built: Built, asked: list[int]) -> None:
    schedule = built.schedule
    expected = [schedule(t).hex() for t in asked]
    for each in round_trips(schedule):
        assert type(each) is type(schedule)
        assert each == schedule
        assert hash(each) == hash(schedule)
        assert repr(each) == repr(schedule)
        assert each.to_dict() == schedule.to_dict()
        assert [each(t).hex() for t in asked] == expected
    assert json.loads(json.dumps(schedule.to_dict())) == schedule.to_dict()


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


@many
@given(any_schedule, any_schedule)
def test_equal_ones_print_the_same(a: Built, b: Built) -> None:
    first, second = a.schedule, b.schedule
    assert (first == second) == (repr(first) == repr(second)) == (first.to_dict() == second.to_dict())
    assert first != second or hash(first) == hash(second)
    assert {first: 1}[copy.deepcopy(first)] == 1


@many
@given(any_schedule, st.lists(times, min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_asking_changes_nothing(built: Built, asked: list[int], random: Any) -> None:
    """A schedule is a pure function: neither the order nor the number of questions matters."""
    expected = {t: built.schedule(t) for t in asked}
    shuffled = asked * 2
    random.shuffle(shuffled)
    assert [built.schedule(t) for t in shuffled] == [expected[t] for t in shuffled]


# Where it falls and rises.


def falling(name: str, o: dict[str, Any]) -> tuple[int, int, bool] | None:
    """Return from where to where a schedule only falls, or only rises."""
    whole = (0, 10**15)
    if name in ("Linear", "Cosine", "Rex") or (name == "Polynomial" and not o["cycle"]):
        return *whole, o["lr"] >= o["end"]
    if name in ("StepDecay", "Exponential", "NaturalExponential", "InverseTime", "PolynomialProduct"):
        return *whole, True
    if name == "WarmupStableDecay":
        return o["warmup_steps"], 10**15, o["peak"] >= o["end"]
    if name in ("InverseSqrt", "Noam"):
        return o["warmup_steps"] - 1, 10**15, True
    if name == "CosineRestarts":
        return 0, o["steps"] - 1, o["lr"] >= o["end"]
    if name == "Cyclic" and o["mode"] == "triangular":
        return o["up"], o["up"] + (o["down"] or o["up"]), o["high"] >= o["low"]
    if name == "OneCycle" and not o["three_phase"]:
        return math.ceil(o["pct_start"] * o["steps"] - 1), 10**15, o["div"] * o["final_div"] >= 1
    return None


def rising(name: str, o: dict[str, Any]) -> tuple[int, int, bool] | None:
    """Return the same of where it goes the other way first."""
    if name in ("WarmupStableDecay", "InverseSqrt", "Noam"):
        return 0, max(0, o["warmup_steps"] - 1), False
    if name == "Cyclic" and o["mode"] == "triangular":
        return 0, o["up"], o["high"] < o["low"]
    if name == "OneCycle":
        return 0, int(o["pct_start"] * o["steps"] - 1), o["div"] < 1
    return None


@names
@pytest.mark.parametrize("part", [falling, rising])
@examples
@given(data=st.data())
def test_monotone(part: Callable[..., tuple[int, int, bool] | None], name: str, data: st.DataObject) -> None:
    """Up to the rounding of each of the two rates: sum and product keep the order, cos and pow to the last bit or so."""
    options = data.draw(ARGUMENTS[name])
    span = part(name, options)
    if span is None:
        return
    first, end, down = span
    schedule = getattr(made, name)(**options)
    near = list(range(first, min(first + 70, end) + 1))
    far = data.draw(st.lists(st.integers(first, end), max_size=10))
    asked = [*near, *far]
    values = [schedule(t) for t in sorted(asked)]
    if not down:
        values.reverse()
    allowed = 4 * EPS * bounds(name, options)[1]
    assert all(later <= earlier + allowed for earlier, later in itertools.pairwise(values))
