"""Recursion that takes no stack, since a schedule may be composed anew in each of ten thousand epochs."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, TypeAlias

Steps: TypeAlias = Generator[Any, Any, Any]
"""A function that yields the calls it needs, as generators too, and is sent what each returns."""

SLICE = 10
"""How many levels are stored within one another, where a reader or writer of others recurses."""


def unrolled(call: Steps) -> Any:
    """Return what a generator returns, with those that it yields run in its place.

    Examples
    --------
    >>> def total(nest):
    ...     return nest if isinstance(nest, int) else (yield total(nest[0])) + (yield total(nest[1]))
    >>> unrolled(total((1, (2, (3, 4)))))
    10
    """
    calls, result = [call], None
    while calls:
        try:
            calls.append(calls[-1].send(result))
            result = None
        except StopIteration as stop:
            calls.pop()
            result = stop.value
    return result
