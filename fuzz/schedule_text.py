"""Fuzz schedules from text and from dictionaries: ``python fuzz/schedule_text.py -runs=100000``.

Text that begins with a brace is a dictionary in JSON. Any text must result in a schedule or a documented exception. A
schedule must be the same after a round trip through `repr` or a dictionary, and must return finite rates.
"""

from __future__ import annotations

import atheris

with atheris.instrument_imports(include=["lrcore", "ast"]):
    import ast  # noqa: F401

    import lrcore
    from lrcore import schedules

import json
import math
import re
from collections.abc import Iterator
from random import Random
from typing import Any

import numpy as np

from _harness import fuzz, guarded
from _mutations import ODD, changed, numbered, spliced

TIMES = (0, 1, 2, 7, 1000, 2**31, 2**53 - 1)
NAMES = {"lr": 0.1, "steps": 100, "n": 3}


def target(data: bytes) -> None:
    """Read the text, and check the schedule."""
    text = data.decode(errors="replace")
    schedule = from_json(text) if text.startswith("{") else from_text(text)
    if schedule is not None:
        with guarded():
            whole(schedule)
        steps_by(schedule)


def from_text(text: str) -> Any:
    """Return the schedule that the text describes, or None if it is rejected; check the column in the message."""
    with guarded():
        try:
            return schedules.parse(text, **NAMES)
        except ValueError as error:
            message = str(error)
            assert message.startswith("schedule: "), message
            column = re.search(r", at column (\d+) near ", message)
            assert column is None or 1 <= int(column[1]) <= len(text) + 1, message
            return None


def from_json(text: str) -> Any:
    """Return the schedule of a JSON dictionary, or None if it is rejected; an optimizer must then reject it too."""
    try:
        dictionary = json.loads(text)
    except (ValueError, RecursionError):
        return None
    opt = lrcore.SGD(np.ones(1, np.float32), lr=0.25)
    before = opt.state_dict()
    try:
        with guarded():
            schedule = schedules.from_dict(dictionary)
    except (TypeError, ValueError, RecursionError) as error:
        with guarded():
            try:
                opt.load_state_dict(before | {"schedule": dictionary})
            except type(error):
                assert opt.state_dict() == before
            else:
                raise AssertionError(f"accepted by an optimizer: {error}") from error
        return None
    return schedule


def whole(schedule: Any) -> None:
    """Check the properties that hold for every schedule."""
    printed = repr(schedule)
    try:
        read = schedules.parse(printed)
    except ValueError as error:  # the repr may be longer and deeper than the original text
        assert re.search("expected at most|too deeply", str(error)), error
    else:
        assert read == schedule, printed
        assert repr(read) == printed
    dictionary = schedule.to_dict()
    again = schedules.from_dict(json.loads(json.dumps(dictionary, allow_nan=False)))
    assert again == schedule, printed
    assert again.to_dict() == dictionary
    for t in TIMES:
        try:
            rate = schedule(t)
        except OverflowError as error:
            assert " overflows at t = " in str(error), error
        else:
            assert type(rate) is float, printed
            assert math.isfinite(rate), (printed, t, rate)
            assert again(t) == rate, (printed, t)


def steps_by(schedule: Any) -> None:
    """Take a step with a schedule; if it is rejected, check that nothing has changed."""
    opt = lrcore.SGD(np.ones(1, np.float32), lr=schedule)
    try:
        opt.step(np.ones(1, np.float32))
    except (ValueError, OverflowError):
        assert (opt.step_count, opt.params[0]) == (0, 1)
    else:
        assert opt.step_count == 1


# ---- the corpus

TEXTS = [
    "0.1", "lr", "Constant(lr)", "Cosine(1e-3, steps=1000).warmup(100)", "Linear(lr, 0, steps) * 0.5", "2 * Rex(0.1, n, end=.05)",
    "PiecewiseConstant([10, 20], [0.1, 0.01, 0.001])", "StepDecay(0.1, every=10, factor=0.5).clip(0.01, 0.05)",
    "Exponential(0.1, rate=0.5, steps=10, staircase=True)", "NaturalExponential(0.1, k=0.01).shift(5)",
    "InverseTime(0.1, k=1, steps=10, staircase=True)", "Polynomial(0.1, 30, power=2.5, end=0.01, cycle=True)",
    "PolynomialProduct(0.1, steps=30, power=1, power2=2)", "CosineRestarts(0.1, steps=4, cycle_mult=2, peak_mult=0.7, end=0.003)",
    "Cyclic(0, 0.1, up=3, down=8, mode='triangular2')", "Cyclic(0.001, 0.1, 4, None, 'exp_range', gamma=0.98)",
    "OneCycle(0.1, 40, pct_start=0.4, div=1, final_div=1, three_phase=True)", "OneCycle(0.1, 37, shape='linear')",
    "WarmupStableDecay(0.3, warmup_steps=0, stable=3, decay=30, end=0.01, shape=\"linear\")", "InverseSqrt(0.1, warmup_steps=10)",
    "Noam(512, 30, scale=2)", "CyclicStages([(0.1, 3), (0, 1)])", "PeriodicPulse(0.01, [(0.5, 6), (0.1, 4)])",
    "Sequence([(Cosine(0.1, 9), 9), (0.05, 2), Rex(0.1, 9).per_epoch(3)])", "Rex(0.1, 9).then(0.05, at=3).warmup(6, start=0)",
    "Plateau(0.1, factor=0.5, patience=0, mode='max', statistic='mean', window=4, nan='bad') * Constant(1)",
    "Constant((lr * 2 - -0.1 // 4 + 7) / 10)",
]  # fmt: skip
WORDS = [
    *re.findall(r"\w+|[^\w\s]", " ".join(TEXTS)), *schedules.__all__, ", ", "=", "**", "//", "%", "lambda: ", " if ", " else ",
    " for x in ", "not ", "await ", "f'", "b'", "...", "__class__", "__import__('os')", "eval('1')", "print(", "open('x', 'w')", "0x", "1e", "e308", "1e400", "5e-324",
    "9" * 50, "9" * 5000, "(" * 60, ")" * 60, ".shift(1)" * 20, " * 1" * 20, "\0", "\\", "#", "\n", "é", "_",
]  # fmt: skip


def seeds() -> Iterator[bytes]:
    """Yield all schedules as text and as dictionaries."""
    for text in TEXTS:
        yield text.encode()
        yield json.dumps(schedules.parse(text, **NAMES).to_dict()).encode()


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """Return data with changes to its bytes, to words and numbers of the text, or to a value of the dictionary."""
    random = Random(seed)
    text = data.decode(errors="replace")
    if random.random() < 0.25:
        return bytes(atheris.Mutate(data, max_size))
    if text.startswith("{"):
        try:
            dictionary = changed(random, json.loads(text), [*ODD, *schedules.__all__])
            return json.dumps(dictionary).encode()[:max_size]
        except (ValueError, RecursionError, TypeError, KeyError):
            return spliced(random, text, ['"', "{", "}", ", "]).encode(errors="replace")[:max_size]
    if random.random() < 0.3 and (found := [*re.finditer(r"\d+(\.\d+)?(e-?\d+)?", text)]):
        number = random.choice(found)
        put = random.choice([*ODD, numbered(random, float(number.group()[:300]))])
        text = f"{text[: number.start()]}{put if put != 10**400 else '1e400'}{text[number.end() :]}"
    else:
        text = spliced(random, text, WORDS)
    return text.encode(errors="replace")[:max_size]


if __name__ == "__main__":
    fuzz(target, mutate, list(seeds()))
