"""Steps on lists of gradients: the bits of a step on their sum in float32, and refusals."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

import lrcore
from gpu.devices import imitated
from optimizers.test_groups import assert_refused, contents
from packs import trees
from rules.stepping import rate
from rules.test_functional import function
from sums.oracle import LEAF, clipped, norm
from sums.test_sums import LARGEST, SMALLEST, arrays
from support import CONFIGURATIONS, LARGE, ONES, Array, N, assert_bits, assert_same, gradients, make, start

Adam: Any = lrcore.Adam
SGD: Any = lrcore.SGD
functional: Any = lrcore.functional


def added(grads: Sequence[Array]) -> Array:
    """Return the sum in the order of the list."""
    total = grads[0].copy()
    with np.errstate(invalid="ignore", over="ignore"):
        for each in grads[1:]:
            total += each
    return total


def several(count: int, n: int, seed: int = 0) -> list[Array]:
    """Return random gradients, each at another offset from a multiple of 64 bytes."""
    found = [arrays(n, offset=i % 16)[0] for i in range(count)]
    for i, each in enumerate(found):
        each[:] = gradients(np.random.default_rng([seed, i]), n)
    return found


@pytest.mark.usefixtures("backend")
def test_bits_of_every_rule(rule: str) -> None:
    """In groups, of the class and of the function. The same array may occur several times, and nothing is written."""
    n, cut = 100, slice(10, 30)
    groups = [{"params": (40, 55), "frozen": True}, {"params": (60, 99), "lr_scale": 0.5, "maximize": True}]
    p = np.linspace(-1, 1, n, dtype=np.float32)
    opt, plain = (make(rule, p.copy(), rate, weight_decay=0.1, groups=groups) for _ in range(2))
    states = [np.array(each) for each in opt.state.values()]
    for t, count in enumerate((1, 2, 3, 8)):
        grads = several(count, n, t)
        grads += grads[: t // 2]
        before = [each.tobytes() for each in grads]
        passed = grads if t % 2 else tuple(grads)
        opt.step(passed, grad_scale=-0.3)
        plain.step(added(grads), grad_scale=-0.3)
        assert_same(opt, plain.params, [*plain.state.values()])
        numbers = CONFIGURATIONS[rule].arguments | {
            "weight_decay": 0.1,
            "step": t + 1,
            "lr": rate(t),
            "grad_scale": -0.3,
        }
        function(rule)(p[cut], [each[cut] for each in passed], *(each[cut] for each in states), **numbers)
        assert_bits(p[cut], plain.params[cut])
        assert [each.tobytes() for each in grads] == before


@pytest.mark.usefixtures("backend", "threads")
@pytest.mark.parametrize("n", [0, 1, 31, 33, LEAF - 1, LEAF + 1, 3 * LEAF + 17, LARGE + 1])
def test_bits_of_every_size(n: int) -> None:
    opt, plain = (
        SGD(np.linspace(-1, 1, n, dtype=np.float32), 0.1, momentum=0.9, **own)
        for own in ({"max_norm": 0.5}, {})
    )
    grads = several(3, n)
    total = added(grads)
    expected = norm([total])
    for count in range(1, 9) if n > LARGE else (1, 4):
        lrcore.set_num_threads(count)
        opt.step(grads)
        plain.step(total, grad_scale=clipped(1.0, expected, 0.5))
        assert opt.grad_norm == expected
        assert_same(opt, plain.params, [*plain.state.values()])


SPECIAL = [
    [SMALLEST, SMALLEST, -3 * SMALLEST],
    [-0.0, -0.0],
    [-0.0, 0.0],
    [LARGEST, -LARGEST, 1.0],
    [1.0, LARGEST, -LARGEST],
    [1e8, 1.0, -1e8],
    [LARGEST, LARGEST, -LARGEST],
    [math.inf, -math.inf],
    [math.nan, 1.0],
]


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("values", SPECIAL)
def test_special_values(values: list[float]) -> None:
    """They are added as by NumPy, whatever the floating-point mode. A step is skipped if the sum is not finite."""
    grads = [np.full(N, each, np.float32) for each in values]
    total = added(grads)
    opt, plain = Adam(start()), Adam(start())
    opt.step(grads)
    plain.step(total)
    assert_same(opt, plain.params, [*plain.state.values()])
    skipping = Adam(start(), skip_nonfinite=3)
    skipping.step(grads)
    assert skipping.skipped_steps == (not np.isfinite(total).all())
    np.testing.assert_equal(skipping.grad_norm, norm([total]))
    assert_bits(skipping.params, plain.params if skipping.step_count else start())
    torch = pytest.importorskip("torch")
    try:
        torch.set_flush_denormal(True)
        opt.step(grads)
    finally:
        torch.set_flush_denormal(False)
    plain.step(total)
    assert_same(opt, plain.params, [*plain.state.values()])


@pytest.mark.parametrize("pad", [False, True])
def test_packs(pad: bool) -> None:
    """An element of the list may be a pack, or an array."""
    pack = trees.PARTS["list"](trees.model(pad))
    opt, plain = Adam(pack, max_norm=0.5), Adam(pack.flat.copy())
    packs, total = [pack.like(), pack.like()], pack.like()
    for t in range(3):
        flats = several(4, pack.flat.size, t)
        for each, flat in zip(packs, flats, strict=False):
            each.flat = flat
        total.flat = added(flats)
        found = norm(total.named_arrays().values())
        opt.step([*packs, *flats[2:]])
        assert opt.grad_norm == found
        plain.step(total.flat, grad_scale=clipped(1.0, found, 0.5))
        trees.assert_same(opt, plain)


def test_arrays_of_other_shapes_and_libraries() -> None:
    torch = pytest.importorskip("torch")
    grads = several(4, 24)
    opt, plain = Adam(np.ones((4, 6), np.float32)), Adam(np.ones(24, np.float32))
    grads[1].setflags(write=False)
    opt.step(
        [grads[0].reshape(4, 6), grads[1], torch.from_numpy(grads[2]), torch.from_numpy(grads[3]).view(4, 6)]
    )
    plain.step(added(grads))
    assert_bits(opt.params.reshape(-1), plain.params)


REFUSED: list[tuple[Any, type[Exception], str]] = [
    ([], ValueError, "^grads: "),
    ((), ValueError, "^grads: "),
    ((each for each in [ONES]), TypeError, "^grads: "),
    ([ONES, None], TypeError, r"^grads\[1\]: "),
    ([[ONES]], TypeError, r"^grads\[0\]: "),
    ([1.0] * N, TypeError, r"^grads\[0\]: "),
    ([ONES, ONES, ONES.astype("f8")], TypeError, r"^grads\[2\]: .*float64"),
    ([ONES, ONES[:3]], ValueError, r"^grads\[1\]: "),
    ([np.ones(2 * N, np.float32)[::2], ONES], ValueError, r"^grads\[0\]: "),
    ([ONES, np.ones((3, N // 3), np.float32), lrcore.Pack({"a": N})], TypeError, r"^grads\[2\]: "),
]


@pytest.mark.parametrize(("grads", "error", "words"), REFUSED)
def test_refusals(grads: Any, error: type[Exception], words: str) -> None:
    opt = Adam(start(), max_norm=0.5, skip_nonfinite=2)
    opt.step(ONES)
    before, found = contents(opt), opt.grad_norm
    assert_refused(lambda: opt.step(grads), error, words)
    assert (contents(opt), opt.grad_norm) == (before, found)
    p, m, v = start(), *np.zeros((2, N), np.float32)
    assert_refused(lambda: functional.adam(p, grads, m, v, step=1, lr=0.1), error, words)
    assert_bits(p, start())
    assert not np.any([m, v])


def on_a_device(**capturable: Any) -> None:
    with imitated() as xp:
        g = xp.array(ONES)
        Adam(xp.array(start()), grads=g, **capturable).step([g])


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: Adam(start(), grads=[ONES]), TypeError, "^grads: "),
        (lambda: Adam(start(), grads=()), TypeError, "^grads: "),
        (lambda: on_a_device(capturable=True, max_steps=3), TypeError, "^grads: a capturable optimizer"),
        (lambda: Adam(p := start()).step([ONES, p]), ValueError, r"^grads\[1\]: shares memory with params"),
        (lambda: Adam(trees.model()).step([trees.model(), lrcore.Pack({"a": 50})]), ValueError, r"^grads\[1\]: "),
        (lambda: functional.sgd(start(), ONES, step=1, lr=0.1, max_norm=1.0), TypeError, "max_norm"),
        (lambda: functional.sgd(start(), ONES, step=1, lr=0.1, skip_nonfinite=1), TypeError, "skip_nonfinite"),
    ],
)  # fmt: skip
def test_other_refusals(call: Callable[[], object], error: type[Exception], words: str) -> None:
    assert_refused(call, error, words)


class Clearing:
    """An array that clears the list which has it, as another thread could, when it is imported."""

    def __init__(self, grads: list[Any]) -> None:
        self.grads = grads

    def __dlpack_device__(self) -> Any:
        return ONES.__dlpack_device__()

    def __dlpack__(self, **keywords: Any) -> Any:
        self.grads.clear()
        return ONES.__dlpack__(**keywords)


def test_a_list_that_changes_while_it_is_imported() -> None:
    """The step adds the gradients that were in the list at first."""

    def changing() -> list[Any]:
        grads: list[Any] = []
        grads += [Clearing(grads), ONES.copy(), 2 * ONES]
        return grads

    opt, p = lrcore.SGD(start(), lr=0.25), start()
    opt.step(changing())
    functional.sgd(p, changing(), step=1, lr=0.25)
    for each in (opt.params, p):
        assert_bits(each, start() - ONES)
