"""Mutations that preserve the form of an input, so that it passes the first checks and reaches the code behind them."""

from __future__ import annotations

import contextlib
import copy
import json
import re
import struct
import zlib
from collections.abc import Sequence
from random import Random
from typing import Any

Node = tuple[Any, Any]
"""A dictionary or list, and one of its keys or indices."""

ODD: list[Any] = [
    None, True, False, 0, 1, -1, 2, 0.5, -0.0, 0.1, 1e-50, 1e39, 1e308, 5e-324, 2**31, 2**53 - 1, 2**53, 2**64, 10**400,
    float("nan"), float("inf"), "", "inf", "-inf", "nan", "F32", "F64", "I32", "Adam", "adam", "exp_avg", "\ud800", "\0",
    [], {}, [[]], [0], [0.5, 0.5], {"schedule": "Constant", "lr": 0.5},
]  # fmt: skip


def nodes(value: Any) -> list[Node]:
    """Return every place in a JSON value that contains another value."""
    found: list[Node] = []
    open_ones = [value]
    while open_ones:
        each = open_ones.pop()
        if isinstance(each, (dict, list)):
            keys = list(each) if isinstance(each, dict) else range(len(each))
            found += [(each, key) for key in keys]
            open_ones += [each[key] for key in keys]
    return found


def changed(random: Random, value: Any, odd: list[Any], names: Sequence[str] = ("", "more")) -> Any:
    """Return a JSON value with one place changed. The value may be changed in place.

    New keys are keys or indices from elsewhere in the value, or come from `names`.
    """
    places = nodes(value)
    if not places:
        return copy.deepcopy(random.choice(odd))
    owner, key = random.choice(places)
    match random.randrange(7):
        case 0 | 1:
            owner[key] = copy.deepcopy(random.choice(odd))  # which is changed in place later
        case 2:
            other, name = random.choice(places)
            owner[key] = json.loads(json.dumps(other[name]))
        case 3:
            owner[key] = numbered(random, owner[key])
        case 4:
            owner.pop(key)
        case 5 if isinstance(owner, dict):
            owner[random.choice([*(str(name) for _, name in places), *names])] = owner.pop(key)
        case _:
            owner[key] = random.choice([[owner[key]], {"schedule": "Shift", "n": 1, "inner": owner[key]}])
    return value


def numbered(random: Random, value: Any) -> Any:
    """Return another number, near `value` or far from it."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return random.choice([random.randrange(-2, 20), random.random(), 10 ** random.uniform(-60, 60)])
    near = random.choice([1, -1, 4, -4, 8, -value, value, 0.5])
    try:
        return value * near if random.random() < 0.3 else value + near
    except OverflowError:
        return near


def spliced(random: Random, text: str, words: list[str]) -> str:
    """Return a string with a part replaced by a word or another part, or removed."""
    begin = random.randint(0, len(text))
    end = min(len(text), begin + random.choice([0, 0, 1, 2, 5, 20]))
    other = random.randint(0, len(text))
    put = random.choice([random.choice(words), text[other : other + random.choice([1, 5, 30])], ""])
    return text[:begin] + put + text[end:]


# ---- safetensors files with a JSON text in their metadata


def parts(data: bytes) -> tuple[Any, bytes]:
    """Return the header and the tensors of a file."""
    end = 8 + int.from_bytes(data[:8], "little")
    return parsed(data[8:end]), data[end:]


def parsed(text: str | bytes) -> Any:
    """Return the value of a JSON text; raise ValueError for a duplicate key."""
    return json.loads(text, object_pairs_hook=_once)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) < len(pairs):
        raise ValueError("duplicate key")
    return found


def repeated(random: Random, text: str) -> str:
    """Return a JSON text with one of its string entries repeated, if it has any."""
    found = [*re.finditer(r'"\w*": "[^"\\]*", ', text)]
    if not found:
        return text
    begin, end = random.choice(found).span()
    return text[:end] + text[begin:]


def checksum(header: Any, tensors: bytes) -> str:
    """Return the correct checksum, computed from the bytes without lrcore."""
    found = zlib.crc32(header["__metadata__"]["lrcore"].encode())
    for name in sorted({*header} - {"__metadata__"}):
        begin, end = header[name]["data_offsets"]
        found = zlib.crc32(tensors[begin:end], found)
    return f"{found:08x}"


def joined(random: Random, header: Any, tensors: bytes) -> bytes:
    """Return a file with this header and these tensors; its length and checksum are usually correct."""
    if random.random() < 0.95:
        # There is no checksum if the metadata has no JSON text or a tensor has no offsets.
        with contextlib.suppress(TypeError, ValueError, KeyError, AttributeError):
            header["__metadata__"]["lrcore.crc32"] = checksum(header, tensors)
    text = json.dumps(header)
    if random.random() < 0.05:
        text = spliced(random, text, ['"', "{", "}", '"exp_avg": 1, ', " "])
    length = len(text.encode())
    if random.random() < 0.05:
        length = random.choice([0, 1, length, 2**63, 2**64 - 1])
    return struct.pack("<Q", length) + text.encode() + tensors


def rebuilt(random: Random, data: bytes, odd: list[Any]) -> bytes:
    """Return a file with one change; everything that depends on the change is usually updated."""
    header, tensors = parts(data)
    metadata = header.get("__metadata__", {})
    choice = random.random()
    if choice < 0.6 and "lrcore" in metadata:
        metadata["lrcore"] = json.dumps(changed(random, json.loads(metadata["lrcore"]), odd))
    elif choice < 0.63 and "lrcore" in metadata:
        metadata["lrcore"] = repeated(random, metadata["lrcore"])
    elif choice < 0.7 and "lrcore" in metadata:
        words = ['"', "{", "}", "[" * 999, "NaN", "1e999", ", ", "9" * 99]
        metadata["lrcore"] = spliced(random, metadata["lrcore"], words)
    elif choice < 0.9:
        header = changed(random, header, odd)
    else:
        begin, put = random.randint(0, len(tensors)), random.randbytes(random.choice([0, 1, 4, 12]))
        tensors = tensors[:begin] + put + (tensors[begin + len(put) :] if random.random() < 0.5 else b"")
    return joined(random, header, tensors)
