"""Parameter groups: elements have the bits of their group's own optimizer; frozen ones are not touched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import pytest

import lrcore
from lrcore import schedules
from rules import oracle
from rules.stepping import rate
from support import Array, assert_bits, assert_same, flat_hyper, gradients, make, run, start

Range: TypeAlias = tuple[int, int]
Own: TypeAlias = dict[str, Any]
"""What a group has of its own: the entries of its dictionary except `params`."""

# ---- random groups

NUMBERS: dict[str, Callable[[np.random.Generator], Any]] = {
    "betas": lambda rng: (rng.uniform(0.5, 0.95), rng.uniform(0.9, 0.999)),
    "eps": lambda rng: 10 ** rng.uniform(-12, -2),  # states are flushed with some of these
    "weight_decay": lambda rng: float(rng.choice([0, 0.01, 0.1])),
    "momentum": lambda rng: rng.uniform(0.5, 0.95),
    "dampening": lambda rng: rng.uniform(0, 0.5),
    "alpha": lambda rng: rng.uniform(0.5, 0.99),
    "rho": lambda rng: rng.uniform(0.5, 0.99),
    "lr_decay": lambda rng: rng.uniform(0, 0.2),
    "momentum_decay": lambda rng: rng.uniform(0, 0.01),
}


def numbers(rng: np.random.Generator, rule: str, share: float = 1.0) -> Own:
    """Return new values for a random share of the numbers of a rule."""
    acting = {"betas" if name.startswith("beta") else name for name in lrcore.rules()[rule].hyper}
    names = sorted(acting | {"weight_decay"})
    return {name: NUMBERS[name](rng) for name in names if rng.random() < share}


def new_rate(rng: np.random.Generator) -> Any:
    """Return a number, a schedule or a callable."""
    lr = rng.uniform(1e-3, 0.1)
    rates = [lr, schedules.Cosine(lr, steps=20).warmup(2), lambda t: lr / (1 + t)]
    return rates[rng.integers(3)]


def draw_own(rng: np.random.Generator, rule: str) -> Own:
    """Return the entries of a group: some numbers, and perhaps a rate or a scale, `frozen` and `maximize`."""
    own = numbers(rng, rule, 0.4)
    own |= [{}, {"lr": new_rate(rng)}, {"lr_scale": float(rng.choice([0, 0.1, 3]))}][rng.integers(3)]
    return own | {name: bool(rng.integers(2)) for name in ("frozen", "maximize") if rng.random() < 0.4}


def draw_lengths(rng: np.random.Generator, segments: int, longest: int) -> list[int]:
    """Return lengths from 1, spread evenly on a logarithmic scale."""
    return [int(length) for length in np.exp(rng.uniform(0, np.log(longest + 1), segments))]


def deal(rng: np.random.Generator, lengths: Sequence[int], groups: int) -> list[list[Range]]:
    """Return the ranges of the rest and of each group: adjacent segments, dealt at random, in random order.

    Each group has a segment if there are enough. The rest comes last, so it may be empty.
    """
    ends = np.cumsum(lengths).tolist()
    owners = rng.permutation((np.arange(len(lengths)) + 1) % (groups + 1))
    ranges: list[list[Range]] = [[] for _ in range(groups + 1)]
    for i in rng.permutation(len(lengths)):
        ranges[owners[i]].append((ends[i] - lengths[i], ends[i]))
    return ranges


# ---- the definition


class Part:
    """A separate optimizer of one range; it is made again when its arguments change."""

    def __init__(self, rule: str, p: Array) -> None:
        self.rule, self.p, self.opt = rule, p, make(rule, p)
        self.arguments: Own = {}

    def step(self, g: Array, lr: float, arguments: Own, grad_scale: float) -> None:
        if arguments != self.arguments:
            former, self.opt = self.opt, make(self.rule, self.p, **arguments)
            self.opt.step_count, self.arguments = former.step_count, arguments
            for name, state in former.state.items():
                self.opt.state[name][:] = state
        self.opt.lr = lr
        self.opt.step(g, grad_scale=grad_scale)


class Separate:
    """The optimizers of all ranges. Each is stepped with what acts in its group, unless the group is frozen.

    Rates are those of the number of steps of the whole, corrections those of the range's own steps.
    """

    def __init__(
        self, rule: str, p: Array, lr: Any, ranges: list[list[Range]], own: list[Own], **arguments: Any
    ) -> None:
        self.p, self.lr, self.own, self.arguments, self.t = p.copy(), lr, own, arguments, 0
        places = sorted((*place, i) for i, each in enumerate(ranges) for place in each)
        self.parts = [(begin, end, i, Part(rule, self.p[begin:end])) for begin, end, i in places]

    def step(self, g: Array, grad_scale: float = 1.0) -> None:
        rates, arguments = [], []
        for own in self.own:
            lr = own.get("lr", self.lr)
            rates.append(own.get("lr_scale", 1.0) * float(lr(self.t) if callable(lr) else lr))
            others = {name: value for name, value in own.items() if name not in ("lr", "lr_scale", "frozen")}
            arguments.append(self.arguments | others)
        for begin, end, i, part in self.parts:
            if not self.own[i].get("frozen"):
                part.step(g[begin:end], rates[i], arguments[i], grad_scale)
        self.t += 1

    def states(self) -> list[Array]:
        opts = [part.opt for *_, part in self.parts]
        return [np.concatenate([opt.state[name] for opt in opts]) for name in opts[0].state]

    def counts(self) -> dict[int, int]:
        """Return the step count of each group that is not empty."""
        return {i: part.opt.step_count for _, _, i, part in self.parts}


def pair(
    rng: np.random.Generator, rule: str, ranges: list[list[Range]], own: list[Own], **arguments: Any
) -> tuple[Any, Separate]:
    """Return an optimizer with these groups, at a random alignment, and its separate optimizers."""
    n, shift = max(end for each in ranges for _, end in each), rng.integers(16)
    p = rng.standard_normal(n + 16).astype(np.float32)[shift : shift + n]
    separate = Separate(rule, p, lr := new_rate(rng), ranges, own, **arguments)
    groups = [{"params": each} | entries for each, entries in zip(ranges[1:], own[1:], strict=True)]
    return make(rule, p, lr, groups=groups, **arguments), separate


def change(rng: np.random.Generator, rule: str, opt: Any, separate: Separate) -> None:
    """Change what a random group has of its own and, sometimes, the optimizer's numbers and rate."""
    if rng.random() < 0.4:
        opt.hyper.update(changed := numbers(rng, rule, 0.3))
        separate.arguments = separate.arguments | changed
        opt.lr = separate.lr = new_rate(rng)
    i = int(rng.integers(len(opt.groups)))
    group, own, new = opt.groups[i], separate.own[i], draw_own(rng, rule)
    if "lr" in own:
        group.lr = None
    group.lr_scale = 1
    for name in ("lr", "lr_scale"):
        own.pop(name, None)
    for name in ("lr", "lr_scale", "frozen", "maximize"):
        if name in new:
            setattr(group, name, new[name])
    group.hyper.update({name: value for name, value in new.items() if name in NUMBERS})
    own |= new


def assert_equal_runs(
    rng: np.random.Generator, rule: str, segments: Sequence[int], groups: int, steps: int, what: str = ""
) -> None:
    """Assert that an optimizer with random groups has the bits of separate ones, as the groups change."""
    arguments = {
        "weight_decay": 0.05,
        "decay": ["l2", "decoupled", "independent"][rng.integers(3)],
        "maximize": rng.random() < 0.5,
    }
    own: list[Own] = [{}, *(draw_own(rng, rule) for _ in range(groups))]
    opt, separate = pair(rng, rule, deal(rng, segments, groups), own, **arguments)
    for t in range(1, steps + 1):
        g = gradients(rng, opt.size)
        opt.step(g, grad_scale=0.3)
        separate.step(g, grad_scale=0.3)
        label = f"{rule}, {what}, {len(segments)} segments, step {t}:"
        assert_same(opt, separate.p, separate.states(), label)
        assert {i: opt.groups[i].step_count for i in separate.counts()} == separate.counts(), label
        for _ in range(1 + groups // 4):
            change(rng, rule, opt, separate)
    assert opt.step_count == steps


# ---- promises


@pytest.mark.parametrize("seed", [1, 2])
def test_bits_of_separate_optimizers(rule: str, backend: str, seed: int) -> None:
    """Numbers, rates, scales, `maximize` and `frozen` differ between groups, and change between steps."""
    rng = np.random.default_rng([seed, *rule.encode()])
    for segments, groups in ((1, 1), (2, 1), (9, 3), (60, 28)):
        assert_equal_runs(rng, rule, draw_lengths(rng, segments, 150), groups, 8, backend)


@pytest.mark.parametrize("name", ["sgd_momentum", "adam"])
def test_thousands_of_segments(name: str, backend: str) -> None:
    rng = np.random.default_rng(3)
    assert_equal_runs(rng, name, draw_lengths(rng, 2000, 40), 28, 5, backend)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("name", ["sgd", "adam"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_threads_divide_segments_and_groups(name: str, backend: str, count: int) -> None:
    """The buffers are large enough for the pool, which divides the long segments, and the many short ones."""
    rng = np.random.default_rng(4)
    lrcore.set_num_threads(count)
    for lengths, groups in (([110_003, 1, 90_001, 5, 70_000], 2), (draw_lengths(rng, 500, 3000), 28)):
        assert_equal_runs(rng, name, lengths, groups, 4, f"{backend}, {count} threads")


def test_frozen_parts_are_not_touched(rule: str, backend: str) -> None:
    """They hold signaling NaNs, each of another payload, which arithmetic would change and spread."""
    rng = np.random.default_rng(5)
    ranges = deal(rng, draw_lengths(rng, 60, 150), 6)
    own: list[Own] = [{}, *(draw_own(rng, rule) | {"frozen": i % 2 == 0} for i in range(6))]
    opt, separate = pair(rng, rule, ranges, own, weight_decay=0.1)
    frozen = np.zeros(opt.size, bool)
    for i in (1, 3, 5):
        for begin, end in ranges[i]:
            frozen[begin:end] = True

    def mark(array: Array, number: int) -> Any:
        words = array.view(np.uint32)
        words[frozen] = 0x7F80_0001 + (number << 18) + np.flatnonzero(frozen)
        return words[frozen]

    p, states = opt.params, [*opt.state.values()]
    kept = [mark(array, number) for number, array in enumerate((p, *states))]
    for t in range(4):
        g = gradients(rng, opt.size)
        separate.step(g.copy())
        mark(g, 5 + t)
        before = g.tobytes()
        opt.step(g)
        assert g.tobytes() == before
    for array, words, expected in zip((p, *states), kept, (separate.p, *separate.states()), strict=True):
        np.testing.assert_array_equal(array.view(np.uint32)[frozen], words)
        assert_bits(array[~frozen], expected[~frozen], f"{rule}, {backend}:")
    assert [opt.groups[i].step_count for i in range(1, 7)] == [0, 4, 0, 4, 0, 4]


def test_one_group_over_everything(rule: str, backend: str) -> None:
    """It equals no groups, whether the numbers are its own or the optimizer's. So does an empty list."""
    own = numbers(np.random.default_rng(6), rule) | {"weight_decay": 0.1, "maximize": True}
    plain = make(rule, start(), rate, **own)
    run(plain, 5)
    whole = {"params": slice(None)}
    for opt in (
        make(rule, start(), 7.0, groups=[whole | own | {"lr": rate}]),
        make(rule, start(), rate, groups=[whole], **own),
        make(rule, start(), rate, groups=[], **own),
    ):
        run(opt, 5)
        assert_same(opt, plain.params, [*plain.state.values()], backend)


def test_the_order_of_groups_and_ranges_is_irrelevant(backend: str) -> None:
    rng = np.random.default_rng(7)
    ranges = deal(rng, draw_lengths(rng, 200, 60), 9)
    groups = [draw_own(rng, "adam") | {"params": each, "frozen": False} for each in ranges[1:]]
    others = [
        each | {"params": [slice(*place) for place in sorted(each["params"])]} for each in reversed(groups)
    ]
    p = rng.standard_normal(max(end for each in ranges for _, end in each)).astype(np.float32)
    one, other = (make("adam", p.copy(), rate, weight_decay=0.1, groups=each) for each in (groups, others))
    run(other, 3)
    run(one, 3)
    assert_same(one, other.params, [*other.state.values()], backend)


WITH_MOMENTUM = [name for name, each in lrcore.rules().items() if "momentum" in each.hyper]


@pytest.mark.parametrize("name", WITH_MOMENTUM)
def test_a_momentum_of_0_beside_another(name: str, backend: str) -> None:
    """Both have the rule with momentum. The 0 may be the optimizer's, unless an option needs momentum."""
    none, some = slice(5, 14), [(0, 5), (14, 21)]
    own = {"weight_decay": 0.1, **({"dampening": 0.0} if name == "sgd_momentum" else {})}
    opts = [make(name, start(), rate, groups=[{"params": none, "momentum": 0.0}], **own)]
    if not opts[0].options.get("nesterov") and not opts[0].options["lr_in_velocity"]:
        groups = [{"params": some, "momentum": 0.9}]
        opts.append(make(name, start(), rate, momentum=0.0, groups=groups, **own))
    for opt in opts:
        assert opt.rule == name
        run(opt, 4)
    hyper = flat_hyper(opts[0])
    decay = hyper.pop("weight_decay")
    expected = [start(), *(np.zeros_like(state) for state in opts[0].state.values())]
    for t in range(1, 5):
        p, *states = expected
        g = gradients(np.random.default_rng([2, t - 1]), opts[0].size)
        options: Any = {"t": t, "lr": rate(t - 1), "weight_decay": decay}
        with_0, with_momentum = (
            oracle.step32(name, p, g, states, hyper=hyper | {"momentum": momentum}, **options)
            for momentum in (0.0, 0.9)
        )
        expected = [with_momentum[0], *with_momentum[1]]
        for array, other in zip(expected, (with_0[0], *with_0[1]), strict=True):
            array[none] = other[none]
    for opt in opts:
        assert_same(opt, expected[0], expected[1:], backend)
