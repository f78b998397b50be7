"""The format of lrcore's files: its number, and the text that each file has beside its arrays.

The text is a JSON object with the number of the format, the version and the class that wrote the file, and the entries of
that class. It stands under `lrcore` in the metadata.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from lrcore._files.strict_json import parse
from lrcore._lrcore_core import build_info

FORMAT = 2
"""The number of the format that is written. All up to it are read."""
TEXT = "lrcore"
OWN = ("format", "version", "class")
"""The entries that each text has."""


def text_of(class_name: str, entries: Mapping[str, Any]) -> str:
    """Return the text of a file that a class writes."""
    own = dict(zip(OWN, (FORMAT, build_info()["version"], class_name), strict=True))
    return json.dumps(own | dict(entries), allow_nan=False)


def entries_of(text: str) -> dict[str, Any]:
    """Return the entries of a text, if it is of a format that is read here and has those of each text."""
    entries = parse(text)
    if not isinstance(entries, dict):
        raise TypeError(f"{TEXT}: expected a JSON object, got {type(entries).__name__}")
    number = entries.get("format")
    if type(number) is int and number > FORMAT:
        raise ValueError(
            f"format {number}, written by lrcore {entries.get('version')}; this is lrcore {build_info()['version']}, which "
            f"reads up to {FORMAT}: install a later one"
        )
    if type(number) is not int or number < 1:
        raise ValueError(f"format: expected a number from 1 to {FORMAT}, got {number!r}")
    for name in OWN:
        if name not in entries:
            raise ValueError(f"{TEXT}: expected the entry {name!r}, got {[*entries]}")
    return entries


def require_known(entries: Mapping[str, Any], known: Iterable[str]) -> None:
    """ValueError that names an entry which is neither known nor one of each text."""
    for name in {*entries} - {*known, *OWN}:
        raise ValueError(
            f"entry {name!r}: unknown to lrcore {build_info()['version']}; the file was written by lrcore "
            f"{entries['version']}: install a later one"
        )
