"""``step(zero_grads=True)``: the bits of the same step without it, and gradients that are +0 afterwards.

Nothing outside the gradients is written. A refused step zeroes nothing.
"""

from __future__ import annotations

import ctypes
import functools
import math
import mmap
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

import lrcore
from boundary.model import Liar
from boundary.test_bound_memory import REPLACED
from boundary.test_boundary import Legacy, read_only
from optimizers.test_groups import assert_refused, contents
from optimizers.zeroing import GUARD, Guarded, special
from packs import trees
from rules.stepping import rate
from rules.test_large import MAP_FIXED, PROT_NONE, libc, map_at
from rules.test_rules import OF_EACH_KIND
from sums.oracle import LEAF
from sums.test_clipping import PARTS, but_skips
from support import LARGE, ONES, Array, N, assert_bits, assert_same, gradients, make, start

Adam: Any = lrcore.Adam
SGD: Any = lrcore.SGD
FROZEN = [(40, 55)]
"""The frozen elements of `PARTS`."""
SETTINGS: list[dict[str, Any]] = [{}, {"max_norm": 0.5}, {"max_norm": 0.5, "skip_nonfinite": 9}]


def pair(n: int, rule: str = "adam", offset: int = 0, **settings: Any) -> tuple[Any, Any, Guarded]:
    """Return two optimizers with the same settings, and the memory of the parameters of the first."""
    p = np.linspace(-1, 1, n, dtype=np.float32)
    params = Guarded(p, offset)
    alike: dict[str, Any] = {"lr": rate, "weight_decay": 0.1} | settings
    return make(rule, params.array, **alike), make(rule, p, **alike), params


def assert_alike(opt: Any, plain: Any, what: str = "") -> None:
    """Assert that two optimizers have equal bits, and have counted and measured the same."""
    assert_same(opt, plain.params, [*plain.state.values()], what)
    counts = [[group.step_count for group in each.groups] for each in (opt, plain)]
    assert counts[0] == counts[1]
    assert (opt.step_count, opt.skipped_steps) == (plain.step_count, plain.skipped_steps)
    np.testing.assert_equal(opt.grad_norm, plain.grad_norm)


# ---- bits


@pytest.mark.usefixtures("backend")
def test_bits_of_every_rule(rule: str) -> None:
    """Parameters, states and counts are as without zeroing; the gradients are zeroed, also those that are not finite."""
    for n in (0, 1, 5, 16, 17, 33, 100):
        opt, plain, params = pair(n, rule, 3 * n % 16, groups=PARTS if n == 100 else None)
        for t, (scale, offset) in enumerate(((1.0, 0), (-0.3, n % 7), (0.0, 15), (0.5, 8))):
            grads = Guarded((gradients(np.random.default_rng(t), n), special(n, t))[t == 3], offset)
            opt.step(grads.array, grad_scale=scale, zero_grads=True)
            plain.step(grads.before[grads.place], grad_scale=scale)
            assert_alike(opt, plain, f"{rule}, n = {n}, step {t}:")
            grads.assert_zeroed(FROZEN if n == 100 else (), f"{rule}, n = {n}, step {t}:")
        assert (np.delete(params.memory, np.r_[params.place]) == GUARD).all()


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("rule", OF_EACH_KIND)
def test_every_offset_and_remainder(rule: str) -> None:
    for n in (1, 2, 3, 7, 8, 9, 15, 16, 31, 33, 129, 150):
        opt, plain, _ = pair(n, rule, 5 * n % 16)
        for offset in range(16):
            grads = Guarded(special(n, offset), offset)
            opt.step(grads.array, zero_grads=True)
            plain.step(grads.before[grads.place])
            grads.assert_zeroed(what=f"n = {n}, offset {offset}:")
        assert_alike(opt, plain, f"n = {n}:")


@pytest.mark.usefixtures("backend", "threads")
@pytest.mark.parametrize("settings", SETTINGS)
def test_every_size_and_number_of_threads(settings: dict[str, Any]) -> None:
    """Also of a list, which is added in blocks."""
    for n in (0, LEAF - 1, LEAF, 3 * LEAF + 17, LARGE + 1):
        opt, plain, _ = pair(n, "sgd_momentum", 1, **settings)
        for t, count in enumerate(range(1, 9) if n > LARGE else (1, 2, 4)):
            lrcore.set_num_threads(count)
            grads = [
                Guarded(gradients(np.random.default_rng([t, i]), n), (3, 0, 15)[i]) for i in range(1 + t % 3)
            ]
            arrays = [each.array for each in grads]
            opt.step(arrays if t % 3 else arrays[0], zero_grads=True)
            plain.step([each.before[each.place] for each in grads])
            assert_alike(opt, plain, f"n = {n}, {count} threads:")
            for each in grads:
                each.assert_zeroed(what=f"n = {n}, {count} threads:")


@contextmanager
def lone_page() -> Iterator[Array]:
    """Yield the floats of a page that lies between two pages without access."""
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    base = map_at(None, 3 * mmap.PAGESIZE, PROT_NONE, private)
    try:
        writable = mmap.PROT_READ | mmap.PROT_WRITE
        page = map_at(base + mmap.PAGESIZE, mmap.PAGESIZE, writable, private | MAP_FIXED)
        yield np.ctypeslib.as_array((ctypes.c_float * (mmap.PAGESIZE // 4)).from_address(page))
    finally:
        libc.munmap(base, 3 * mmap.PAGESIZE)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the flags of mmap are Linux's")
@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("rule", OF_EACH_KIND)
def test_the_edges_of_a_page(rule: str) -> None:
    """Gradients that end where accessible memory ends, or begin where it begins, are zeroed without a fault."""
    with lone_page() as page:
        for n in (1, 3, 7, 15, 16, 17, 33, 131, 150):
            opt, plain, _ = pair(n, rule, groups=[{"params": (0, 1), "lr_scale": 0.5}])
            for t, place in enumerate((slice(len(page) - n, None), slice(0, n)) * 2):
                page[:] = gradients(np.random.default_rng(t), len(page))
                expected = page.copy()
                plain.step(expected[place].copy())
                opt.step([page[place]] if t > 1 else page[place], zero_grads=True)
                expected[place] = 0
                assert_bits(page, expected, f"n = {n}, {place}:")
            assert_alike(opt, plain, f"n = {n}:")


# ---- groups


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("count", [1, 3])
def test_frozen_elements_are_neither_read_nor_zeroed(settings: dict[str, Any], count: int) -> None:
    """Until their group is thawed. If everything is frozen, nothing is zeroed."""
    n = LEAF + 40
    opt, plain, _ = pair(n, groups=PARTS, **settings)
    for t, frozen in enumerate(([2], [1, 2], [], [1], [0, 1, 2, 3])):
        kept = [bounds for i in frozen for bounds in opt.groups[i].ranges]
        for each in (opt, plain):
            for i, group in enumerate(each.groups):
                group.frozen = i in frozen
        grads = [Guarded(gradients(np.random.default_rng([t, i]), n), i) for i in range(count)]
        for each in grads:
            for begin, end in kept:
                each.array[begin] = each.before[each.place][begin] = math.nan
                each.array[end - 1] = each.before[each.place][end - 1] = -0.0
        opt.step([each.array for each in grads], zero_grads=True)
        plain.step([each.before[each.place] for each in grads])
        assert_alike(opt, plain, f"frozen: {frozen}:")
        for each in grads:
            each.assert_zeroed(kept, f"frozen: {frozen}:")
    assert opt.skipped_steps == 0


@pytest.mark.usefixtures("backend")
def test_every_other_range_is_frozen() -> None:
    """The remainders of ranges of any length do not reach into the next range."""
    bounds = np.cumsum([0, *(length for length in range(1, 40) for _ in range(2))]).tolist()
    frozen = [*zip(bounds[::2], bounds[1::2], strict=False)]
    opt, plain, _ = pair(bounds[-1], groups=[{"params": frozen, "frozen": True}])
    for t, offset in enumerate((0, 1, 11)):
        grads = Guarded(special(bounds[-1], t), offset)
        opt.step(grads.array, zero_grads=True)
        plain.step(grads.before[grads.place])
        assert_alike(opt, plain)
        grads.assert_zeroed(frozen)


# ---- skipped steps


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("max_norm", [None, 0.5])
@pytest.mark.parametrize("values", [[math.nan], [-math.inf], [3e38, 3e38]])
def test_skipped_steps_zero_the_gradients(values: list[float], max_norm: float | None) -> None:
    """Also those that raise. Otherwise the next backward pass would add to gradients that are not finite."""
    n = LEAF + 40
    opt, plain, _ = pair(n, groups=PARTS, max_norm=max_norm, skip_nonfinite=3)
    for t in range(6):
        is_bad = 0 < t < 5
        grads = [Guarded(gradients(np.random.default_rng([t, i]), n), 5 * i) for i in range(len(values))]
        for each, value in zip(grads, values, strict=True):
            for place in (0, 39, n - 1) if is_bad else ():
                each.array[place] = each.before[each.place][place] = value
        before = but_skips(opt)
        step = functools.partial(opt.step, [each.array for each in grads], zero_grads=True)
        if is_bad and t > 2:
            assert_refused(step, FloatingPointError, "skip_nonfinite")
        else:
            step()
        assert (but_skips(opt) == before) == is_bad
        for each in grads:
            each.assert_zeroed(FROZEN, f"step {t}:")
        if not is_bad:
            plain.step([each.before[each.place] for each in grads])
    assert (opt.step_count, opt.skipped_steps) == (2, 4)
    assert_same(opt, plain.params, [*plain.state.values()])


# ---- lists


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("n", [0, 1, 100, LEAF + 40, 3 * LEAF + 17])
def test_lists(n: int, settings: dict[str, Any]) -> None:
    """All of their arrays are zeroed. An array that occurs several times is added several times."""
    opt, plain, _ = pair(n, **settings)
    for t, order in enumerate(([0], [0, 0], [0, 1], [0, 1, 0], [2, 0, 1, 1, 3, 2, 4, 0])):
        memories = [Guarded(gradients(np.random.default_rng([t, i]), n), 5 * i % 16) for i in range(5)]
        passed = [memories[i].array for i in order]
        if t % 2:
            passed[-1] = passed[-1][:].reshape(1, n)  # another object, and another shape
        opt.step(tuple(passed) if t == 2 else passed, grad_scale=-0.3, zero_grads=True)
        plain.step([memories[i].before[memories[i].place] for i in order], grad_scale=-0.3)
        assert_alike(opt, plain, f"{order}:")
        for i, each in enumerate(memories):
            if i in order:
                each.assert_zeroed(what=f"{order}, array {i}:")
            else:
                each.assert_kept()


@pytest.mark.parametrize("n", [2, 33, LEAF + 40])
def test_arrays_of_a_list_that_overlap(n: int) -> None:
    """One would be zeroed before another is read. Without zeroing they are added; arrays that only touch are zeroed."""
    for shift in (1, -1, n - 1, 1 - n):
        for order in ([0, 1], [1, 0], [2, 0, 1], [0, 2, 1, 0]):
            opt, plain, _ = pair(n, max_norm=0.5, skip_nonfinite=3)
            memory = Guarded(gradients(np.random.default_rng(n), 3 * n), 3)
            other = Guarded(gradients(np.random.default_rng(n + 1), n))
            parts = [memory.array[n : 2 * n], memory.array[n + shift : 2 * n + shift], other.array]
            grads, before = [parts[i] for i in order], contents(opt)
            first, second = sorted((order.index(0), order.index(1)))
            step = functools.partial(opt.step, grads, zero_grads=True)
            assert_refused(step, ValueError, rf"^grads\[{second}\]: .*grads\[{first}\]")
            assert (contents(opt), opt.grad_norm) == (before, None)
            memory.assert_kept()
            other.assert_kept()
            opt.step(grads)
            plain.step([each.copy() for each in grads])
            assert_alike(opt, plain)
    memory = Guarded(gradients(np.random.default_rng(0), 2 * n))
    opt.step([memory.array[n:], memory.array[:n]], zero_grads=True)
    memory.assert_zeroed()


# ---- other gradients


OF_PACKS: list[tuple[list[int], Callable[[list[Any]], tuple[Any, ...]]]] = [
    ([0], lambda _: ()),
    ([1], lambda packs: (packs[1],)),
    ([1, 2], lambda packs: ([packs[1], packs[2].flat],)),
    ([0, 2], lambda packs: ((packs[2], packs[0], packs[2]),)),
]
"""The packs that a step reads, the first of which is bound, and the arguments of the step."""


@pytest.mark.parametrize("pad", [False, True])
def test_packs(pad: bool) -> None:
    """Bound, passed, or in a list with arrays. A bound pack is not zeroed by a step on others."""
    alike: dict[str, Any] = {"groups": [{"params": "blocks.0.*", "frozen": True}], "max_norm": 0.5}
    opt, plain = (Adam(each, grads=each.like(), **alike) for each in (trees.model(pad), trees.model(pad)))
    for t, (read, passed) in enumerate(OF_PACKS):
        mine, its = ([each.grads, each.grads.like(), each.grads.like()] for each in (opt, plain))
        for packs in (mine, its):
            for i, each in enumerate(packs):
                trees.fill(each, 3 * t + i)
        opt.step(*passed(mine), zero_grads=True)
        plain.step(*passed(its))
        for found, kept in zip(
            (opt.params, *opt.state.values()), (plain.params, *plain.state.values()), strict=True
        ):
            assert_bits(found.flat, kept.flat)
        for i, (each, values) in enumerate(zip(mine, its, strict=True)):
            expected = values.flat.copy()
            if i in read:
                expected[:] = 0
                for begin, end in opt.groups[1].ranges:
                    expected[begin:end] = values.flat[begin:end]
            assert_bits(each.flat, expected, f"step {t}, pack {i}:")


def test_bound_gradients() -> None:
    """They are zeroed by a step on them, so a backward pass can add to them, and kept by a step on others."""
    opt, plain, _ = pair(N)
    bound, other = Guarded(special(N, 0)), Guarded(special(N, 1))
    opt = Adam(opt.params, rate, weight_decay=0.1, grads=bound.array)
    opt.step(other.array, zero_grads=True)
    other.assert_zeroed()
    bound.assert_kept()
    opt.step()
    bound.assert_kept()
    opt.step(zero_grads=True)
    bound.assert_zeroed()
    for each in (other, bound, bound):
        plain.step(each.before[each.place])
    bound.array += ONES
    opt.step(zero_grads=np.True_)
    plain.step(ONES)
    bound.assert_zeroed()
    assert_alike(opt, plain)


@pytest.mark.parametrize("skips", [False, True])
def test_torch_tensors(skips: bool) -> None:
    """Their version counters count the writes, so autograd notices that values it has saved are gone."""
    torch = pytest.importorskip("torch")
    opt = Adam(torch.ones(3, 7), skip_nonfinite=True)
    x = torch.ones(3, 7, requires_grad=True)
    for passed in (lambda g: g, lambda g: [g, g], lambda g: [np.ones(N, np.float32), g.view(-1)]):
        g = torch.full((3, 7), math.inf if skips else 1.0)
        loss = (x * g).sum()
        version = g._version
        opt.step(passed(g))
        assert g._version == version
        opt.step(passed(g), zero_grads=True)
        assert g._version > version
        assert_bits(g.numpy(), np.zeros((3, 7), np.float32))
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()
    assert opt.skipped_steps == 6 * skips


def test_torch_tensors_of_inference_mode() -> None:
    """They have no version counters."""
    torch = pytest.importorskip("torch")
    with torch.inference_mode():
        bound, passed = torch.ones(N), torch.ones(N)
    opt = SGD(torch.zeros(N), lr=1.0, grads=bound)
    opt.step(zero_grads=True)
    opt.step([passed, passed], zero_grads=True)
    assert_bits(opt.params.numpy(), -3 * ONES)
    for each in (bound, passed):
        assert_bits(each.numpy(), 0 * ONES)


def test_arrays_of_other_libraries() -> None:
    """An array is the same memory whichever object exports it."""
    torch = pytest.importorskip("torch")
    grads = Guarded(special(N, 0))
    opt, plain, _ = pair(N)
    opt.step([Liar(grads.array), grads.array, torch.from_numpy(grads.array)], zero_grads=True)
    plain.step(3 * [grads.before[grads.place]])
    grads.assert_zeroed()
    assert_alike(opt, plain)


# ---- refusals


def refusing(**arguments: Any) -> tuple[Any, list[int]]:
    """Return an optimizer that clips, and the list of the calls of its schedule from now on."""
    asked: list[int] = []

    def called(t: int) -> float:
        asked.append(t)
        return 0.1

    opt = Adam(start(), called, max_norm=called, skip_nonfinite=2, **arguments)
    opt.step(ONES)
    asked.clear()
    return opt, asked


@pytest.mark.parametrize(
    ("array", "error", "words"),
    [
        (lambda: read_only(ONES.copy()), ValueError, "the array is read-only"),
        (lambda: Liar(read_only(ONES.copy())), ValueError, "the array is read-only"),
        (lambda: Legacy(ONES.copy()), TypeError, "does not declare it writable"),
        (lambda: pytest.importorskip("jax.numpy").ones(N), TypeError, ""),
    ],
    ids=["NumPy", "DLPack", "DLPack without flags", "JAX"],
)
def test_read_only_gradients(array: Callable[[], Any], error: type[Exception], words: str) -> None:
    """They are refused before a schedule is called, also if they are bound, and accepted by a step that only reads."""
    given, others = array(), [Guarded(ONES), Guarded(ONES)]
    opt, asked = refusing()
    bound, of_bound = refusing(grads=given)
    for each, calls, passed, name in (
        (opt, asked, [given], r"grads"),
        (opt, asked, [[others[0].array, given]], r"grads\[1\]"),
        (opt, asked, [(given, others[1].array)], r"grads\[0\]"),
        (bound, of_bound, [], r"grads"),
    ):
        before = contents(each), each.grad_norm
        step = functools.partial(each.step, *passed, zero_grads=True)
        assert_refused(step, error, f"^{name}: .*{words}")
        assert (contents(each), each.grad_norm, calls) == (*before, [])
        each.step(*passed)
        assert calls == 2 * [each.step_count - 1]
        calls.clear()
    for each in others:
        each.assert_kept()
    bound.step(others[0].array, zero_grads=True)
    others[0].assert_zeroed()


def test_a_bound_array_that_becomes_read_only() -> None:
    """A step refuses to zero it as long as it is read-only, whether or not it was writable when it was bound."""
    grads = ONES.copy()
    for was_writable in (True, False):
        grads[:] = 1
        grads.setflags(write=was_writable)
        opt, asked = refusing(grads=grads)
        grads.setflags(write=False)
        before = contents(opt)
        step = functools.partial(opt.step, zero_grads=True)
        assert_refused(step, ValueError, "^grads: the array (is|has become) read-only")
        assert (contents(opt), asked) == (before, [])
        opt.step()
        assert_bits(grads, ONES)
        grads.setflags(write=True)
        opt.step(zero_grads=True)
        assert_bits(grads, 0 * ONES)


@pytest.mark.parametrize("value", [1, 0, None, "yes", 1.0, np.int64(1), [True]])
def test_what_is_no_bool(value: Any) -> None:
    opt, asked = refusing()
    grads = Guarded(ONES)
    before = contents(opt)
    words = ("^zero_grads: expected True or False, got ",)
    assert_refused(lambda: opt.step(grads.array, zero_grads=value), TypeError, *words)
    assert (contents(opt), asked) == (before, [])
    for refused in (False, np.False_):
        opt.step(grads.array, zero_grads=refused)
    grads.assert_kept()


def fail(_: int) -> float:
    raise ZeroDivisionError


REFUSED: dict[str, tuple[Callable[[Any, Array], dict[str, Any]], type[Exception]]] = {
    "a wrong size": (lambda _, g: {"grads": g[1:]}, ValueError),
    "a wrong size in a list": (lambda _, g: {"grads": [g, g[1:]]}, ValueError),
    "a wrong dtype": (lambda _, g: {"grads": g.view(np.int32)}, TypeError),
    "another object in a list": (lambda _, g: {"grads": [g, None]}, TypeError),
    "the parameters": (lambda opt, _: {"grads": opt.params}, ValueError),
    "the parameters in a list": (lambda opt, g: {"grads": [g, opt.params]}, ValueError),
    "no gradients": (lambda *_: {}, TypeError),
    "a wrong scale": (lambda _, g: {"grads": g, "grad_scale": math.nan}, ValueError),
    "a stream of the CPU": (lambda _, g: {"grads": g, "stream": 1}, ValueError),
}
"""The arguments of a step with `zero_grads`."""

REFUSED_LATER: dict[str, tuple[Callable[[Any], object], type[Exception]]] = {
    "a rate that fails": (lambda opt: opt.__setattr__("lr", fail), ZeroDivisionError),
    "a rate below 0": (lambda opt: opt.__setattr__("lr", lambda _: -1.0), ValueError),
    "a norm of 0": (lambda opt: opt.__setattr__("max_norm", lambda _: 0.0), ValueError),
    "the last count": (lambda opt: opt.__setattr__("step_count", 2**53 - 1), OverflowError),
    "moved parameters": (lambda opt: opt.params.resize(2 * N, refcheck=False), RuntimeError),
}
"""What causes the error."""


@pytest.mark.parametrize("case", [*REFUSED, *REFUSED_LATER])
def test_a_refused_step_zeroes_nothing(case: str) -> None:
    opt, _ = refusing()
    grads = Guarded(special(N, 0))
    params, states = opt.params.copy(), [each.copy() for each in opt.state.values()]
    if case in REFUSED:
        arguments, error = REFUSED[case]
        passed = [arguments(opt, grads.array)]
    else:
        cause, error = REFUSED_LATER[case]
        cause(opt)
        passed = [{"grads": grads.array}, {"grads": [grads.array, grads.array]}]
    for each in passed:
        with pytest.raises(error):
            opt.step(**each, zero_grads=True)
    grads.assert_kept()
    assert_bits(opt.params[:N], params)
    for state, expected in zip(opt.state.values(), states, strict=True):
        assert_bits(state, expected)
    assert opt.skipped_steps == 0


def test_memory_that_is_replaced_during_the_call() -> None:
    """The gradients are checked immediately before the step, which neither reads nor zeroes what they were."""
    for in_a_list in (False, True):
        grads, other = np.ones(N, np.float32), Guarded(ONES)

        def rate(_: int, grads: Array = grads) -> float:
            grads.resize(100_000, refcheck=False)
            return 1.0

        opt = SGD(start(), rate)
        with pytest.raises(RuntimeError, match=rf"^grads(\[1\])?: {REPLACED}"):
            opt.step([other.array, grads] if in_a_list else grads, zero_grads=True)
        assert opt.step_count == 0
        assert_bits(opt.params, start())
        other.assert_kept()
