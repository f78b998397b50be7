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


@pytest.mark.parametrize(("name", "argument"), arguments())
def test_every_argument_acts_or_is_refused(name: str, argument: str) -> None:
    """Changing one changes the result of a few steps, in every combination with the options that is accepted."""
    cls = CLASSES[name]
    default = inspect.signature(cls).parameters[argument].default
    changed: Any
    if isinstance(default, bool):
        changed = not default
    elif isinstance(default, str):
        (changed,) = {*(("l2", "decoupled") if argument == "decay" else ("corrected", "hat"))} - {default}
    elif argument == "decoupled_weight_decay":
        changed = inspect.signature(cls).parameters["decay"].default == "l2"
    elif isinstance(default, tuple):
        changed = (0.5, 0.7)
    else:
        changed = 0.3
    arguments = base(name)
    steps = 8
    without, with_it = cls(start(), **arguments), cls(start(), **arguments | {argument: changed})
    assert not np.array_equal(run(without, steps), run(with_it, steps))
    for option, values in choices(cls).items():
        if option == argument or len(values) < 2 or not isinstance(values[1], (bool, str)):
            continue
        try:
            pair = [
                cls(start(), **arguments | {option: values[1]} | extra) for extra in ({}, {argument: changed})
            ]
        except ValueError:
            continue
        assert not np.array_equal(run(pair[0], steps), run(pair[1], steps)), f"beside {option}"


BAD_NUMBERS = [np.nan, np.inf, -np.inf, -0.1]
FRACTIONS = {"alpha", "rho", "momentum", "dampening"}


@pytest.mark.parametrize(("name", "argument"), arguments())
def test_numbers_out_of_range(name: str, argument: str) -> None:
    """ValueError that names the argument; TypeError for what is no number."""
    cls = CLASSES[name]
    if argument in OPTIONS or argument == "decoupled_weight_decay":
        expected = ValueError if argument in ("decay", "eps_placement") else TypeError
        for option in ("yes", 1, *([] if argument == "decoupled_weight_decay" else [None])):
            with pytest.raises(expected, match=f"^{argument}: expected"):
                cls(start(), **{argument: option})
        return
    bad: list[Any] = [*BAD_NUMBERS]
    if argument in FRACTIONS:
        bad += [1.0, 1.1]
    if argument in {"alpha", "rho"}:
        bad += [1 - 1e-9]
    if argument in {"lr", "eps", "weight_decay", "lr_decay", "momentum_decay", "initial_accumulator_value"}:
        bad += [1e-50, 1e39]
    if argument == "betas":
        bad = [(value, 0.9) for value in [*BAD_NUMBERS, 1.0, 1.1, 1 - 1e-9]]
        bad += [(0.9, value) for value, _ in bad]
    if argument != "betas":
        bad += [10**400]
    kept = start()
    for value in bad:
        with pytest.raises(ValueError, match=rf"^{argument}(\[[01]\])?: "):
            cls(kept, **base(name) | {argument: value})
    strange = ("0.5", np.str_("0.5"), None, True, np.True_, 1j, np.complex64(1), [0.5], np.ones(3), object())
    for value in strange:
        with pytest.raises(TypeError, match=rf"^{argument}(\[[01]\])?: expected"):
            cls(kept, **base(name) | {argument: value})
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
        (
            lrcore.SGD,
            {"momentum": 0.9, "lr_in_velocity": True, "dampening": 0.1},
            "lr_in_velocity: .*dampening=0",
        ),
        (lrcore.RMSprop, {"lr_in_velocity": True}, "lr_in_velocity: .*without momentum"),
    ],
)
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
