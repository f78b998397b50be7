"""The file of an optimizer's state: resumed runs have equal bits, for any class, rate and device."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lrcore
from files.kinds import KINDS, contents, put_small
from gpu.devices import imitated
from lrcore import schedules
from support import N, assert_bits, assert_goes_on, make, run, slow_but_first, start

STATE = KINDS["optimizer"]


@pytest.mark.parametrize("k", slow_but_first(range(1, 21)))
def test_resume_from_a_file(rule: str, k: int, path: Path) -> None:
    """A run resumed by an object with other hyperparameters and rates has the uninterrupted run's bits.

    The same holds for an object made from the file alone.
    """
    cosine = schedules.Cosine(0.02, steps=30)
    options: dict[str, Any] = {"decay": ("l2", "independent", "decoupled")[k % 3], "maximize": True}
    opt = make(rule, start(), cosine, weight_decay=0.01, **options)
    run(opt, k)
    opt.save(path)
    params = np.array(opt.params)
    run(opt, 3)

    others: dict[str, Any] = {"betas": (0.5, 0.6)} if "betas" in opt.hyper else {}
    resumed = make(rule, params.copy(), 7.0, weight_decay=0.5, **options, **others)
    resumed.load(path)
    made = lrcore.load(path, params)
    assert (type(made), made.rule) == (type(opt), rule)
    for each in (resumed, made):
        assert each.step_count == k
        assert each.lr == cosine(k)
        assert_goes_on(each, opt, 3)


def test_numbers_survive_exactly(path: Path) -> None:
    """The numbers include doubles without a short form, the largest step count, and non-finite states."""
    rng = random.Random(5)
    for step_count in (2**53 - 1, *(rng.randrange(2**53) for _ in range(20))):
        opt = lrcore.Adam(
            np.zeros(6, np.float32),
            lr=10 ** rng.uniform(-30, 30),
            betas=(rng.random(), 1 - rng.random() / 7),
            eps=10 ** rng.uniform(-30, 30),
        )
        opt.step_count = step_count
        opt.state["exp_avg"][:] = [np.nan, np.inf, -np.inf, -0.0, 1e-45, 3.4e38]
        opt.save(path)
        assert contents(lrcore.load(path, np.zeros(6, np.float32))) == contents(opt)


def test_a_rate_from_a_callable(path: Path) -> None:
    """A callable is not stored: an existing optimizer keeps its rate, and `lrcore.load` needs one."""
    opt = lrcore.SGD(start(), lr=lambda t: 0.5 / (1 + t), momentum=0.9)
    run(opt, 2)
    opt.save(path)
    own = lrcore.SGD(start(), lr=0.25, momentum=0.5)
    own.load(path)
    assert own.lr == 0.25
    with pytest.raises(ValueError, match=r"^lr: .*file.safetensors has no schedule.*pass lr$"):
        lrcore.load(path, start())
    assert lrcore.load(path, start(), lr=lambda t: 0.5 / (1 + t)).lr == opt.lr


def test_arguments_of_load(path: Path) -> None:
    lrcore.Adam(start()).save(path)
    grads = np.ones(N, np.float32)
    assert lrcore.load(path, start(), grads=grads).grads is grads
    with pytest.raises(ValueError, match=r"^lr: .*file.safetensors has a schedule; leave lr out"):
        lrcore.load(path, start(), lr=0.5)
    with pytest.raises(TypeError, match="^params: expected dtype float32"):
        lrcore.load(path, np.zeros(N))
    with pytest.raises(ValueError, match="^grads: expected 21 elements"):
        lrcore.load(path, start(), grads=np.ones(3, np.float32))
    with pytest.raises(ValueError, match="^max_steps: has no effect"):
        lrcore.load(path, start(), max_steps=3)


class Own(lrcore.AdamW):
    """A user-defined class."""


class Chosen(lrcore.Adam):
    """A class whose constructor takes no options."""

    def __init__(self, params: Any, rate: float) -> None:
        super().__init__(params, rate, amsgrad=True, maximize=True)


class Passing(lrcore.AdamW):
    """A class whose constructor only has ``*args`` and ``**keywords``."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)


@pytest.mark.parametrize("cls", [Own, Chosen, Passing])
def test_a_class_of_the_callers_own(cls: Any, path: Path) -> None:
    """An object resumes from its own dictionary, a dictionary of a former version, or its file.

    `lrcore.load` makes an instance of the base class.
    """
    opt = cls(start(), 0.1)
    run(opt, 2)
    opt.save(path)
    dictionary = opt.state_dict()
    options = dictionary["options"]
    former = {"decoupled_weight_decay": options["decay"] == "decoupled", "maximize": options["maximize"]}
    ways: list[Callable[[Any], None]] = [
        lambda each: each.load_state_dict(dictionary),
        lambda each: each.load_state_dict(dictionary | {"options": former}),
        lambda each: each.load(path),
    ]
    for load in ways:
        resumed = cls(np.array(opt.params), 0.1)
        load(resumed)
        assert contents(resumed) == contents(opt)
    assert type(lrcore.load(path, start())) is cls.__base__
    with pytest.raises(ValueError, match="^options: expected the entries"):
        opt.load_state_dict(dictionary | {"options": options | {"nesterov": False}})


def test_between_devices(path: Path) -> None:
    """A run saved on any device resumes with equal bits on any device, and in capturable optimizers."""
    with imitated() as xp:
        arrays: list[Callable[[Any], Any]] = [np.array, xp.array, lambda values: xp.array(values, 1)]
        ones = np.ones(N, np.float32)
        for here in arrays:
            for there in arrays:
                opt = lrcore.AdamW(here(start()), lr=schedules.Cosine(0.1, steps=9))
                opt.step(here(ones))
                opt.save(path)
                params = as_numpy(opt.params)
                resumed = lrcore.load(path, there(params))
                opt.step(here(ones))
                resumed.step(there(ones))
                assert_bits(as_numpy(resumed.params), as_numpy(opt.params))
                for name, state in opt.state.items():
                    assert_bits(as_numpy(resumed.state[name]), as_numpy(state))
        grads = xp.array(ones)
        graph = lrcore.load(path, xp.array(params), grads=grads, capturable=True, max_steps=9)
        other = lrcore.AdamW(xp.array(params), 7.0, grads=grads, capturable=True, max_steps=9)
        other.load(path)
        for each in (graph, other):
            assert each.step_count == 1
            each.step()
            assert_bits(as_numpy(each.params), as_numpy(opt.params))
        graph.save(path)
        assert lrcore.load(path, start()).step_count == 2


def as_numpy(array: Any) -> Any:
    """Return the values of an array of NumPy or of the imitated CuPy."""
    return array if isinstance(array, np.ndarray) else array.get()


@pytest.mark.parametrize("name", ["Lions", "Optimizer", "", 3, None, ["Adam"], "SGD", "Pack", "__doc__"])
def test_classes_that_make_no_such_state(name: Any, path: Path) -> None:
    """A load into an existing optimizer ignores the name of the class."""
    put_small(path, STATE, json.dumps(STATE.text | {"class": name}))
    with pytest.raises(ValueError, match=f"^{path}: (class: expected the name|hyper: expected|rule: )"):
        STATE.from_file(path)
    STATE.make(1).load(path)
