"""Timing of several variants of one piece of work, interleaved, so that a slow phase of the machine affects all of them."""

from __future__ import annotations

import dataclasses
import random
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import repeat

SECONDS_PER_SAMPLE = 2e-3


@dataclasses.dataclass(frozen=True)
class Row:
    """The measurement of one variant.

    Attributes
    ----------
    rule, variant : str
        The update rule, and what was timed: "step", "bound step", "decayed step", "stream bound", "arithmetic bound",
        or the name of another library whose step was timed.
    backend : str
        The backend of lrcore; "" for other libraries.
    threads : int
        Number of threads that may be used; 0 if it is unknown.
    size : int
        Number of elements.
    bytes : int
        Bytes that a call has to read and write.
    ns, low, high : float
        Nanoseconds per call: the median over the rounds, and the quartiles.
    rounds : int
        Number of samples.
    """

    rule: str
    variant: str
    backend: str
    threads: int
    size: int
    bytes: int
    ns: float
    low: float
    high: float
    rounds: int

    @property
    def key(self) -> tuple[str, str, str, int, int]:
        """The values that identify the row in a table."""
        return self.rule, self.variant, self.backend, self.threads, self.size

    @property
    def gb_per_s(self) -> float:
        """Necessary bytes divided by the median time, in 10^9 bytes per second."""
        return self.bytes / self.ns

    @property
    def spread(self) -> float:
        """Half the distance between the quartiles, divided by the median."""
        return (self.high - self.low) / 2 / self.ns


@dataclasses.dataclass(eq=False)
class Variant:
    """A piece of work to time.

    Attributes
    ----------
    name, backend, threads
        As in `Row`.
    call : callable
        Does the work once.
    prepare : callable
        Called before each sample, outside the timed region.
    """

    name: str
    call: Callable[[], object]
    backend: str = ""
    threads: int = 0
    prepare: Callable[[], object] = lambda: None

    def time(self, calls: int) -> float:
        """Return the mean time of `calls` calls, in seconds, after one call that brings the arrays into the caches."""
        self.prepare()
        call = self.call
        call()
        start = time.perf_counter()
        for _ in repeat(None, calls):
            call()
        return (time.perf_counter() - start) / calls


def interleave(variants: Sequence[Variant], rounds: int) -> Iterable[list[list[float]]]:
    """Time every variant once per round, in an order that is shuffled in every round.

    Each variant starts with the cache contents that the previous one left. Shuffling gives all variants the same
    predecessors on average.

    Yields
    ------
    list of list of float
        After each round, the samples of each variant so far, in seconds per call.
    """
    for variant in variants:
        variant.time(1)  # the first call allocates and initializes
    calls = [_calls_in(variant) for variant in variants]
    samples: list[list[float]] = [[] for _ in variants]
    order = list(range(len(variants)))
    shuffle = random.Random(0).shuffle
    for _ in range(rounds):
        shuffle(order)
        for k in order:
            samples[k].append(variants[k].time(calls[k]))
        yield samples


def _calls_in(variant: Variant) -> int:
    """Return a number of calls that together take long enough for the clock's resolution."""
    return max(1, min(100_000, int(SECONDS_PER_SAMPLE / variant.time(3))))


def quartiles(samples: Sequence[float]) -> tuple[float, float, float]:
    """Return the lower quartile, the median and the upper quartile; for one sample, the sample three times."""
    if len(samples) == 1:
        return samples[0], samples[0], samples[0]
    low, middle, high = statistics.quantiles(samples, n=4, method="inclusive")
    return low, middle, high
