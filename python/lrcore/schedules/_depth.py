"""Recursion without the call stack, because a schedule that is extended in each epoch may have thousands of levels."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, TypeAlias

Steps: TypeAlias = Generator[Any, Any, Any]
"""A generator that yields the calls it needs, as generators of the same kind, and is sent their results."""

SLICE = 10
"""Number of levels that are stored in nested form. It is limited because json, pickle and copy recurse into them."""


def unrolled(call: Steps) -> Any:
    """Run a generator and all generators that it yields, without recursion, and return its result.

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
