"""Names that others use for what has another name here, and the message for a name that is unknown."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

FOREIGN: dict[str, tuple[str, ...]] = {
    "T_max": ("steps",),
    "learning_rate": ("lr",),
    "lambd": ("weight_decay",),
}
"""From a name in other libraries to the names that may be meant here."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is meant by another: by the table, else by its letters."""
    names = [*known]
    for each in FOREIGN.get(name, ()):
        if each in names:
            return each
    close = difflib.get_close_matches(name, names, 1)
    return close[0] if close else None


def unknown_argument(owner: str, name: str, known: Iterable[str]) -> TypeError:
    """Return the error for an argument that `owner` does not take."""
    names = [*known]
    meant = nearest(name, names)
    remedy = f"did you mean {meant}?" if meant else f"expected {', '.join(names) or 'none'}"
    return TypeError(f"{name}: {owner} takes no such argument; {remedy}")
