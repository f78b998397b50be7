"""Strict JSON of a bounded number of values, as headers and texts of files have it."""

from __future__ import annotations

import json
from typing import Any, NoReturn

MOST_MARKS = 5_000_000
"""Opening brackets, colons and commas in a header, of which an array has 13 or more. Each takes up to a microsecond and 200
bytes of memory when it is parsed."""


def marks(text: str) -> int:
    """Count what begins or parts values in JSON, so what its values take when they are parsed."""
    return sum(map(text.count, "[{:,"))


def parse(text: str) -> Any:
    """Parse strict JSON, in which no name stands twice, unless it has too many values."""
    if (found := marks(text)) > MOST_MARKS:
        raise ValueError(f"expected at most {MOST_MARKS} brackets, colons and commas, got {found}")
    return json.loads(text, object_pairs_hook=_distinct, parse_constant=_no_constant)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the entry {name!r} stands twice")
        found[name] = value
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"expected finite numbers, got {name}")
