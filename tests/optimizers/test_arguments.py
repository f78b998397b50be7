"""The optimizers' arguments: every one acts or is refused; ranges, types, combinations."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

import lrcore
from lrcore.optimizers._arguments import NUMBERS, OPTIONS
from support import CLASSES, assert_bits, choices, run, start


def arguments() -> list[tuple[str, str]]:
    """Return every argument of every class that is the rate, a number or an option."""
    taken = [(name, each) for name, cls in CLASSES.items() for each in inspect.signature(cls).parameters]
    arrays_and_graphs = ("params", "grads", "capturable", "max_steps")
    return [(name, each) for name, each in taken if each not in arrays_and_graphs]


def base(name: str) -> dict[str, Any]:
    """Return arguments under which every other argument has something to act on."""
    parameters = inspect.signature(CLASSES[name]).parameters
    seen = {
        "weight_decay": 0.1,
        "momentum": 0.9,
        "eps": 0.01,
    }  # a smaller epsilon is lost beside these gradients
    return {each: value for each, value in seen.items() if each in parameters}


CHOICES = {"decay": ("l2", "decoupled"), "eps_placement": ("corrected", "hat")}


@pytest.mark.parametrize(("name", "argument"), arguments())
def test_every_argument_acts_or_is_refused(name: str, argument: str) -> None:
    """Changing one changes the result of a few steps, in every combination with the options that is accepted."""
    cls = CLASSES[name]
    default = inspect.signature(cls).parameters[argument].default
    changed: Any = (0.5, 0.7) if isinstance(default, tuple) else 0.3
    if argument == "decoupled_weight_decay":
        changed = inspect.signature(cls).parameters["decay"].default == "l2"
    elif isinstance(default, (bool, str)):
        (changed,) = {*CHOICES.get(argument, (False, True))} - {default}
    options = {
        each: tried[1] for each, tried in choices(cls).items() if each != argument and each not in NUMBERS
    }
    for beside in ({}, *({option: value} for option, value in options.items())):
        try:
            pair = [cls(start(), **base(name) | beside | extra) for extra in ({}, {argument: changed})]
        except ValueError:
            assert beside  # a refused combination
            continue
        assert not np.array_equal(run(pair[0], 8), run(pair[1], 8)), f"beside {beside}"


FRACTIONS = ("momentum", "dampening", "alpha", "rho", "betas")
AVERAGES = ("alpha", "rho", "betas")
STRANGE = ("0.5", np.str_("0.5"), None, True, np.True_, 1j, np.complex64(1), [0.5], np.ones(3), object())


@pytest.mark.parametrize(("name", "argument"), arguments())
def test_numbers_out_of_range(name: str, argument: str) -> None:
    """ValueError that names the argument; TypeError for what is no number."""
    kept, others = start(), base(name)
    if argument in OPTIONS or argument == "decoupled_weight_decay":
        bad: list[Any] = []
        strange: list[Any] = ["yes", 1, 10**5000, *([] if argument == "decoupled_weight_decay" else [None])]
        if argument in ("decay", "eps_placement"):
            bad, strange = strange, bad
    else:
        bad, strange = [np.nan, np.inf, -np.inf, -0.1], [*STRANGE]
        bad += [1.0, 1.1] if argument in FRACTIONS else [1e-50, 1e39]
        bad += [1 - 1e-9] if argument in AVERAGES else []
        if argument == "betas":
            bad = [pair for value in bad for pair in ((value, 0.9), (0.9, value))]
        else:
            bad += [10**5000]
    for values, error, words in ((bad, ValueError, ""), (strange, TypeError, "expected")):
        for value in values:
            with pytest.raises(error, match=rf"^{argument}(\[[01]\])?: {words}"):
                CLASSES[name](kept, **others | {argument: value})
    assert_bits(kept, start())


def test_integers_and_scalars_are_numbers() -> None:
    """1 works as 1.0, and so does a NumPy scalar."""
    numbers: dict[str, Any] = {
        "betas": (0, np.float32(0.5)),
        "eps": np.float64(1),
        "weight_decay": np.int64(1),
    }
    ours = lrcore.Adam(start(), lr=1, **numbers)
    theirs = lrcore.Adam(start(), lr=1.0, betas=(0.0, 0.5), eps=1.0, weight_decay=1.0)
    assert_bits(run(ours, 3), run(theirs, 3))


@pytest.mark.parametrize(
    ("cls", "refused", "match"),
    [
        (lrcore.SGD, {"nesterov": True}, "nesterov: .*without momentum"),
        (lrcore.SGD, {"dampening": 0.1}, "dampening: .*without momentum"),
        (lrcore.SGD, {"lr_in_velocity": True}, "lr_in_velocity: .*without momentum"),
        (lrcore.SGD, {"momentum": 0.9, "nesterov": True, "dampening": 0.1}, "nesterov: .*dampening=0"),
        (lrcore.SGD, {"momentum": 0.9, "lr_in_velocity": True, "dampening": 0.1}, "lr_in_velocity: .*dampening=0"),
        (lrcore.RMSprop, {"lr_in_velocity": True}, "lr_in_velocity: .*without momentum"),
    ],
)  # fmt: skip
def test_refused_combinations(cls: type[Any], refused: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=f"^{match}"):
        cls(start(), **refused)


def test_every_argument_has_a_check_and_is_used() -> None:
    """The table of checks holds what the classes take, nothing else."""
    taken = {argument for _, argument in arguments()} - {"lr", "initial_accumulator_value"}
    assert taken == {*NUMBERS, *OPTIONS, "decoupled_weight_decay"}


@pytest.mark.parametrize(
    ("graphs", "error", "match"),
    [
        ({"capturable": 1}, TypeError, "capturable: expected True or False"),
        ({"capturable": True}, ValueError, "max_steps: a capturable optimizer needs the number of steps"),
        ({"max_steps": 5}, ValueError, "max_steps: has no effect without capturable=True"),
        ({"capturable": True, "max_steps": 2**53}, ValueError, r"max_steps: expected at most 2\*\*53 - 1"),
        ({"capturable": True, "max_steps": 0}, ValueError, "max_steps: expected a number of steps >= 1"),
        ({"capturable": True, "max_steps": 5.5}, ValueError, "max_steps: expected a number of steps"),
        ({"capturable": True, "max_steps": 5}, ValueError, "capturable: CPU arrays are in no CUDA graph"),
    ],
)
def test_what_cuda_graphs_need(graphs: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=f"^{match}"):
        lrcore.Adam(start(), grads=start(), **graphs)
