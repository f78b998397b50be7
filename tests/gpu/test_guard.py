"""`max_norm` and `skip_nonfinite` on a device, with the bits of the same optimizer on the CPU.

The device decides about a step. The host waits for the decision only if it needs the step count, the norm or the
number of skipped steps, and raises FloatingPointError then.
"""

from __future__ import annotations

import copy
import gc
import itertools
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import lrcore
from gpu.devices import CUPY, CuPy, Imitated, Torch, assert_equal, imitated, library
from gpu.fake_cuda import WAITING
from gpu.test_groups import shifted
from lrcore import schedules
from rules.stepping import rate
from sums.oracle import LEAF
from sums.test_clipping import INFINITE, PARTS
from support import ONES, Array, N, assert_bits, gradients, make, start

COSINE = schedules.Cosine(0.5, steps=9, end=0.125)
GROUPS = [*PARTS, {"params": (99, LEAF - 1), "lr": COSINE}]
CUT = LEAF + 40
"""A number of elements for these groups, in two leaves."""

SETTINGS: dict[str, dict[str, Any]] = {
    "number": {"max_norm": 0.5},
    "infinity": {"max_norm": math.inf},
    "schedule": {"max_norm": lambda t: (1e-3, 1e9, math.inf)[t % 3]},
    "skipping": {"skip_nonfinite": True},
    "both": {"max_norm": COSINE, "skip_nonfinite": 9},
}


def gradient(n: int, t: int, bad: float | None = None) -> Array:
    """Return the gradients of step t, one of which is `bad`, unless that is None."""
    g = gradients(np.random.default_rng([t, n]), n)
    if bad is not None and n > 0:
        g[7 * t % n] = bad
    return g


def pair(xp: CuPy | Torch, n: int, rule: str = "adam", offset: int = 0, **settings: Any) -> tuple[Any, Any]:
    """Return an optimizer whose parameters begin at some offset on a device, and the same one on the CPU."""
    p = np.linspace(-1, 1, n, dtype=np.float32)
    alike: dict[str, Any] = {"lr": rate, "weight_decay": 0.1} | settings
    return make(rule, shifted(xp, p, offset), **alike), make(rule, p, **alike)


def captured_pair(xp: CuPy | Torch, n: int, max_steps: int = 30, **settings: Any) -> tuple[Any, Any]:
    """Return the same with bound gradients. The optimizer on the device is capturable."""
    p = np.linspace(-1, 1, n, dtype=np.float32)
    alike: dict[str, Any] = {"lr": rate, "weight_decay": 0.1} | settings
    opt = make("adam", xp.array(p), grads=xp.zeros(n), capturable=True, max_steps=max_steps, **alike)
    return opt, make("adam", p, grads=np.zeros(n, np.float32), **alike)


def step_both(xp: CuPy | Torch, opt: Any, expected: Any, g: Array, offset: int = 0, **scale: float) -> None:
    """Take a step with gradients that begin at some offset on the device, and one on the CPU."""
    opt.step(shifted(xp, g, offset), **scale)
    expected.step(g, **scale)


def write(xp: CuPy | Torch, array: Any, values: Any) -> None:
    """Write into an array on a device, and wait for that."""
    xp.write(array, np.asarray(values, np.float32))
    xp.numpy(array)


def write_both(xp: CuPy | Torch, opt: Any, expected: Any, g: Array) -> None:
    """Write into the bound gradients."""
    write(xp, opt.grads, g)
    expected.grads[...] = g


def record(opt: Any) -> str:
    """Return what an optimizer has recorded about its steps. Equal texts mean equal bits."""
    counts = [group.step_count for group in opt.groups]
    return repr((opt.grad_norm, opt.skipped_steps, opt.step_count, counts, opt.lr, opt.max_norm))


def assert_alike(xp: CuPy | Torch, opt: Any, expected: Any, what: str = "") -> None:
    """Assert that a device has the bits of the CPU, and has recorded the same."""
    assert record(opt) == record(expected), what
    assert_equal(xp, opt, expected, what)


def refusal(call: Callable[[], object]) -> str | None:
    """Return the message of the FloatingPointError that a call raises, or None."""
    try:
        call()
    except FloatingPointError as error:
        return str(error)
    return None


# ---- bits


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("n", [0, 1, 5, 33, LEAF - 1, LEAF, LEAF + 1, 2 * LEAF, 3 * LEAF + 17])
def test_bits_of_every_size(xp: CuPy | Torch, n: int, settings: dict[str, Any]) -> None:
    """Whatever the scale is. A step that is skipped leaves everything as it was, also one of several in a row."""
    opt, expected = pair(xp, n, **settings)
    assert opt.grad_norm is None
    for t, scale in enumerate((1.0, -0.3, 7.0, 0.0, -0.0, 1 / 3)):
        is_bad = "skip_nonfinite" in settings and t in (1, 2, 3, 5)
        step_both(xp, opt, expected, gradient(n, t, INFINITE[t % 3] if is_bad else None), grad_scale=scale)
        if t % 2:
            assert_alike(xp, opt, expected, f"after step {t}")


def test_bits_of_every_rule(xp: CuPy | Torch, rule: str) -> None:
    """In groups, which are thawed and frozen. Only elements that are not frozen belong to the norm."""
    opt, expected = pair(xp, CUT, rule, groups=GROUPS, max_norm=COSINE, skip_nonfinite=9)
    for t in range(7):
        for each in (opt, expected):
            each.groups[1].maximize = t > 3
            each.groups[2].frozen = t % 3 != 1
        g = gradient(CUT, t, math.nan if t in (2, 5) else None)
        g[45] = math.inf if t in (3, 4) else 1.0  # frozen in step 3 alone
        step_both(xp, opt, expected, g, grad_scale=-0.5)
    assert_alike(xp, opt, expected)
    assert (opt.step_count, opt.skipped_steps) == (4, 3)


@pytest.mark.parametrize(
    "frozen", [[], [(0, LEAF)], [(LEAF - 3, 2 * LEAF + 5), (12304, 12305)], [(0, 12305)]]
)
@pytest.mark.parametrize("cuts", [[5], [1, 2, LEAF - 1, LEAF + 1, 9000]])
def test_segments_of_any_length(xp: CuPy | Torch, frozen: list[tuple[int, int]], cuts: list[int]) -> None:
    """They may begin, end and be frozen anywhere in a leaf."""
    bounds = sorted({0, *cuts, 12305, *(bound for each in frozen for bound in each)})
    groups = [
        {"params": each, "eps": 0.5, "frozen": any(begin <= each[0] < end for begin, end in frozen)}
        for each in itertools.pairwise(bounds)
    ]
    opt, expected = pair(xp, 12305, groups=groups, max_norm=0.5)
    for t in range(2):
        step_both(xp, opt, expected, gradient(12305, t))
    assert_alike(xp, opt, expected)


@pytest.mark.parametrize("groups", [None, GROUPS])
@pytest.mark.parametrize(("of_params", "of_grads"), [(0, 1), (1, 0), (1, 1), (3, 2)])
def test_alignment(xp: CuPy | Torch, of_params: int, of_grads: int, groups: Any) -> None:
    """Each step uses the accesses that its own gradients permit."""
    opt, expected = pair(xp, CUT, "sgd", of_params, groups=groups, max_norm=0.5, skip_nonfinite=9)
    for t, offset in enumerate((of_grads, of_params, of_grads)):
        step_both(xp, opt, expected, gradient(CUT, t, math.nan if t == 1 else None), offset)
        step_both(xp, opt, expected, gradient(CUT, t), offset)
    assert_alike(xp, opt, expected)


@pytest.mark.parametrize("value", INFINITE)
@pytest.mark.parametrize("limit", [0.5, math.inf])
def test_without_skipping_the_arithmetic_goes_on(xp: CuPy | Torch, value: float, limit: float) -> None:
    for t in (0, 1, LEAF):  # elements 0, 7, and one in the second leaf
        opt, expected = pair(xp, CUT, max_norm=limit)
        step_both(xp, opt, expected, gradient(CUT, t, value))
        assert_alike(xp, opt, expected)
        assert (opt.step_count, opt.skipped_steps) == (1, 0)


@pytest.mark.parametrize(
    ("value", "limit"), [(1e-45, 1e-50), (1e-45, 1.0), (-3e38, 1e-7), (3e38, 1e300), (0.0, 1e-300)]
)
def test_extreme_values(xp: CuPy | Torch, value: float, limit: float) -> None:
    for n in (1, 33, LEAF + 1):
        for given in (limit, lambda _: limit):
            opt, expected = pair(xp, n, max_norm=given, skip_nonfinite=1)
            step_both(xp, opt, expected, np.full(n, value, np.float32))
            assert_alike(xp, opt, expected)


def test_a_unit_with_more_than_a_leaf_of_leaves(xp: CuPy | Torch) -> None:
    """Its leaves are added up in two phases."""
    n = LEAF * LEAF + 9 * LEAF + 5
    opt, expected = pair(xp, n, "sgd", max_norm=0.5)
    step_both(xp, opt, expected, np.resize(gradient(1003, 0), n))
    assert_alike(xp, opt, expected)


@pytest.mark.parametrize(("pad", "count"), [(True, 300), (False, LEAF + 99)])
@pytest.mark.parametrize("name", CUPY)
def test_the_units_of_a_pack(name: str, pad: bool, count: int) -> None:
    """They are its arrays; those of several leaves, and a great number of arrays, take further phases."""
    shared = np.zeros(7, np.float32)
    entries = {
        "tied": shared,
        "large": {"w": (LEAF, 3), "tied": shared, "b": LEAF + 1},
        **{f"many{i}": 1 + i % 97 for i in range(count)},
        "none": 0,
    }
    with library(name) as xp:
        assert isinstance(xp, CuPy)
        settings: dict[str, Any] = {
            "groups": [
                {"params": ["large.w", "many7*"], "lr_scale": 0.5},
                {"params": "many8", "frozen": True},
            ],
            "max_norm": 0.5,
            "skip_nonfinite": 9,
        }
        packs = [lrcore.Pack(entries, each, pad=pad) for each in (xp.cupy, np)]
        opt, expected = (make("adam", each, grads=each.like(), **settings) for each in packs)
        more = [each.like() for each in packs]
        for t in range(4):
            for k, (on_device, on_host) in enumerate(((opt.grads, expected.grads), more)):
                on_host.flat = gradient(on_host.flat.size, 2 * t + k, math.nan if t == 1 else None)
                write(xp, on_device.flat, on_host.flat)
            for each, other in zip((opt, expected), more, strict=True):
                each.step(*([[each.grads, other]] if t % 2 else []))
        assert record(opt) == record(expected)
        assert opt.skipped_steps == 1
        assert_bits(xp.numpy(opt.params.flat), expected.params.flat)
        for state, values in zip(opt.state.values(), expected.state.values(), strict=True):
            assert_bits(xp.numpy(state.flat), values.flat)


# ---- skipped steps in a row

READS: dict[str, Callable[[Any, Any], object]] = {
    "step": lambda opt, g: opt.step(g),
    "step_count": lambda opt, _: opt.step_count,
    "grad_norm": lambda opt, _: opt.grad_norm,
    "skipped_steps": lambda opt, _: opt.skipped_steps,
    "lr": lambda opt, _: opt.lr,
    "max_norm": lambda opt, _: opt.max_norm,
    "step_count of a group": lambda opt, _: opt.groups[1].step_count,
    "state_dict": lambda opt, _: opt.state_dict(),
    "copy": lambda opt, _: copy.copy(opt),
    "repr": lambda opt, _: repr(opt),
}
"""What waits for the decision about the last step."""


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_a_row_of_skipped_steps(xp: CuPy | Torch, read: Callable[[Any, Any], object]) -> None:
    """What first waits for the third or a further one raises an error once. A step that raises it is not taken."""
    opt, expected = pair(xp, CUT, groups=GROUPS, max_norm=COSINE, skip_nonfinite=3)
    good = xp.array(gradient(CUT, 9))
    bad, on_device = gradient(CUT, 3, math.nan), xp.array(gradient(CUT, 3, math.nan))
    for row in range(2):
        for t in range(2):
            step_both(xp, opt, expected, gradient(CUT, t))
        for k in range(4):
            opt.step(on_device)
            message = refusal(lambda: expected.step(bad))
            assert (message is not None) == (k >= 2)
            if message is not None:
                assert (
                    f"got {k + 1}; the gradients have not been finite since step_count {2 * row + 2}"
                    in message
                )
                assert refusal(lambda: read(opt, good)) == message
            if k % 2:
                assert_alike(xp, opt, expected, f"row {row}, after {k + 1} steps")
    step_both(xp, opt, expected, gradient(CUT, 4))
    assert_alike(xp, opt, expected)


def test_loading_after_a_row_of_skipped_steps(xp: CuPy | Torch) -> None:
    """It raises nothing, whether or not the last step was waited for, and begins a new row."""
    opt, expected = pair(xp, CUT, max_norm=0.5, skip_nonfinite=2)
    step_both(xp, opt, expected, gradient(CUT, 0))
    saved = [(each, each.state_dict()) for each in (opt, expected)]
    for waits in (False, True):
        for t in range(2):
            g = gradient(CUT, t, math.inf)
            opt.step(xp.array(g))
            message = refusal(lambda g=g: expected.step(g))  # type: ignore[misc]
        assert message is not None
        if waits:
            assert refusal(lambda: opt.skipped_steps) == message
        for each, dictionary in saved:
            each.load_state_dict(dictionary)
        assert_alike(xp, opt, expected)
        step_both(xp, opt, expected, gradient(CUT, 5, math.inf))
        step_both(xp, opt, expected, gradient(CUT, 6))
        assert_alike(xp, opt, expected)


def test_assignments_between_steps(xp: CuPy | Torch) -> None:
    """Each waits for the last step, which may have been skipped."""
    opt, expected = pair(xp, CUT, groups=GROUPS, skip_nonfinite=3)
    changes: list[tuple[str, Any]] = [
        ("max_norm", 0.5),
        ("skip_nonfinite", 2),
        ("lr", COSINE),
        ("step_count", 7),
        ("skip_nonfinite", False),
        ("max_norm", COSINE),
        ("max_norm", None),
        ("skip_nonfinite", True),
    ]
    for t, (name, value) in enumerate(changes):
        for seed in range(2):
            is_bad = opt.skip_nonfinite is not False and seed == t % 2
            step_both(xp, opt, expected, gradient(CUT, 2 * t + seed, math.nan if is_bad else None))
        for each in (opt, expected):
            setattr(each, name, value)
        if t % 2:
            assert_alike(xp, opt, expected, f"after {name} = {value}")
    assert opt.skipped_steps == 4  # one NaN is in a frozen group


@pytest.mark.parametrize(("name", "value"), [("lr", 0.1), ("hyper", {"eps": 0.5}), ("max_norm", 1.0)])
def test_an_assignment_does_not_hide_the_error(xp: CuPy | Torch, name: str, value: Any) -> None:
    """A loop that assigns a setting before each step is stopped too."""
    opt, _ = pair(xp, N, skip_nonfinite=2)

    def train() -> None:
        for _ in range(4):
            setattr(opt, name, value)
            opt.step(xp.array(np.full(N, math.nan, np.float32)))

    assert "got 2; " in (refusal(train) or "no error")


# ---- what waits


GUARDS = [({"max_norm": 0.5}, []), ({"skip_nonfinite": 9}, ["wait_for_event"])]
"""Settings, and what waits for the decision about a step if the step count is needed."""


@pytest.mark.parametrize("count", [None, 1, 3])
@pytest.mark.parametrize(("settings", "waits"), GUARDS)
def test_what_a_step_calls(settings: dict[str, Any], waits: list[str], count: int | None) -> None:
    """All launches are on the stream of the step. Only a step that may be skipped is waited for, by the next one.

    The addresses of a list are in memory that is released in the order of the stream.
    """
    with imitated() as xp:
        opt, _ = pair(xp, CUT, **settings)
        events = 0
        stream = xp.stream()
        before = xp.fake.leaked()
        for t in range(3):
            g = xp.array(gradient(CUT, t, math.nan if t == 1 else None))
            xp.fake.clear()
            with stream:
                opt.step(g if count is None else count * [g])
            names = [call.name for call in xp.fake.calls()]
            events += names.count("record_event") - names.count("destroy_event")
            assert events == 1
            allocated, released = (["allocate_on", "write"], ["release_on"]) if count == 3 else ([], [])
            assert [name for name in names if not name.endswith(("record_event", "destroy_event"))] == [
                *(waits if t else []), "is_capturing", *allocated, "measure", "judge", "launch", *released
            ]  # fmt: skip
            assert {call.stream for call in xp.fake.calls()} <= {stream.ptr, None}
        assert xp.fake.leaked() == before


@pytest.mark.parametrize(("settings", "waits"), GUARDS)
def test_what_waits_for_a_step(settings: dict[str, Any], waits: list[str]) -> None:
    """Reading the step count waits for a step that may be skipped, and reading the norm for any step, but only once."""
    with imitated() as xp:
        opt, _ = pair(xp, CUT, **settings)
        opt.step(xp.array(gradient(CUT, 0)))
        xp.fake.clear()
        assert (opt._started_steps, xp.fake.calls()) == (1, [])
        for read, called in (
            (lambda: opt.step_count, waits),
            (lambda: opt.lr, []),
            (lambda: opt.grad_norm, [] if waits else ["wait_for_event"]),
            (lambda: (opt.step_count, opt.grad_norm, opt.skipped_steps, opt.groups[0].step_count), []),
        ):
            xp.fake.clear()
            read()
            assert [call.name for call in xp.fake.calls(*WAITING)] == called


def test_tables_are_written_when_segments_or_settings_change() -> None:
    with imitated() as xp:
        opt, _ = pair(xp, CUT, groups=GROUPS)
        g = xp.array(gradient(CUT, 0))

        def copies(call: Callable[[], object]) -> bool:
            """Return whether a call allocates memory or copies anything."""
            xp.fake.clear()
            call()
            return bool(xp.fake.calls("copy", "allocate"))

        assert copies(lambda: setattr(opt, "max_norm", 0.5))
        assert not copies(lambda: opt.step(g))
        opt.max_norm = 0.25
        opt.groups[1].lr_scale = 0.5
        assert not copies(lambda: opt.step(g))
        opt.groups[2].frozen = False
        opt.step(g)
        assert not copies(lambda: opt.step(g))


def test_a_refused_capture_goes_on(xp: CuPy | Torch) -> None:
    """An optimizer that is not capturable refuses to be captured before it waits for its last step."""
    g = xp.array(ONES)
    opt = lrcore.SGD(xp.array(start()), grads=g, skip_nonfinite=2)
    other = lrcore.SGD(xp.array(start()), grads=g, capturable=True, max_steps=3)
    opt.step()

    def step() -> None:
        other.step()
        with pytest.raises(RuntimeError, match="captured.*capturable=True"):
            opt.step()

    xp.capture(step)()
    assert (opt.step_count, other.step_count) == (1, 1)


def test_an_optimizer_is_let_go_during_a_capture(xp: CuPy | Torch) -> None:
    """The garbage collector may run during a capture, which continues."""
    g = xp.array(ONES)
    other = lrcore.SGD(xp.array(start()), grads=g, capturable=True, max_steps=3)
    kept = [lrcore.SGD(xp.array(start()), max_norm=0.5)]
    kept[0].step(g)

    def step() -> None:
        kept.clear()
        gc.collect()
        other.step()

    xp.capture(step)()
    assert other.step_count == 1


# ---- graphs


def test_replays_that_skip(xp: CuPy | Torch) -> None:
    """Schedules go on where they were, also past the table. The host does nothing except launch the replays."""
    last = 3
    opt, expected = captured_pair(
        xp,
        CUT,
        max_steps=last + 1,
        lr=lambda t: rate(min(t, last)),
        max_norm=lambda t: 0.5 / (1 + min(t, last)),
        skip_nonfinite=9,
        groups=[PARTS[0], PARTS[2]],
    )
    replay = xp.capture(opt.step)
    taken = 0
    for t in range(14):
        write_both(xp, opt, expected, gradient(CUT, t, INFINITE[t % 3] if t in (0, 3, 4, 5, 10) else None))
        if t in (4, 6):
            opt.step()
        else:
            if isinstance(xp, Imitated):
                xp.fake.clear()
            replay()
            if isinstance(xp, Imitated):
                assert xp.fake.calls() == []
        expected.step_count = before = min(taken, last)
        expected.step()
        taken += expected.step_count - before
        if t % 3 == 2:
            expected.step_count = taken
            assert_alike(xp, opt, expected, f"after replay {t}")
    assert (taken, opt.skipped_steps) == (9, 5)


def test_several_steps_in_one_graph(xp: CuPy | Torch) -> None:
    """Each has its own gradients and scale; one of them is skipped."""
    opt, expected = captured_pair(xp, CUT, max_norm=COSINE, skip_nonfinite=9, groups=GROUPS)
    grads = [gradient(CUT, t, math.nan if t == 1 else None) for t in range(3)]
    on_device = [xp.array(g) for g in grads]

    def thrice(opt: Any, grads: Any) -> None:
        for g, scale in zip(grads, (0.25, 0.5, -1.0), strict=True):
            opt.grads[...] = g
            opt.step(grad_scale=scale)

    replay = xp.capture(lambda: thrice(opt, on_device))
    for t in range(4):
        replay()
        thrice(expected, grads)
        assert_alike(xp, opt, expected, f"after replay {t}")


def test_reading_after_replays(xp: CuPy | Torch) -> None:
    """What first reads that the second step in a row has been skipped raises an error; replays never do."""
    opt, expected = captured_pair(xp, CUT, skip_nonfinite=2)
    replay = xp.capture(opt.step)
    replay()
    expected.step()
    write_both(xp, opt, expected, gradient(CUT, 0, math.inf))
    for count in (2, 3, 4):
        for _ in range(2 if count == 2 else 1):
            replay()
            message = refusal(expected.step)
        assert message is not None
        assert f"got {count}; the gradients have not been finite since step_count 1" in message
        read = (lambda: opt.step_count, lambda: opt.skipped_steps, opt.state_dict)[count - 2]
        assert refusal(read) == message
        assert_alike(xp, opt, expected)
    write_both(xp, opt, expected, gradient(CUT, 1))
    replay()
    expected.step()
    assert_alike(xp, opt, expected)


@pytest.mark.parametrize("limit", [1e-3, math.inf, COSINE])
def test_loading_continues_captured_graphs(xp: CuPy | Torch, limit: Any) -> None:
    """The table has the new numbers, and a new row of skipped steps begins."""
    opt, _ = captured_pair(xp, CUT, max_norm=0.5, skip_nonfinite=2)
    _, expected = captured_pair(xp, CUT, max_norm=limit, skip_nonfinite=4, lr=COSINE)
    replay = xp.capture(opt.step)
    bad = gradient(CUT, 0, math.nan)
    write(xp, opt.grads, bad)
    for _ in range(2):
        replay()
    expected.step()
    for _ in range(3):
        expected.step(bad)
    opt.load_state_dict(expected.state_dict())
    expected.load_state_dict(expected.state_dict())
    write(xp, opt.params, expected.params)
    for t in range(7):
        write_both(xp, opt, expected, gradient(CUT, t, math.nan if t in (0, 1, 2, 4) else None))
        replay()
        expected.step()
    assert_alike(xp, opt, expected)
    assert opt.skipped_steps == 3 + 4


@pytest.mark.parametrize(
    ("own", "loaded"),
    [
        ({}, {"max_norm": 0.5}),
        ({"max_norm": 0.5}, {}),
        ({"max_norm": 0.5}, {"max_norm": 0.5, "skip_nonfinite": 2}),
        ({"max_norm": 0.5, "skip_nonfinite": 2}, {"max_norm": 0.5}),
    ],
)
def test_what_a_capturable_optimizer_cannot_load(
    xp: CuPy | Torch, own: dict[str, Any], loaded: dict[str, Any]
) -> None:
    """Whether it clips and skips steps is fixed. A refused dictionary changes nothing."""
    opt, expected = captured_pair(xp, CUT, **own)
    replay = xp.capture(opt.step)
    other = captured_pair(xp, CUT, lr=0.25, **loaded)[1]
    for t in range(3):
        write_both(
            xp, opt, expected, gradient(CUT, t, math.nan if t == 1 and "skip_nonfinite" in own else None)
        )
        replay()
        expected.step()
        other.step(gradient(CUT, t))
        with pytest.raises(
            ValueError, match="^max_norm, skip_nonfinite: a capturable optimizer clips and skips"
        ):
            opt.load_state_dict(other.state_dict())
        assert_alike(xp, opt, expected)


# ---- failures and copies


@pytest.mark.parametrize(
    ("function", "match"),
    [
        ("wait_for_event", "waiting for the decision"),
        ("allocate_on", "allocating memory for the stream"),
        ("write", "writing the list of gradients"),
        ("measure", "launching the norm"),
        ("judge", "launching the decision"),
        ("launch", "launching the step"),
        ("record_event", "recording the decision"),
    ],
)
def test_a_step_that_fails(function: str, match: str) -> None:
    """It counts and leaks nothing, and a skipped step before it is still counted as skipped."""
    with imitated() as xp:
        opt, expected = pair(xp, CUT, max_norm=COSINE, skip_nonfinite=9)
        bad = gradient(CUT, 1, math.nan)
        for g in (gradient(CUT, 0), bad):
            step_both(xp, opt, expected, g)
        before = xp.fake.leaked()
        xp.fake.fail[function] = 999
        with pytest.raises(RuntimeError, match=f"^CUDA: {match}: cudaErrorUnknown"):
            opt.step([xp.array(bad), xp.array(bad)])
        xp.fake.fail.clear()
        assert xp.fake.leaked() == before
        assert_alike(xp, opt, expected)
        step_both(xp, opt, expected, gradient(CUT, 2))
        assert_alike(xp, opt, expected)


@pytest.mark.parametrize(
    ("function", "match"), [("measure", "launching the norm"), ("judge", "launching the decision")]
)
def test_a_capturable_step_that_fails(function: str, match: str) -> None:
    with imitated() as xp:
        opt, expected = captured_pair(xp, CUT, max_norm=COSINE, skip_nonfinite=9)
        write_both(xp, opt, expected, gradient(CUT, 0, math.nan))
        xp.fake.fail[function] = 999
        with pytest.raises(RuntimeError, match=f"^CUDA: {match}: cudaErrorUnknown"):
            opt.step()
        xp.fake.fail.clear()
        assert_alike(xp, opt, expected)


@pytest.mark.parametrize(
    ("function", "match"),
    [
        ("allocate", "allocating .* bytes on cuda:0"),
        ("allocate_pinned", "allocating pinned memory"),
        ("copy", "writing the "),
    ],
)
def test_memory_that_cannot_be_allocated(function: str, match: str) -> None:
    """Neither an optimizer nor an assignment is made, and nothing is leaked."""
    with imitated() as xp:
        p = xp.array(start())

        def attempt() -> None:
            opt = lrcore.SGD(p, lr=0.5)
            for refused in (lambda: lrcore.SGD(p, max_norm=0.5), lambda: setattr(opt, "max_norm", 0.5)):
                xp.fake.fail[function] = 2
                with pytest.raises(RuntimeError, match=f"^CUDA: {match}.*cudaErrorMemoryAllocation"):
                    refused()
                xp.fake.fail.clear()
            assert opt.max_norm is None
            opt.step(xp.array(ONES))
            assert_bits(xp.numpy(p), start() - np.float32(0.5))

        attempt()
        gc.collect()
        assert xp.fake.leaked() == []


def test_nothing_is_leaked() -> None:
    with imitated() as xp:
        for capturable in (False, True):
            opt, _ = (captured_pair if capturable else pair)(xp, CUT, groups=GROUPS, **SETTINGS["both"])
            for t in range(3):
                opt.step(*([] if capturable else [[xp.array(gradient(CUT, t, math.nan))] * 3]))
            del opt
            gc.collect()
            assert xp.fake.leaked() == []


def loaded(xp: CuPy | Torch, opt: Any) -> Any:
    """Return an optimizer with other settings that loads the state of `opt`."""
    graphs: dict[str, Any] = {}
    if opt.grads is not None and opt.device != "cpu":
        graphs = {"capturable": True, "max_steps": 30}
    on_cpu = opt.device == "cpu"
    p = opt.params.copy() if on_cpu else xp.array(xp.numpy(opt.params))
    other = make("adam", p, grads=opt.grads, weight_decay=0.5, max_norm=7.0, skip_nonfinite=2, **graphs)
    other.load_state_dict(opt.state_dict())
    return other


WAYS: dict[str, Callable[[Any, Any], Any]] = {
    "copy": lambda _, opt: copy.copy(opt),
    "deepcopy": lambda _, opt: copy.deepcopy(opt),
    "pickle": lambda _, opt: pickle.loads(pickle.dumps(opt)),
    "dictionary": loaded,
}


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_copies_of_a_step_that_is_not_decided(xp: CuPy | Torch, way: str, capturable: bool) -> None:
    """A copy waits for the last step, which was skipped, has the right counts, and begins a new row."""
    alike: dict[str, Any] = {"max_norm": COSINE, "skip_nonfinite": 4}
    opt, expected = (captured_pair if capturable else pair)(xp, CUT, **alike)
    bound = [] if capturable else [None]
    for t in range(3):
        g = gradient(CUT, t, math.inf if t else None)
        if capturable:
            write_both(xp, opt, expected, g)
        for each, passed in ((opt, xp.array(g)), (expected, g)):
            each.step(*(passed for _ in bound))
    again, other = WAYS[way](xp, opt), WAYS[way](xp, expected)
    assert_alike(xp, again, other)
    for t in range(4):
        g = gradient(CUT, t, math.inf if t < 3 else None)
        if capturable:
            write_both(xp, again, other, g)
        for each, passed in ((again, xp.array(g)), (other, g)):
            each.step(*(passed for _ in bound))
    assert_alike(xp, again, other)
    assert (again.step_count, again.skipped_steps) == (2, 2 + 3)
    assert record(opt) == record(expected)
