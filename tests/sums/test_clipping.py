"""`max_norm` and `skip_nonfinite`: the bits of the definition, skipped steps, refusals, saving and copying."""

from __future__ import annotations

import copy
import inspect
import itertools
import math
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lrcore
from gpu.devices import imitated
from lrcore import schedules
from optimizers.resuming import ways_to_resume
from optimizers.test_groups import assert_refused, contents
from packs import trees
from rules.stepping import rate
from sums.oracle import LEAF, clipped, norm
from sums.test_sums import arrays
from support import (
    CLASSES,
    LARGE,
    ONES,
    Array,
    N,
    assert_bits,
    assert_goes_on,
    assert_same,
    gradients,
    make,
    run,
    start,
)

SGD: Any = lrcore.SGD
Adam: Any = lrcore.Adam
COSINE = schedules.Cosine(0.5, steps=9, end=0.125)
BAD = np.full(N, np.inf, np.float32)
INFINITE = [math.nan, math.inf, -math.inf]


def pair(n: int, rule: str = "adam", groups: Any = None, **settings: Any) -> list[Any]:
    """Return an optimizer with `max_norm` or `skip_nonfinite`, and one without."""
    params = [np.linspace(-1, 1, n, dtype=np.float32) for _ in range(2)]
    return [
        make(rule, p, rate, weight_decay=0.1, groups=groups, **own)
        for p, own in zip(params, (settings, {}), strict=True)
    ]


def step_both(
    opt: Any,
    plain: Any,
    g: Array,
    limit: float = math.inf,
    scale: float = 1.0,
    units: Sequence[slice] = (slice(None),),
) -> None:
    """Take a step, and one without settings whose scale is that of the definition; assert that the bits are equal."""
    seen = g.copy()
    for begin, end in itertools.chain.from_iterable(each.ranges for each in plain.groups if each.frozen):
        seen[begin:end] = 0
    expected = norm([seen[each] for each in units], scale)
    opt.step(g, grad_scale=scale)
    assert type(opt.grad_norm) is float
    np.testing.assert_equal(opt.grad_norm, expected)
    scale = clipped(scale, expected, limit)
    if math.isnan(scale):  # refused as an argument
        g, scale = np.full_like(g, math.nan), 1.0
    plain.step(g, grad_scale=scale)
    if isinstance(opt.params, np.ndarray):
        assert_same(opt, plain.params, [*plain.state.values()])
    else:
        trees.assert_same(opt, plain)


def but_skips(opt: Any) -> Any:
    """Return everything that a skipped step must leave."""
    dictionary, *others = contents(opt)
    return {name: dictionary[name] for name in dictionary if name != "skipped_steps"}, *others


# ---- bits


PARTS: list[dict[str, Any]] = [
    {"params": (3, 40), "weight_decay": 0.0, "maximize": True},
    {"params": (40, 55), "frozen": True},
    {"params": [(60, 64), (70, 99)], "lr_scale": 0.5},
]
STEPS = [(1e-3, 1.0), (1e9, -0.3), (math.inf, 7.0), (0.5, -1 / 3)]
"""The largest norm and the scale of each step."""


@pytest.mark.usefixtures("backend")
def test_bits_of_every_rule(rule: str) -> None:
    opt, plain = pair(100, rule, PARTS, max_norm=lambda t: STEPS[t][0])
    assert opt.grad_norm is None
    for t, (limit, scale) in enumerate(STEPS):
        assert opt.max_norm == limit
        step_both(opt, plain, gradients(np.random.default_rng(t), 100), limit, scale)


@pytest.mark.usefixtures("backend", "threads")
@pytest.mark.parametrize("n", [0, 1, 31, 32, 33, LEAF - 1, LEAF, LEAF + 1, 3 * LEAF + 17, LARGE + 1])
def test_bits_of_every_size_offset_and_number_of_threads(n: int) -> None:
    opt, plain = pair(n, max_norm=0.5, skip_nonfinite=1)
    for count, offset in enumerate((0, 1, 3, 7, 15, 2, 4, 8), 1):
        lrcore.set_num_threads(count)
        step_both(opt, plain, arrays(n, offset=offset)[0], 0.5)


@pytest.mark.usefixtures("backend")
def test_groups_do_not_change_the_norm() -> None:
    n = 3 * LEAF + 17
    for cuts in ([5], [LEAF], [1, 2, LEAF - 1, LEAF + 1, 9000, n - 1]):
        bounds = itertools.pairwise([0, *cuts, n])
        opt, plain = pair(n, groups=[{"params": each, "eps": 0.5} for each in bounds], max_norm=0.5)
        step_both(opt, plain, arrays(n)[0], 0.5)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize(
    "frozen", [[(7, 9)], [(LEAF - 3, 2 * LEAF + 5), (12304, 12305)], [(0, LEAF)], [(0, 12305)]]
)
def test_frozen_elements_are_zeros(frozen: list[tuple[int, int]]) -> None:
    """What is not finite there does not count. A thawed group counts from the next step on."""
    n = 3 * LEAF + 17
    opt, plain = pair(n, groups=[{"params": frozen, "frozen": True}], max_norm=0.5, skip_nonfinite=1)
    g = arrays(n)[0]
    kept, g[frozen[0][0]] = g[frozen[0][0]], math.nan
    step_both(opt, plain, g, 0.5)
    g[frozen[0][0]] = kept
    for each in (opt, plain):
        each.groups[1].frozen = False
    step_both(opt, plain, g, 0.5)
    assert opt.skipped_steps == 0


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize(
    ("value", "limit"),
    [(1e-45, 1e-50), (1e-45, 1.0), (3e38, 1.0), (-3e38, 1e-7), (3e38, 1e300), (0.0, 1e-300)],
)
def test_extreme_values(value: float, limit: float) -> None:
    """Nothing overflows or is flushed to zero, and gradients that are finite are not skipped."""
    for n in (1, 33, LEAF + 1):
        for given in (limit, lambda _: limit):
            opt, plain = pair(n, max_norm=given, skip_nonfinite=1)
            step_both(opt, plain, np.full(n, value, np.float32), limit)
            assert opt.max_norm == limit


def test_the_scale_is_rounded_once() -> None:
    """A rounding of the norm, the scale or the factor to float32, or PyTorch's 1e-6, would give other bits."""
    found = []
    for seed in range(40):
        g, scale = np.random.default_rng(seed).standard_normal(N, np.float32), 1 + seed / 7
        opt, plain = pair(N, "sgd", max_norm=0.3)
        step_both(opt, plain, g, 0.3, scale)
        total = norm([g], scale)
        single = np.float32(0.3 / total)
        others = [np.float32(scale) * single, np.float32(0.3) / np.float32(total) * np.float32(scale)]
        found.append(
            [
                clipped(scale, total, 0.3) != each
                for each in (*others, np.float32(0.3 / (total + 1e-6) * scale))
            ]
        )
    assert all(map(any, zip(*found, strict=True)))


@pytest.mark.usefixtures("backend", "threads")
@pytest.mark.parametrize(
    ("pad", "count"), [(False, 40), (True, 40), pytest.param(True, LEAF + 99, marks=pytest.mark.slow)]
)
def test_the_units_of_a_pack(pad: bool, count: int) -> None:
    """They are its arrays, also in groups by name. Padding does not count, also in bound gradients."""
    many = {f"many{i}": 1 + i % 97 for i in range(count)}
    shared = np.zeros(7, np.float32)
    entries = {
        "a": 3,
        "tied": shared,
        "b": {"w": (LEAF, 3), "tied": shared},
        "c": [LEAF + 1, ()],
        **many,
        "none": 0,
    }
    pack = lrcore.Pack(entries, pad=pad)
    names = ["b.w", "many7*"]
    groups = [{"params": names, "frozen": True}]
    opt = Adam(pack, grads=pack.like(), groups=groups, max_norm=0.5, skip_nonfinite=1)
    plain = Adam(pack.flat.copy(), groups=[{"params": [*opt.groups[1].ranges], "frozen": True}])
    views = {id(view): view for view in pack.named_arrays().values()}.values()
    begins = [(view.ctypes.data - pack.flat.ctypes.data) // 4 for view in views]
    units = [slice(begin, begin + view.size) for begin, view in zip(begins, views, strict=True)]
    outside = np.ones(pack.flat.size, bool)
    for each in units:
        outside[each] = False
    assert outside.any() == pad
    others = []
    for t in range(16 if count < LEAF else 3):
        lrcore.set_num_threads(1 + t % 8)
        g = np.random.default_rng(t).standard_normal(pack.flat.size, np.float32)
        g[outside] = 1e30
        step_both(opt, plain, g, 0.5, units=units)
        for begin, end in opt.groups[1].ranges:
            g[begin:end] = 0
        g[outside] = 0
        others.append(opt.grad_norm != norm([g]))
    assert any(others)  # the norm of the whole buffer has other bits
    g[outside] = math.nan
    opt.grads.flat = g
    found = opt.grad_norm
    opt.step()
    assert (opt.skipped_steps, opt.grad_norm) == (0, found)


# ---- gradients that are not finite


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("value", INFINITE)
@pytest.mark.parametrize("limit", [0.5, math.inf])
def test_without_skipping_the_arithmetic_goes_on(value: float, limit: float) -> None:
    """A norm of NaN makes all parameters NaN, and a scale of 0 multiplies infinite gradients.

    Both are as in PyTorch. With an infinite limit, the norm is only measured.
    """
    n = LEAF + 40
    for i in (0, 31, 32, LEAF - 1, LEAF, n - 1):
        opt, plain = pair(n, max_norm=limit)
        g = arrays(n)[0]
        g[i] = value
        step_both(opt, plain, g, limit)
        is_nan = np.isnan(opt.params)
        assert is_nan[i]
        assert is_nan.sum() == (n if math.isnan(value) and limit < math.inf else 1)
        assert (opt.step_count, opt.skipped_steps) == (1, 0)


@pytest.mark.usefixtures("backend")
def test_a_skipped_step_changes_nothing(rule: str) -> None:
    n = LEAF + 40
    opt, plain = pair(n, rule, PARTS, max_norm=lambda t: 0.5 / (t + 1), skip_nonfinite=True)
    step_both(opt, plain, arrays(n)[0], 0.5)
    before = but_skips(opt)
    cases = [*itertools.product(INFINITE, (0, 31, 59, LEAF, n - 1))]
    for k, (value, i) in enumerate(cases, 1):
        g = arrays(n)[0]
        g[i] = value
        opt.step(g, grad_scale=-0.5)
        np.testing.assert_equal(opt.grad_norm, abs(value))
        assert (but_skips(opt), opt.skipped_steps) == (before, k)
    step_both(opt, plain, arrays(n)[0], 0.25)
    assert opt.skipped_steps == len(cases)


def test_schedules_are_called_again_after_a_skipped_step() -> None:
    asked: dict[str, list[int]] = {"lr": [], "max_norm": [], "weight_decay": []}

    def recording(name: str) -> Callable[[int], float]:
        def number(t: int) -> float:
            asked[name].append(t)
            return 0.5

        return number

    opt = Adam(start(), **{name: recording(name) for name in asked}, skip_nonfinite=2)
    for g in (ONES, BAD, ONES, ONES, BAD):
        opt.step(g)
    assert [*asked.values()] == 3 * [[0, 1, 1, 2, 3]]
    assert (opt.step_count, opt.skipped_steps) == (3, 2)


@pytest.mark.parametrize(("setting", "n"), [(1, 1), (3, 3), (True, 100)])
def test_a_row_of_skipped_steps(setting: Any, n: int) -> None:
    """The n-th raises, and so do those after it. Only a step that is taken ends the row."""
    opt = Adam(start(), skip_nonfinite=setting)
    run(opt, 6)
    for count in (6, 7):
        skipped = opt.skipped_steps
        for _ in range(n - 1):
            opt.step(BAD)
            with pytest.raises(ValueError, match="^grads: "):
                opt.step(ONES[:3])
        before = but_skips(opt)
        for k in range(3):
            words = ("skip_nonfinite", rf"\b{n}\b", rf"\b{count}\b")
            assert_refused(lambda: opt.step(BAD), FloatingPointError, *words)
            assert (opt.skipped_steps, opt.grad_norm) == (skipped + n + k, math.inf)
            assert but_skips(opt) == before
        run(opt, 1)


# ---- arguments


WRONG: list[tuple[str, Any, type[Exception]]] = [
    *(("max_norm", value, ValueError) for value in (0, -0.0, -1.0, math.nan, -math.inf)),
    *(("max_norm", value, TypeError) for value in (True, "1", schedules.Cosine, [1.0], 1j)),
    *(("skip_nonfinite", value, ValueError) for value in (0, -1)),
    *(("skip_nonfinite", value, TypeError) for value in (1.0, "1", None, COSINE)),
]


@pytest.mark.parametrize(("name", "value", "error"), WRONG)
def test_wrong_values(name: str, value: Any, error: type[Exception]) -> None:
    opt = Adam(start(), max_norm=0.5, skip_nonfinite=3)
    for call in (lambda: Adam(start(), **{name: value}), lambda: setattr(opt, name, value)):
        with pytest.raises(error, match=f"^{name}: "):
            call()
    assert (opt.max_norm, opt.skip_nonfinite) == (0.5, 3)


@pytest.mark.parametrize(
    "call", [lambda: 0.0, lambda: math.nan, lambda: -1.0, lambda: "1", lambda: None, lambda: 1 / 0]
)
def test_a_step_that_raises_changes_nothing(call: Callable[[], Any]) -> None:
    is_wrong = False
    opt = Adam(start(), 0.1, max_norm=lambda _: call() if is_wrong else 0.5, skip_nonfinite=9)
    run(opt, 2)
    opt.step(BAD)
    run(opt, 1)
    before, found, is_wrong = contents(opt), opt.grad_norm, True
    for g in (ONES, BAD):
        with pytest.raises((TypeError, ValueError, ZeroDivisionError)) as caught:
            opt.step(g)
        if not isinstance(caught.value, ZeroDivisionError):
            assert str(caught.value).startswith("max_norm: ")
            assert str(caught.value).endswith("from the schedule at t = 3")
    is_wrong = False
    for wrong in (ONES[:3], None):
        with pytest.raises((TypeError, ValueError), match="^grads: "):
            opt.step(wrong)
    assert (contents(opt), opt.grad_norm, opt.skipped_steps) == (before, found, 1)


def test_attributes() -> None:
    """Assigned settings apply from the next step on. The norm is that of the last step that measured it."""
    opt, plain = pair(N)
    for each in (opt, plain):
        each.step(ONES)
    assert (opt.max_norm, opt.skip_nonfinite, opt.grad_norm, opt.skipped_steps) == (None, False, None, 0)
    assert "max_norm" not in repr(opt)
    opt.skip_nonfinite = True
    step_both(opt, plain, ONES)
    opt.skip_nonfinite = 12
    for limit in (1, COSINE, lambda t: t / 16):
        opt.max_norm = limit
        number = limit(opt.step_count) if callable(limit) else 1.0
        assert (opt.max_norm, type(opt.max_norm)) == (number, float)
        step_both(opt, plain, ONES, number)
    opt.max_norm = 0.75
    assert {"max_norm=0.75", "skip_nonfinite=12"} <= {*repr(opt).strip(")").replace(",", "").split()}
    opt.max_norm, opt.skip_nonfinite = None, False
    for each in (opt, plain):
        each.step(2 * ONES)
    assert_bits(opt.params, plain.params)
    assert opt.grad_norm == norm([ONES])
    for name in ("grad_norm", "skipped_steps"):
        with pytest.raises(AttributeError, match=f"^{name}: "):
            setattr(opt, name, 1)
    with imitated() as xp:
        fixed = Adam(xp.array(start()), grads=xp.array(ONES), capturable=True, max_steps=3)
        for name, value in (("max_norm", 1.0), ("skip_nonfinite", True)):
            with pytest.raises(AttributeError, match=f"^{name}: fixed at construction"):
                setattr(fixed, name, value)


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_has_the_arguments(name: str) -> None:
    cls: Any = CLASSES[name]
    mine: Any = types.new_class("Mine", (cls,), {"max_norm": 0.25, "skip_nonfinite": 4})
    opt = mine(start(), max_norm=None)
    assert (opt.max_norm, opt.skip_nonfinite, mine(start()).max_norm) == (None, 4, 0.25)
    parameters = inspect.signature(cls).parameters
    for each, default in {"max_norm": None, "skip_nonfinite": False}.items():
        assert parameters[each].default is getattr(cls(start()), each) is default
        assert parameters[each].kind is inspect.Parameter.KEYWORD_ONLY
        with pytest.raises(TypeError, match=rf"groups\[0\]: {each}: an argument of the optimizer"):
            cls(start(), groups=[{"params": (0, 3), each: 1}])


# ---- saving and copying


def fresh(params: Any = None) -> Any:
    """Return an optimizer with other settings than those that it loads."""
    return Adam(start() if params is None else params, 0.1, max_norm=7.0, skip_nonfinite=2)


WAYS = ways_to_resume(fresh)


@pytest.mark.parametrize(("limit", "skip"), [(None, True), (0.5, 3), (math.inf, False), (COSINE, 4)])
@pytest.mark.parametrize("way", WAYS)
def test_a_run_is_resumed(way: str, limit: Any, skip: Any, tmp_path: Path) -> None:
    """The copy has the settings and the number of skipped steps, and begins a new row."""
    opt = Adam(start(), 0.1, max_norm=limit, skip_nonfinite=skip)
    run(opt, 2)
    for _ in range(2 if skip else 0):
        opt.step(BAD)
    again = WAYS[way](copy.deepcopy(opt), tmp_path / "state.safetensors")
    assert repr((again.max_norm, again.skip_nonfinite)) == repr((opt.max_norm, opt.skip_nonfinite))
    assert again.skipped_steps == opt.skipped_steps
    for _ in range(2 if skip else 0):
        again.step(BAD)
    assert again.skipped_steps == 2 * opt.skipped_steps
    run(opt, 4)
    assert_goes_on(again, opt, 4)
    assert again.max_norm == opt.max_norm


@pytest.mark.parametrize("of_torch", [False, True])
def test_a_dictionary_without_the_entries(of_torch: bool) -> None:
    """An older one, or PyTorch's: the optimizer keeps its settings, has skipped no step, and begins a new row."""
    opt, other = fresh(), Adam(start(), 0.1)
    opt.max_norm = COSINE
    opt.step(BAD)
    if of_torch:
        pytest.importorskip("torch")
        opt.load_torch_state_dict(other.torch_state_dict())
    else:
        old = other.state_dict()
        for name in ("max_norm", "skip_nonfinite", "skipped_steps"):
            del old[name]
        opt.load_state_dict(old)
    assert (opt.max_norm, opt.skip_nonfinite, opt.skipped_steps) == (0.5, 2, 0)
    opt.step(BAD)
    opt.step_count = 3
    assert opt.max_norm == COSINE(3)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            ("max_norm", value)
            for value in (0.0, -1.0, True, "1", COSINE, {"schedule": 1, "schedule_state": []})
        ),
        *(("skip_nonfinite", value) for value in (0, 1.5, None)),
        *(("skipped_steps", value) for value in (-1, 1.5, None, "1", 2**53, 2**63)),
    ],
)
def test_a_wrong_entry_is_refused(name: str, value: Any) -> None:
    opt = fresh()
    run(opt, 2)
    opt.step(BAD)
    before, found = contents(opt), opt.grad_norm
    with pytest.raises((TypeError, ValueError), match=f"{name}|schedule"):
        opt.load_state_dict(Adam(start()).state_dict() | {name: value})
    assert (contents(opt), opt.grad_norm) == (before, found)
    assert_refused(lambda: opt.step(BAD), FloatingPointError, "skip_nonfinite")


def test_a_callable_is_not_stored(tmp_path: Path) -> None:
    opt = Adam(start(), max_norm=lambda _: 0.25)
    opt.save(tmp_path / "state.safetensors")
    assert opt.state_dict()["max_norm"]["schedule"] is None
    own = Adam(start(), max_norm=lambda _: 0.75)
    own.load(tmp_path / "state.safetensors")
    assert own.max_norm == 0.75
    with pytest.raises(ValueError, match="max_norm: not stored, because it came from a callable"):
        fresh().load(tmp_path / "state.safetensors")


def test_a_plateau(tmp_path: Path) -> None:
    """It is found, and remains one object with that of the rate."""
    plateau = schedules.Plateau(0.5, patience=0, threshold=0)
    opt = Adam(start(), plateau * 0.1, max_norm=plateau)
    only = Adam(start(), max_norm=plateau)
    assert schedules.plateaus(opt) == schedules.plateaus(only) == [plateau]
    for _ in range(2):
        plateau.observe(1)
    assert opt.max_norm == only.max_norm == plateau(0) < 0.5
    opt.save(tmp_path / "state.safetensors")
    again: Any = lrcore.load(tmp_path / "state.safetensors", start())
    (carried,) = schedules.plateaus(again)
    carried.observe(1)
    assert again.lr == 0.1 * again.max_norm < 0.1 * opt.max_norm
    opt.load_state_dict(again.state_dict())
    assert schedules.plateaus(opt) == [plateau]
    assert (opt.lr, opt.max_norm) == (again.lr, again.max_norm)
