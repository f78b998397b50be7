"""Deeply composed schedules: an optimizer can use, save and load schedules of any depth."""

from __future__ import annotations

import copy
import inspect
import itertools
import json
import pickle
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lrcore
from lrcore import schedules
from lrcore.schedules import Constant, Cosine, Linear, Plateau, Sequence
from schedules.examples import build
from support import slow_but_first

DEEP = 10_000
WAYS: dict[str, tuple[int, Callable[[Any, int], Any]]] = {
    "products": (1, lambda s, _: s * 0.9999),
    "products from the left": (1, lambda s, _: 0.9999 * s),
    "schedules from the left": (1, lambda s, _: Constant(1.0) * s),
    "clips": (1, lambda s, i: s.clip(0.0, 1.0 + i)),
    "shifts": (1, lambda s, _: s.shift(1)),
    "warm-ups": (1, lambda s, _: s.warmup(1)),
    "epochs": (1, lambda s, _: s.per_epoch(1)),
    "sequences": (3, lambda s, i: s.then(0.1, at=i + 1)),
    "sequences from the left": (3, lambda s, _: Constant(0.1).then(s, at=1)),
    "parts of parts": (1, lambda s, _: Sequence([(s, 3), 0.1])),
    "last parts": (3, lambda s, _: Sequence([(0.1, 3), s])),
    "alternating": (2, lambda s, _: (s * 0.9999).clip(0.0, 1.0)),
    "alternating from the left": (2, lambda s, _: Constant(1.0) * s.clip(0.0, 1.0)),
    "all": (6, lambda s, i: (s * 0.9999).clip(0.0, 1.0).shift(1).warmup(1).per_epoch(1).then(0.1, at=i + 2)),
    "plateaus": (1, lambda s, _: Plateau(s)),
    "products with plateaus": (2, lambda s, _: (s * Plateau(1.0)).clip(0.0, 1.0)),
}
"""For each way to compose, the number of levels that it adds and the function that adds them."""


def deep(way: str, levels: int = DEEP) -> Any:
    """Return a schedule with this many levels."""
    adds, compose = WAYS[way]
    schedule: Any = Cosine(0.5, steps=7, end=0.01)
    for i in range(levels // adds):
        schedule = compose(schedule, i)
    return schedule


def at_the_end_of_the_stack(call: Callable[[], Any], left: int) -> Any:
    """Return the result of a call that has room for only `left` frames on the stack."""

    def deeper(n: int) -> Any:
        return deeper(n - 1) if n else call()

    depth = len(inspect.stack(0))
    return deeper(sys.getrecursionlimit() - depth - left)


@pytest.mark.parametrize("way", slow_but_first(WAYS))
def test_any_depth(way: str, tmp_path: Path) -> None:
    schedule, path = deep(way), tmp_path / "state.safetensors"
    rates = [schedule(t) for t in (0, 5, 20_000)]
    opt = lrcore.SGD(np.zeros(2, np.float32), lr=schedule)
    opt.step(np.ones(2, np.float32))
    opt.save(path)
    copies = {
        "made again": deep(way),
        "dictionary": schedules.from_dict(json.loads(json.dumps(schedule.to_dict()))),
        "pickle": pickle.loads(pickle.dumps(schedule)),
        "deep copy": copy.deepcopy(schedule),
        "file": lrcore.load(path, opt.params).schedule,
    }
    for name, each in copies.items():
        assert each == schedule, name
        assert hash(each) == hash(schedule), name
        assert [each(t) for t in (0, 5, 20_000)] == rates, name
        assert len(schedules.plateaus(each)) == len(schedules.plateaus(schedule))
    assert repr(copies["file"]) == repr(schedule)
    assert (deep(way, 100) == deep(way, 40)) is (way in ("clips", "epochs"))


def test_the_dictionary_is_nested_a_few_levels_where_heights_are_skipped() -> None:
    tall: Any = Plateau(1.0)
    schedule: Any = Constant(0.5)
    for _ in range(100):
        for _ in range(5):
            tall = Plateau(tall.shift(1))
        schedule = Sequence([(tall, 1), schedule.clip(0.0, 1.0)])
    text = json.dumps(schedule.to_dict())
    assert max(itertools.accumulate((each in "[{") - (each in "]}") for each in text)) < 50
    assert schedules.from_dict(json.loads(text)) == schedule


@pytest.mark.parametrize("way", slow_but_first(WAYS))
def test_any_depth_of_the_stack(way: str, tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    opt = lrcore.SGD(np.zeros(2, np.float32), lr=deep(way, 1000))
    bits = pickle.dumps(opt)

    def everything() -> Any:
        opt.step(np.ones(2, np.float32))
        opt.save(path)
        opt.load_state_dict(opt.state_dict())
        pickle.dumps(opt)
        return repr(opt.schedule), lrcore.load(path, opt.params), pickle.loads(bits), copy.deepcopy(opt)

    for each in at_the_end_of_the_stack(everything, left=250)[1:]:
        assert each.schedule == opt.schedule


FLAT = {
    "Constant(2) * 0.5 * 0.25": "2 * 0.5 * 0.25",
    "0.25 * (0.5 * Constant(2))": "2 * 0.5 * 0.25",
    "Constant(2) * (Constant(0.5) * 3)": "2 * (Constant(lr=0.5) * 3.0)",
    "Constant(2) * Constant(0.5) * 3": "2 * Constant(lr=0.5) * 3.0",
    "Constant(0.3).clip(0.1, 0.5).clip(0.2, 0.6)": "Constant(lr=0.3).clip(0.2, 0.5)",
    "Constant(0.3).clip(0.1, 0.2).clip(0.4, 0.6)": "Constant(lr=0.3).clip(0.4, 0.4)",
    "Constant(0.3).clip(0.7, 0.8).clip(0.4, 0.6)": "Constant(lr=0.3).clip(0.6, 0.6)",
    "Constant(0.3).shift(2).shift(3)": "Constant(lr=0.3).shift(5)",
    "Constant(0.3).per_epoch(2).per_epoch(3)": "Constant(lr=0.3).per_epoch(6)",
    "Constant(1).then(2, at=3).then(4, at=5)": "Sequence([(1, 3), (2, 2), 4])",
    "Sequence([(Sequence([(1, 3), 2]), 5), 4])": "Sequence([(1, 3), (2, 2), 4])",
    "Sequence([(5, 2), Sequence([(1, 3), 2])])": "Sequence([(5, 2), (1, 3), 2])",
    "Constant(1).then(Constant(2).then(4, at=5), at=3)": "Sequence([(1, 3), (2, 5), 4])",
    "Plateau(1).then(Plateau(2), at=3).then(4, at=3)": "Sequence([(Sequence([(Plateau(1), 3), Plateau(2)]), 3), 4])",
}


@pytest.mark.parametrize(("code", "flat"), FLAT.items(), ids=FLAT)
def test_compositions_of_one_kind_are_one(code: str, flat: str) -> None:
    """In the expected text, a whole number n stands for either Constant(lr=n.0) or lr=n.0."""
    assert re.sub(r"Constant\(lr=(\d)\.0\)|lr=(\d)\.0", r"\1\2", repr(build(code))) == flat


def test_what_is_joined_to_itself_grows_by_one_part() -> None:
    schedule: Any = Linear(1.0, 0.1, steps=10)
    for i in range(60):
        schedule = schedule.then(schedule, at=10 * 2**i)
    assert schedule(10 * 2**59 + 3) == Linear(1.0, 0.1, steps=10)(3)


def test_numbers_of_steps_that_would_become_too_large() -> None:
    late: Any = Linear(1.0, 0.1, steps=10)
    slow: Any = Linear(1.0, 0.1, steps=10)
    for _ in range(100):
        late, slow = late.shift(2**62), slow.per_epoch(2)
    for schedule, rate in ((late, 0.1), (slow, 1.0)):
        again = schedules.from_dict(json.loads(json.dumps(schedule.to_dict())))
        assert (schedule(2**63), again(2**63)) == (rate, rate)


def test_a_schedule_of_ones_own_keeps_its_rate_at_any_depth() -> None:
    """A user-defined subclass of a composed schedule keeps its rate, too."""

    class Halved(Plateau):
        def _value(self, t: int) -> float:
            return super()._value(t) / 2

    tall = deep("alternating", 200)
    assert Halved(tall)(3) == tall(3) / 2
    assert (Halved(tall) * 1.0).clip(0, 1)(3) == tall(3) / 2


def test_dictionaries_of_former_versions() -> None:
    """In earlier versions, a product had a single factor, so products were nested."""
    rate = 0.5
    product: Any = {"schedule": "Constant", "lr": rate}
    for _ in range(DEEP):
        product = {"schedule": "Product", "inner": product, "other": 0.9999}
        rate *= 0.9999
    assert schedules.from_dict(product)(0) == rate
