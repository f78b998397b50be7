"""A stateful object that a schedule contains in several places stays a single object in every copy."""

from __future__ import annotations

import copy
import itertools
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lrcore
from lrcore import schedules
from lrcore.schedules import Cosine, Function, Plateau, Schedule, Sequence, plateaus

LOSSES = [3.0, 2.0, 2.0, 2.0, 2.5, 2.5, 2.4, 2.6, 2.6]


def plateau(lr: Any = 1.0) -> Plateau:
    return Plateau(lr, factor=0.5, patience=1)


MADE: dict[str, Callable[[Plateau], Any]] = {
    "squared": lambda p: p * p,
    "two parts": lambda p: p.warmup(2).then(p * 0.1, at=5),
    "parts": lambda p: Sequence([(p, 3), (p.clip(0, 0.5), 3), p]),
    "deep": lambda p: (p.warmup(3).clip(0, 1) * 0.5).per_epoch(2) * p.shift(1),
    "nested in one that is used twice": lambda p: ((outer := plateau(p * 0.5)) * p).then(outer, at=3),
    "within its own rate": lambda p: plateau(p * 0.5).then(p, at=4),
    "over a schedule": lambda p: plateau(Cosine(0.5, 40).warmup(4)) * p,
    "two": lambda p: p * plateau(),
    "mean": lambda p: p * Plateau(1.0, 0.5, 0, statistic="mean", window=3, cooldown=2, min_lr=0.001),
    "a part that is used twice": lambda p: (w := p.warmup(2) * 0.5).then(w * 0.1, at=4),
}
COPIES: dict[str, Callable[[Any], Any]] = {
    "dictionary": lambda s: schedules.from_dict(s.to_dict()),
    "text of JSON": lambda s: schedules.from_dict(json.loads(json.dumps(s.to_dict()))),
    "pickle": lambda s: pickle.loads(pickle.dumps(s)),
    "oldest pickle": lambda s: pickle.loads(pickle.dumps(s, protocol=0)),
    "deep copy": copy.deepcopy,
    "copy": copy.copy,
}
made = pytest.mark.parametrize("make", MADE.values(), ids=MADE.keys())


def standing(schedule: Any) -> list[Any]:
    """Return the Plateau at each place in a schedule."""
    below = [each for child in schedule._children for each in standing(child)]
    return [schedule, *below] if isinstance(schedule, Plateau) else below


def places(schedule: Any) -> list[int]:
    """Return a number for each place of a Plateau. Equal numbers mean the same object."""
    ids = [id(each) for each in standing(schedule)]
    numbers = [*dict.fromkeys(ids)]
    return [numbers.index(each) for each in ids]


@made
def test_it_is_one_in_every_copy(make: Any) -> None:
    """A Plateau in several places is a single object in every copy, and is listed only once."""
    one = plateau()
    schedule = make(one)
    listed = plateaus(schedule)
    assert sum(each is one for each in listed) == 1
    assert len({id(each) for each in listed}) == len(listed) == max(places(schedule)) + 1
    for name, copied in COPIES.items():
        assert places(copied(schedule)) == places(schedule), name
        assert copied(schedule) == schedule == make(plateau())
        assert hash(copied(schedule)) == hash(schedule)


def test_two_that_are_equal_are_another_schedule_than_one() -> None:
    one, *pair = plateau(), plateau(), plateau()
    assert one * one == pair[0] * pair[0] != pair[0] * pair[1]
    assert pair[0] * pair[1] != one * one
    assert Sequence([(pair[0], 1), (pair[1], 1), pair[0]]) != Sequence([(pair[0], 1), (pair[1], 1), pair[1]])
    assert places(schedules.parse(repr(one * one))) == [0, 1]  # text does not preserve identity


def test_one_in_a_pickle_with_its_optimizer_and_its_observer() -> None:
    one = plateau()
    opt = lrcore.SGD(np.zeros(2, np.float32), lr=(one.warmup(2) * 0.5).then(one, at=5))
    for again, its in (pickle.loads(pickle.dumps((opt, one))), copy.deepcopy((opt, one))):
        assert [id(each) for each in plateaus(again.schedule)] == [id(its)]


# ---- resumed runs


def from_file(opt: Any, path: Path) -> Any:
    opt.save(path)
    return lrcore.load(path, opt.params)


def into_one_with(lr: Any, opt: Any) -> Any:
    """Return another optimizer of these parameters, after loading the first one's state from JSON."""
    other = lrcore.SGD(opt.params, lr=lr)
    other.load_state_dict(json.loads(json.dumps(opt.state_dict() | {"state": {}})))
    return other


RESUMED: dict[str, Callable[[Any, Any, Path], Any]] = {
    "not replaced": lambda opt, *_: opt,
    "file": lambda opt, _, path: from_file(opt, path),
    "state": lambda opt, make, _: into_one_with(make(plateau()), opt),
    "state, another rate": lambda opt, *_: into_one_with(plateau() * plateau(), opt),
    "pickle": lambda opt, *_: pickle.loads(pickle.dumps(opt)),
    "deep copy": lambda opt, *_: copy.deepcopy(opt),
    "copy": lambda opt, *_: copy.copy(opt),
}


@made
def test_a_resumed_run_goes_on_as_it_would_have(make: Any, tmp_path: Path) -> None:
    """Each Plateau observes its own losses, and the optimizer is replaced at one of the steps."""
    ends = []
    for again, cut in itertools.product(RESUMED.values(), (0, 3, 6)):
        opt: Any = lrcore.SGD(np.zeros(2, np.float32), lr=make(plateau()))
        for step in range(len(LOSSES)):
            opt = again(opt, make, tmp_path / "state.safetensors") if step == cut else opt
            opt.step(np.ones(2, np.float32))
            for i, each in enumerate(plateaus(opt.schedule)):
                each.observe(LOSSES[step - i])
        ends.append((opt.params.tolist(), [each.state_dict() for each in plateaus(opt.schedule)]))
    assert all(end == ends[0] for end in ends)


@made
def test_the_one_that_the_caller_holds_goes_on_steering(make: Any) -> None:
    """Loading a schedule that equals the optimizer's own keeps the original, in every place."""
    opt = lrcore.SGD(np.zeros(2, np.float32), lr=make(plateau()))
    for loss in LOSSES:
        for each in plateaus(opt.schedule):
            each.observe(loss)
    one = plateau()
    other = lrcore.SGD(np.zeros(2, np.float32), lr=make(one))
    other.load_state_dict(opt.state_dict())
    assert one.reductions == 3
    assert other.lr == opt.lr
    assert any(each is one for each in plateaus(other.schedule))


def product(inner: Any, other: Any) -> dict[str, Any]:
    """Return the dictionary of a product in earlier versions, which had a single factor."""
    return {"schedule": "Product", "inner": inner, "other": other}


def sequence(*parts: Any) -> dict[str, Any]:
    return {"schedule": "Sequence", "parts": [*parts]}


def test_files_of_former_versions_keep_the_one_that_the_caller_holds() -> None:
    """Earlier versions stored an object twice if it was in two places, and they nested products and sequences."""
    own, state = plateau().to_dict(), plateau().state_dict()
    parts = sequence([sequence([own, 3], own), 5], {"schedule": "Constant", "lr": 0.5})
    stored: list[tuple[Any, Any, int]] = [
        (lambda p: p * p, product(own, own), 2),
        (lambda p: p * 0.5 * 0.25, product(product(own, 0.5), 0.25), 1),
        (lambda p: p.then(p, at=3).then(0.5, at=5), parts, 2),
        (lambda p: p * p * Function(halved), None, 2),
    ]
    for make, dictionary, places in stored:
        one = plateau()
        opt = lrcore.SGD(np.zeros(2, np.float32), lr=make(one))
        saved = opt.state_dict() | {"schedule_state": [state | {"reductions": 2}] * places}
        saved |= {} if dictionary is None else {"schedule": dictionary}
        opt.load_state_dict(saved)
        assert [id(each) for each in plateaus(opt.schedule)] == [id(one)]
        assert one.reductions == 2
        if places == 2:  # two objects with different states
            saved["schedule_state"] = [state | {"reductions": i} for i in range(2)]
            if dictionary is None:
                with pytest.raises(
                    ValueError, match="^schedule_state: expected one state per Plateau, 1 in total, got 2"
                ):
                    opt.load_state_dict(saved)
            else:
                opt.load_state_dict(saved)
                assert [each.reductions for each in plateaus(opt.schedule)] == [0, 1]
            assert one.reductions == 2


def halved(t: int) -> float:
    return 0.5**t


# ---- dictionaries


def test_the_dictionary_lists_what_is_shared() -> None:
    one, cosine = plateau(), Cosine(0.1, steps=3)
    assert (one * one).to_dict() == {
        "schedule": "Product",
        "inner": {"shared": 0},
        "factors": [{"shared": 0}],
        "shared": [one.to_dict()],
    }
    assert "shared" not in json.dumps(cosine.then(cosine * 0.5, at=3).to_dict())  # stateless
    assert "shared" not in json.dumps((one * 0.5).to_dict())


def around(inner: Any, **more: Any) -> dict[str, Any]:
    return {"schedule": "Shift", "n": 1, "inner": inner, **more}


def within_itself(dictionary: Any, name: str, value: Any) -> Any:
    dictionary[name] = value(dictionary)
    return dictionary


ONE = {"schedule": "Constant", "lr": 1.0}
ITSELF = "expected a dictionary that does not contain itself"
LISTS: list[Any] = []
LISTS.append([LISTS, 1])


@pytest.mark.parametrize(
    ("dictionary", "message"),
    [
        (around({"shared": 0}), "shared: expected an index below 0, got 0"),
        (around({"shared": -1}), "shared: expected an integer >= 0, got -1"),
        (around({"shared": True}), "shared: expected an integer, got bool"),
        (ONE | {"shared": ONE}, "shared: expected a dictionary, got str"),
        (ONE | {"shared": 3}, "shared: expected a sequence, got int"),
        (ONE | {"shared": [3]}, "shared: expected a dictionary, got int"),
        (ONE | {"shared": [around({"shared": 0})]}, "shared: expected an index below 0, got 0"),
        ({"shared": 0}, "shared: expected a sequence, got int"),
        ({}, "schedule: expected the name of a schedule, got None"),
        *(
            ({"schedule": each}, "expected the name of a schedule")
            for each in (3, "Nothing", "Function", "Schedule")
        ),
        ({"schedule": "Cosine", "lr": 0.1}, "schedule: Cosine cannot be made from .*steps"),
        (ONE | {"more": 1}, "schedule: Constant cannot be made from .*more"),
        (around({"shared": 0, **ONE}), "Constant cannot be made"),
        ({"schedule": "Product", "inner": ONE, "factors": []}, "factors: expected at least one"),
        (product(ONE, 2) | {"factors": [3]}, "Product cannot be made"),
        (within_itself(around(None), "inner", lambda it: it), ITSELF),
        (within_itself(sequence(), "parts", lambda it: [it]), ITSELF),
        (within_itself(dict(ONE), "shared", lambda it: [it]), ITSELF),
        (sequence(*LISTS), "expected lists nested at most 2 deep, got more"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_dictionaries_that_mean_no_schedule(dictionary: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        schedules.from_dict(dictionary)


class Named(Plateau):
    """A user-defined class that is compared by an attribute of its own."""

    def __init__(self, lr: float, name: str) -> None:
        super().__init__(lr)
        object.__setattr__(self, "name", name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Named) and vars(self)["name"] == vars(other)["name"]

    __hash__ = Plateau.__hash__


def test_a_class_of_ones_own_is_compared_as_it_says() -> None:
    one, other = Named(1.0, "one"), Named(1.0, "other")
    assert one * 0.5 != other * 0.5
    assert one * 0.5 == Named(2.0, "one") * 0.5
    assert one * one != one * Named(1.0, "one")


class Bump(Schedule):
    """A user-defined class with an attribute whose name this library uses too."""

    def __init__(self, height: Any) -> None:
        self._height = height

    def _value(self, t: int) -> float:  # noqa: ARG002
        return 0.5


def test_attributes_of_ones_own() -> None:
    for height in (0.5, 109, "1 m", None):
        bump = Bump(height)
        schedule: Any = bump * 0.5
        for _ in range(9):
            schedule = schedule.warmup(0)
        schedule = schedule.shift(1) * bump
        for again in (schedule, copy.deepcopy(schedule), pickle.loads(pickle.dumps(schedule))):
            assert again(0) == 0.125


def test_a_short_dictionary_cannot_mean_a_schedule_that_takes_hours() -> None:
    doubled = [
        ONE,
        *({"schedule": "Product", "inner": {"shared": i}, "factors": [{"shared": i}]} for i in range(60)),
    ]
    with pytest.raises(ValueError, match="^schedule: expected at most 1000000 nested schedules, got more"):
        schedules.from_dict(around({"shared": 60}, shared=doubled))
    assert schedules.from_dict(around({"shared": 10}, shared=doubled[:11]))(0) == 1.0
