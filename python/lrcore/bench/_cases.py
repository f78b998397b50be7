"""The timed work: the steps of each rule, and the loops that bound their speed."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

import lrcore
from lrcore._arrays.memory import aligned_zeros
from lrcore._lrcore_core import Stepper, run_arithmetic_bound, run_stream_bound
from lrcore.bench._timing import Row, Variant, interleave, quartiles

LOOPS = ("stream bound", "arithmetic bound")
"""The loops that bound the speed of a step: one over the same arrays, and one that also divides and takes roots."""

SMALLEST_FOR_BOUND = 10_000
"""Number of elements below which a call's overhead exceeds the time in its loop; the bounds are then not measured."""


GROUPS = 28
"""The largest number of groups in a step of several segments."""


def stepper_for(
    rule: str,
    params: Any,
    states: Sequence[Any],
    grads: Any = None,
    bounds: Sequence[int] = (),
    max_norm: float | None = None,
    ema: float | None = None,
) -> Stepper:
    """Return a Stepper that applies a rule with a cosine rate.

    With these hyperparameters, no value becomes subnormal, and therefore slow, in a long run with a constant gradient.
    `bounds` has the boundaries of segments, which are assigned to up to `GROUPS` groups in turn.
    """
    ranges: list[list[tuple[int, int]]] = [[] for _ in range(max(1, min(GROUPS, len(bounds) - 1)))]
    for i, segment in enumerate(itertools.pairwise(bounds)):
        ranges[i % len(ranges)].append(segment)
    numbers = ([0.9 for _ in lrcore.rules()[rule].hyper], 0.0, False)
    rate = lrcore.schedules.Cosine(1e-3, steps=10**9)._value
    settings: Any = (
        None,
        None,
        [(numbers, False, 0.9**i, None) for i in range(len(ranges))],
        [],
        (max_norm, 0, ema),
    )
    return Stepper(rule, params, states, grads, "l2", ranges[1:], settings, (None, rate))


def boundaries(size: int, segments: int) -> list[int]:
    """Return the boundaries of at most `segments` segments, whose sizes are spread over three orders of magnitude."""
    sizes = 1000 ** np.random.default_rng(segments).random(segments)
    ends = np.cumsum(sizes) / sizes.sum() * size
    return sorted({0, *ends.astype(int).tolist(), size})


def aligned_full(size: int, value: float) -> NDArray[np.float32]:
    """Return a float32 array that is aligned to a cache line."""
    array = aligned_zeros(size)
    array.fill(value)
    return array


def decayed_states(rule: str) -> list[float]:
    """Return one element of each state after ten steps with a nonzero gradient and a thousand with a zero gradient."""
    params, grads = aligned_full(1, 1.0), aligned_full(1, 0.5)
    states = [aligned_full(1, 0.0) for _ in lrcore.rules()[rule].states]
    opt = stepper_for(rule, params, states)
    for taken in range(1010):
        if taken == 10:
            grads.fill(0)
        opt.step(grads)
    return [float(state[0]) for state in states]


def variants(
    rule: str,
    size: int,
    backends: Sequence[str],
    threads: Sequence[int],
    segments: Sequence[int] = (),
    gradients: Sequence[int] = (),
    max_norm: float | None = None,
    ema: float | None = None,
    zero_grads: bool = False,
) -> list[Variant]:
    """Return the steps of a rule and the loops that bound their speed, on one set of arrays.

    Each number in `segments` adds a step of that many segments, each in `gradients` a step with the sum of that many
    gradients, `max_norm` a step that clips, `ema` one that averages the parameters, and `zero_grads` one that zeroes
    the gradients.
    """
    params, grads = aligned_full(size, 1.0), aligned_full(size, 0.5)
    states = [aligned_full(size, 0.0) for _ in lrcore.rules()[rule].states]
    passed, with_bound_grads = stepper_for(rule, params, states), stepper_for(rule, params, states, grads)
    calls: dict[str, Callable[[], object]] = {
        "step": functools.partial(passed.step, grads),
        "bound step": with_bound_grads.step,
    }
    if max_norm is not None:
        calls["clipped step"] = stepper_for(rule, params, states, grads, max_norm=max_norm).step
    if ema is not None:
        averaged = [*states, aligned_full(size, 1.0)]
        calls["averaged step"] = stepper_for(rule, params, averaged, grads, ema=ema).step
    if zero_grads:
        calls["zeroing step"] = lambda: with_bound_grads.step(
            zero_grads=True
        )  # partial() would take 0.2 µs more
    others = [aligned_full(size, 0.5) for _ in range(max(gradients, default=1) - 1)]
    for count in gradients:
        calls[f"{count:,} gradients"] = functools.partial(passed.step, [grads, *others[: count - 1]])
    for count in segments:
        calls[f"{count:,} segments"] = stepper_for(rule, params, states, grads, boundaries(size, count)).step
    fresh, decayed = [(grads, 0.5)], [(grads, 0.0), *zip(states, decayed_states(rule), strict=True)]
    if states:
        calls["decayed step"] = calls["step"]
    if size >= SMALLEST_FOR_BOUND:
        calls["stream bound"] = functools.partial(run_stream_bound, params, grads, states)
        if _divides(rule):
            calls["arithmetic bound"] = functools.partial(
                run_arithmetic_bound, rule, aligned_full(size, 1.0), grads, states
            )
    return [
        Variant(
            name,
            call,
            backend,
            count,
            functools.partial(_choose, backend, count, decayed if name == "decayed step" else fresh),
        )
        for backend in backends
        for count in threads
        for name, call in calls.items()
    ]


def _choose(backend: str, threads: int, filling: Iterable[tuple[NDArray[np.float32], float]] = ()) -> None:
    """Select the backend and the number of threads, and fill each array with a number."""
    lrcore.use_backend(backend)
    lrcore.set_num_threads(threads)
    for array, value in filling:
        array.fill(value)


def _divides(rule: str) -> bool:
    facts = lrcore.rules()[rule]
    return facts.divisions + facts.roots > 0


def bytes_of_arrays(rule: str, size: int, gradients: Sequence[int] = (), ema: float | None = None) -> int:
    """Return the number of bytes in the arrays that `variants` allocates."""
    arrays = 1 + max(gradients, default=1) + len(lrcore.rules()[rule].states) + _divides(rule)
    arrays += ema is not None
    return 4 * size * arrays


def free_bytes() -> int:
    """Return the number of bytes of free memory."""
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


MakeVariants = Callable[[str, int], Sequence[Variant]]
"""Takes a rule and a size, and returns the variants to time."""


def measure(cases: Iterable[tuple[str, int]], make: MakeVariants, rounds: int) -> Iterator[list[Row]]:
    """Time the variants of each rule and size, interleaved.

    The previous backend and number of threads are restored at the end.

    Yields
    ------
    list of Row
        After each round, the rows of the case that is being timed. Their `rounds` is the number of rounds so far.
    """
    info = lrcore.info()
    try:
        for rule, size in cases:
            timed = make(rule, size)
            necessary = lrcore.rules()[rule].bytes_per_element * size
            for samples in interleave(timed, rounds):
                yield [
                    _row(rule, size, necessary, variant, each)
                    for variant, each in zip(timed, samples, strict=True)
                ]
    finally:
        _choose(info["backend"], info["threads"])


def _row(rule: str, size: int, necessary: int, variant: Variant, samples: Sequence[float]) -> Row:
    low, middle, high = (each * 1e9 for each in quartiles(samples))
    return Row(
        rule=rule,
        variant=variant.name,
        backend=variant.backend,
        threads=variant.threads,
        size=size,
        bytes=necessary,
        ns=middle,
        low=low,
        high=high,
        rounds=len(samples),
    )


def share_of_bound(rows: Iterable[Row], row: Row) -> float | None:
    """Return the time of the slower loop divided by that of a step: 1 is as fast as memory and arithmetic allow.

    Return None if the loops were not measured.
    """
    keys = [(row.rule, loop, row.backend, row.threads, row.size) for loop in LOOPS]
    return max((each.ns / row.ns for each in rows if each.key in keys), default=None)
