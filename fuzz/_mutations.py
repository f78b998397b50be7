"""Changes that leave an input's form whole, so that they reach what lies behind the first check."""

from __future__ import annotations

import json
from random import Random
from typing import Any

Node = tuple[Any, Any]
"""A dictionary or list, and a key or index of it."""

ODD: list[Any] = [
    None, True, False, 0, 1, -1, 2, 0.5, -0.0, 0.1, 1e-50, 1e39, 1e308, 5e-324, 2**31, 2**53 - 1, 2**53, 2**64, 10**400,
    float("nan"), float("inf"), "", "inf", "-inf", "nan", "F32", "F64", "I32", "Adam", "adam", "exp_avg", "\ud800", "\0",
    [], {}, [[]], [0], [0.5, 0.5], {"schedule": "Constant", "lr": 0.5},
]  # fmt: skip


def nodes(value: Any) -> list[Node]:
    """Give every place in a JSON value that holds another value."""
    found: list[Node] = []
    open_ones = [value]
    while open_ones:
        each = open_ones.pop()
        if isinstance(each, (dict, list)):
            keys = list(each) if isinstance(each, dict) else range(len(each))
            found += [(each, key) for key in keys]
            open_ones += [each[key] for key in keys]
    return found


def changed(random: Random, value: Any, odd: list[Any]) -> Any:
    """Give a JSON value with one place changed; it may be changed in place."""
    places = nodes(value)
    if not places:
        return random.choice(odd)
    owner, key = random.choice(places)
    match random.randrange(7):
        case 0 | 1:
            owner[key] = random.choice(odd)
        case 2:
            other, name = random.choice(places)
            owner[key] = json.loads(json.dumps(other[name]))
        case 3:
            owner[key] = numbered(random, owner[key])
        case 4:
            owner.pop(key)
        case 5 if isinstance(owner, dict):
            owner[random.choice([str(name) for _, name in places] + ["", "more"])] = owner.pop(key)
        case _:
            owner[key] = random.choice([[owner[key]], {"schedule": "Shift", "n": 1, "inner": owner[key]}])
    return value


def numbered(random: Random, value: Any) -> Any:
    """Give a number near another, or far from it."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return random.choice([random.randrange(-2, 20), random.random(), 10 ** random.uniform(-60, 60)])
    near = random.choice([1, -1, 4, -4, 8, -value, value, 0.5])
    try:
        return value * near if random.random() < 0.3 else value + near
    except OverflowError:
        return near


def spliced(random: Random, text: str, words: list[str]) -> str:
    """Give a text with a part of it replaced by a word, by another part, or by nothing."""
    begin = random.randint(0, len(text))
    end = min(len(text), begin + random.choice([0, 0, 1, 2, 5, 20]))
    other = random.randint(0, len(text))
    put = random.choice([random.choice(words), text[other : other + random.choice([1, 5, 30])], ""])
    return text[:begin] + put + text[end:]
