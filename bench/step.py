"""Microbenchmark of the step: rule x backend x size.

    python bench/step.py --rules adam sgd --sizes 8 1000 100000 20000000

Columns
    ns        nanoseconds a call of ``opt.step(grads)`` from Python, the median over the rounds
    GB/s      necessary bytes over that time: a step reads p, g and each state and writes p and each state
    of limit  the limit loop's time over the step's: a plain loop over the same streams, same backend and threads
    spread    half the distance between the quartiles over the median, of the step

The limit loop is left out where the call outweighs the sweep. Variants are interleaved: each round times every one of
them once, so that a slow phase of the machine hits all alike. The rate is a cosine schedule. A line called "NumPy" is
Adam as a careful user writes it, with preallocated temporaries.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import lrcore
from lrcore._lrcore_core import Stepper, run_limit

SMALLEST_FOR_LIMIT = 10_000
SECONDS_PER_SAMPLE = 2e-3


def stepper_for(rule: str, params: Any, states: list[Any]) -> Stepper:
    """Give what steps under every optimizer class, by the name of the rule and under a cosine rate.

    The numbers keep every value of a long run away from the subnormal ones, which have a cost of their own.
    """
    numbers = [0.9 for _ in lrcore.rules()[rule].hyper]
    schedule = lrcore.schedules.Cosine(1e-3, steps=10**9)
    return Stepper(rule, params, states, None, False, False, ({}, numbers, 0.0), (schedule, schedule._value))


def numpy_adam(n: int) -> Callable[[], None]:
    """Give a step of Adam in NumPy on its own arrays."""
    p, m, v = np.ones(n, np.float32), np.zeros(n, np.float32), np.zeros(n, np.float32)
    g = np.full(n, 0.5, np.float32)
    x, y = np.empty_like(p), np.empty_like(p)
    lr, beta1, beta2, eps = (np.float32(each) for each in (1e-3, 0.9, 0.999, 1e-8))

    def step() -> None:
        np.multiply(m, beta1, out=m)
        np.multiply(g, 1 - beta1, out=x)
        np.add(m, x, out=m)
        np.multiply(v, beta2, out=v)
        np.multiply(g, g, out=x)
        np.multiply(x, 1 - beta2, out=x)
        np.add(v, x, out=v)
        np.sqrt(v, out=x)
        np.add(x, eps, out=x)
        np.divide(m, x, out=y)
        np.multiply(y, lr, out=y)
        np.subtract(p, y, out=p)

    return step


class Variant:
    """Something to time, and its samples in seconds a call."""

    def __init__(self, name: str, backend: str | None, call: Callable[[], object]) -> None:
        self.name = name
        self.backend = backend
        self.call = call
        self.samples: list[float] = []
        self.time(1)
        self.repeats = max(1, min(200_000, int(SECONDS_PER_SAMPLE / self.time(3))))

    def time(self, repeats: int) -> float:
        """Give the seconds a call takes, over `repeats` calls."""
        if self.backend is not None:
            lrcore.use_backend(self.backend)
        call = self.call
        start = time.perf_counter()
        for _ in range(repeats):
            call()
        return (time.perf_counter() - start) / repeats

    @property
    def median(self) -> float:
        """Seconds a call."""
        return statistics.median(self.samples)

    @property
    def spread(self) -> float:
        """Half the distance between the quartiles over the median."""
        low, _, high = statistics.quantiles(self.samples, n=4)
        return (high - low) / 2 / self.median


def variants(rule: str, backends: list[str], n: int) -> list[Variant]:
    """Give what is timed at one rule and size, on arrays of its own."""
    params, grads = np.ones(n, np.float32), np.full(n, 0.5, np.float32)
    states = [np.zeros(n, np.float32) for _ in lrcore.rules()[rule].states]
    opt = stepper_for(rule, params, states)
    timed = [Variant("step", backend, lambda: opt.step(grads)) for backend in backends]
    if n >= SMALLEST_FOR_LIMIT:
        timed += [Variant("limit", backend, lambda: run_limit(params, grads, states)) for backend in backends]
    if rule == "adam":
        timed.append(Variant("NumPy", None, numpy_adam(n)))
    return timed


def report(rule: str, n: int, timed: list[Variant]) -> None:
    """Print one line for each variant but the limit loops."""
    bytes_moved = lrcore.rules()[rule].bytes_per_element * n
    limits = {each.backend: each.median for each in timed if each.name == "limit"}
    for each in timed:
        if each.name == "limit":
            continue
        share = f"{limits[each.backend] / each.median:9.2f}" if each.backend in limits else f"{'-':>9}"
        print(
            f"{rule:33} {each.backend or each.name:9} {n:>11,} {each.median * 1e9:>14,.0f} "
            f"{bytes_moved / each.median / 1e9:8.1f} {share} {each.spread:7.0%}",
            flush=True,
        )


def main() -> None:
    """Run the benchmark and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--rules", nargs="+", default=list(lrcore.rules()), choices=list(lrcore.rules()), metavar="RULE"
    )
    parser.add_argument("--backends", nargs="+", default=lrcore.backends(), choices=lrcore.backends())
    parser.add_argument("--sizes", nargs="+", type=int, default=[8, 1_000, 100_000, 20_000_000], metavar="N")
    parser.add_argument("--rounds", type=int, default=15, help="times that each variant is sampled")
    options = parser.parse_args()

    info = lrcore.info()
    print(
        f"lrcore {info['version']} ({info['compiler']}) on {info['cpu']}, {info['threads']} threads, NumPy {np.__version__}"
    )
    print(f"{'rule':33} {'backend':9} {'elements':>11} {'ns':>14} {'GB/s':>8} {'of limit':>9} {'spread':>7}")
    for rule in options.rules:
        for n in options.sizes:
            timed = variants(rule, options.backends, n)
            for _ in range(options.rounds):
                for each in timed:
                    each.samples.append(each.time(each.repeats))
            report(rule, n, timed)


if __name__ == "__main__":
    main()
