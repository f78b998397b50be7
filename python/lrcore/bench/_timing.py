"""Timing: variants of one piece of work, interleaved, so that a slow phase of the machine hits all alike."""

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
    """What was measured of one variant.

    Attributes
    ----------
    rule, variant : str
        The work, and who does it how: "step", "bound step", "decayed step", "stream bound", "arithmetic bound", or
        the name of a peer.
    backend : str
        The backend of lrcore; "" for others.
    threads : int
        How many threads it may use; 0 where that is not known.
    size : int
        Elements.
    bytes : int
        What has to be read and written in a call.
    ns, low, high : float
        Nanoseconds a call: the median over the rounds, and the quartiles.
    rounds : int
        How many samples there were.
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
        """What tells it from other rows."""
        return self.rule, self.variant, self.backend, self.threads, self.size

    @property
    def gb_per_s(self) -> float:
        """Necessary bytes over the median, in 10^9 bytes a second."""
        return self.bytes / self.ns

    @property
    def spread(self) -> float:
        """Half the distance between the quartiles over the median."""
        return (self.high - self.low) / 2 / self.ns


@dataclasses.dataclass(eq=False)
class Variant:
    """Something to time.

    Attributes
    ----------
    name, backend, threads
        As in `Row`.
    call : callable
        Does the work once.
    prepare : callable
        Is called before each sample, outside of the time.
    """

    name: str
    call: Callable[[], object]
    backend: str = ""
    threads: int = 0
    prepare: Callable[[], object] = lambda: None

    def time(self, calls: int) -> float:
        """Return the seconds that a call takes, over so many, after one that brings the arrays into the caches."""
        self.prepare()
        call = self.call
        call()
        start = time.perf_counter()
        for _ in repeat(None, calls):
            call()
        return (time.perf_counter() - start) / calls


def interleave(variants: Sequence[Variant], rounds: int) -> Iterable[list[list[float]]]:
    """Time every variant once a round, in an order of the round's own: what one leaves in the caches meets all others.

    Yields
    ------
    list of list of float
        After each round the samples so far of each variant, in seconds a call.
    """
    for variant in variants:
        variant.time(1)  # what the first call does once
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
    """Return how many calls make a sample that the clock resolves well."""
    return max(1, min(100_000, int(SECONDS_PER_SAMPLE / variant.time(3))))


def quartiles(samples: Sequence[float]) -> tuple[float, float, float]:
    """Return the lower quartile, the median and the upper quartile; of one sample three times that."""
    if len(samples) == 1:
        return samples[0], samples[0], samples[0]
    low, middle, high = statistics.quantiles(samples, n=4, method="inclusive")
    return low, middle, high
