"""The format of lrcore's files: the format number, and lrcore's metadata, which each file has in addition to its arrays.

The metadata is the text of a JSON object with the format number, the version and the class that wrote the file, and
the entries of that class. It is stored under `lrcore` in the metadata of the safetensors format.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from lrcore._files.strict_json import parse
from lrcore._lrcore_core import build_info

FORMAT = 2
"""The format number of written files. Files with this or a lower number can be read."""
TEXT = "lrcore"
OWN = ("format", "version", "class")
"""The entries that every file has."""


def text_of(class_name: str, entries: Mapping[str, Any]) -> str:
    """Return the metadata, as JSON text, of a file with the entries of a class."""
    own = dict(zip(OWN, (FORMAT, build_info()["version"], class_name), strict=True))
    return json.dumps(own | dict(entries), allow_nan=False)


def entries_of(text: str) -> dict[str, Any]:
    """Return the entries of metadata after checking the format number and that no entry of `OWN` is missing."""
    entries = parse(text)
    if not isinstance(entries, dict):
        raise TypeError(f"{TEXT}: expected a JSON object, got {type(entries).__name__}")
    number = entries.get("format")
    if type(number) is int and number > FORMAT:
        raise ValueError(
            f"format: expected at most {FORMAT} for lrcore {build_info()['version']}, got {number}, written by lrcore "
            f"{entries.get('version')}; install a later version"
        )
    if type(number) is not int or number < 1:
        raise ValueError(f"format: expected a number from 1 to {FORMAT}, got {number!r}")
    for name in OWN:
        if name not in entries:
            raise ValueError(f"{TEXT}: expected the entry {name!r}, got {[*entries]}")
    return entries


def require_known(entries: Mapping[str, Any], known: Iterable[str]) -> None:
    """Raise ValueError if an entry is neither in `known` nor in `OWN`."""
    for name in {*entries} - {*known, *OWN}:
        raise ValueError(
            f"entry {name!r}: unknown to lrcore {build_info()['version']}, written by lrcore {entries['version']}; "
            "install a later version"
        )
