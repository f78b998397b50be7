"""Strict JSON with a limited number of values, for the headers and the metadata of files."""

from __future__ import annotations

import json
from typing import Any, NoReturn

MOST_MARKS = 5_000_000
"""Maximum number of opening brackets, colons and commas in a header. Each array needs 13 or more of them. Parsing takes
up to a microsecond and 200 bytes of memory for each of them."""


def marks(text: str) -> int:
    """Count the characters that begin or separate values in JSON. The cost of parsing is proportional to them."""
    return sum(map(text.count, "[{:,"))


def parse(text: str) -> Any:
    """Parse JSON, rejecting duplicate names, NaN and infinities, and too many values."""
    if (found := marks(text)) > MOST_MARKS:
        raise ValueError(f"expected at most {MOST_MARKS} brackets, colons and commas, got {found}")
    return json.loads(text, object_pairs_hook=_distinct, parse_constant=_no_constant)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"expected distinct names, got {name!r} twice")
        found[name] = value
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"expected finite numbers, got {name}")
