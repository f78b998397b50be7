"""The optimizers' arguments: ranges, types, combinations, and the arguments that all classes share.

Each argument takes effect or is refused.
"""

from __future__ import annotations

import copy
import inspect
import pickle
import typing
from typing import Any

import numpy as np
import pytest

import lrcore
from lrcore import schedules
from lrcore.optimizers._arguments import NUMBERS, OPTIONS
from lrcore.optimizers._shared import DEFAULTS, OF_ONE_STEP, Shared
from support import CLASSES, assert_bits, choices, run, start


def arguments() -> list[tuple[str, str]]:
    """Return the class and the name of every argument that is a rate, a number or an option."""
    taken = [(name, each) for name, cls in CLASSES.items() for each in inspect.signature(cls).parameters]
    others = ("params", "grads", "groups", "max_norm", "skip_nonfinite", "ema", "capturable", "max_steps")
    return [(name, each) for name, each in taken if each not in others]


def base(name: str) -> dict[str, Any]:
    """Return arguments under which every other argument has an effect."""
    parameters = inspect.signature(CLASSES[name]).parameters
    seen = {
        "lr": 0.05,  # at 1, independent decay equals decoupled decay
        "weight_decay": 0.1,
        "momentum": 0.9,
        "eps": 0.01,  # a smaller epsilon would vanish next to these gradients
    }
    return {each: value for each, value in seen.items() if each in parameters}


CHOICES = {"decay": ("l2", "decoupled", "independent"), "eps_placement": ("corrected", "hat")}


@pytest.mark.parametrize(("name", "argument"), arguments())
def test_every_argument_acts_or_is_refused(name: str, argument: str) -> None:
    """Changing an argument changes the result of a few steps, in every valid combination with an option."""
    cls = CLASSES[name]
    default = inspect.signature(cls).parameters[argument].default
    others: list[Any] = [(0.5, 0.7) if isinstance(default, tuple) else 0.3]
    if argument == "decoupled_weight_decay":
        others = [inspect.signature(cls).parameters["decay"].default == "l2"]
    elif isinstance(default, (bool, str)):
        others = [each for each in CHOICES.get(argument, (False, True)) if each != default]
    options = {
        each: tried[1] for each, tried in choices(cls).items() if each != argument and each not in NUMBERS
    }
    for beside in ({}, *({option: value} for option, value in options.items())):
        try:
            tried = [{}, *({argument: other} for other in others)]
            made = [cls(start(), **base(name) | beside | extra) for extra in tried]
        except ValueError:
            assert beside  # an invalid combination
            continue
        assert len({run(each, 8).tobytes() for each in made}) == len(made), f"with {beside}"


FRACTIONS = ("momentum", "dampening", "alpha", "rho", "betas")
AVERAGES = ("alpha", "rho", "betas")
STRANGE = ("0.5", np.str_("0.5"), None, True, np.True_, 1j, np.complex64(1), [0.5], np.ones(3), object())


@pytest.mark.parametrize(("name", "argument"), arguments())
def test_numbers_out_of_range(name: str, argument: str) -> None:
    """The error names the argument: TypeError for a number or flag of the wrong type, else ValueError."""
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
    """1 works like 1.0, and so do NumPy scalars."""
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
    """Except for the rate and the initial sum, the tables of checks cover exactly the classes' arguments."""
    taken = {argument for _, argument in arguments()} - {"lr", "initial_accumulator_value"}
    assert taken == {*NUMBERS, *OPTIONS, "decoupled_weight_decay"}


@pytest.mark.parametrize(
    ("graphs", "error", "match"),
    [
        ({"capturable": 1}, TypeError, "capturable: expected True or False"),
        ({"capturable": True}, ValueError, "max_steps: expected a number of steps, got None"),
        ({"max_steps": 5}, ValueError, "max_steps: has no effect without capturable=True"),
        ({"capturable": True, "max_steps": 2**53}, ValueError, r"max_steps: expected at most 2\*\*53 - 1"),
        ({"capturable": True, "max_steps": 0}, ValueError, "max_steps: expected a number of steps >= 1"),
        ({"capturable": True, "max_steps": 5.5}, ValueError, "max_steps: expected a number of steps"),
        ({"capturable": True, "max_steps": 5}, ValueError, "capturable: CPU arrays cannot be part of"),
    ],
)
def test_what_cuda_graphs_need(graphs: dict[str, Any], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=f"^{match}"):
        lrcore.Adam(start(), grads=start(), **graphs)


# ---- the arguments that all optimizers share

every_class = pytest.mark.parametrize("name", CLASSES)


class Plain(lrcore.Adam):
    """A class with the defaults of its base."""


class Decayed(lrcore.Adam, weight_decay=0.25, decay="decoupled"):
    """A class with other defaults."""


class Rated(Decayed, maximize=True):
    """A class with its own constructor."""

    def __init__(self, params: Any, rate: float = 0.5, **shared: typing.Unpack[Shared]) -> None:
        super().__init__(params, rate, **shared)


@every_class
def test_signatures_show_what_is_shared(name: str) -> None:
    parameters = inspect.signature(CLASSES[name]).parameters
    assert [*parameters][-len(DEFAULTS) :] == [*DEFAULTS]
    assert all(parameters[each].kind is inspect.Parameter.KEYWORD_ONLY for each in DEFAULTS)
    assert parameters["decay"].annotation == typing.get_type_hints(Shared)["decay"]
    made = CLASSES[name](start(), 0.5)
    shown = {each: parameters[each].default for each in parameters}
    assert {each: shown[each] for each in made.hyper} == dict(made.hyper)
    assert {each: shown[each] for each in made.options} == dict(made.options)


@every_class
def test_docstrings_describe_what_is_shared(name: str) -> None:
    text = inspect.getdoc(CLASSES[name]) or ""
    assert "{" not in text.replace('{"', "")
    for each in ("params", "lr", *DEFAULTS):
        assert text.count(f"\n{each} : ") == 1


def shared(opt: Any) -> tuple[Any, ...]:
    return opt.hyper["weight_decay"], opt.options["decay"], opt.options["maximize"]


def test_other_defaults_of_a_class() -> None:
    """A class inherits the changed defaults of its bases; a passed argument takes precedence."""
    assert shared(lrcore.Adam(start())) == shared(Plain(start())) == (0.0, "l2", False)
    assert shared(Decayed(start())) == (0.25, "decoupled", False)
    assert inspect.signature(Decayed).parameters["weight_decay"].default == 0.25
    opt = Decayed(start(), schedules.Cosine(0.1, steps=9), betas=(0.5, 0.75), weight_decay=0.5, decay="l2")
    assert (*shared(opt), opt.lr, opt.hyper["betas"]) == (0.5, "l2", False, 0.1, (0.5, 0.75))

    class Ascending(lrcore.Adam, maximize=True, weight_decay=0.5):
        pass

    class Both(Decayed, Ascending):
        pass

    assert shared(Both(start())) == (0.25, "decoupled", True)
    own = Rated(start(), weight_decay=0.125)
    assert (own.lr, *shared(own)) == (0.5, 0.125, "decoupled", True)
    assert [*inspect.signature(Rated).parameters] == ["params", "rate", *DEFAULTS]
    for twin in (copy.copy(own), copy.deepcopy(own), pickle.loads(pickle.dumps(own))):
        assert (type(twin), *shared(twin)) == (Rated, *shared(own))


def test_another_default_of_decay_by_either_name() -> None:
    class Decoupled(lrcore.Adam, decoupled_weight_decay=True):
        pass

    class Coupled(Decoupled, decay="l2"):
        pass

    class Independent(Decoupled, decay="independent"):
        pass

    assert Decoupled(start()).options["decay"] == "decoupled"
    assert Decoupled(start(), decay="l2").options["decay"] == "l2"
    assert Decoupled(start(), decoupled_weight_decay=False).options["decay"] == "l2"
    assert Coupled(start()).options["decay"] == "l2"
    assert Independent(start()).options["decay"] == "independent"
    assert Independent(start(), decoupled_weight_decay=True).options["decay"] == "decoupled"
    assert inspect.signature(Decoupled).parameters["decay"].default == "decoupled"
    with pytest.raises(ValueError, match="^decay: got 'l2' and decoupled_weight_decay=True; "):
        type("Wrong", (lrcore.Adam,), {}, decay="l2", decoupled_weight_decay=True)


def test_a_shared_argument_that_a_constructor_names_itself() -> None:
    class Named(lrcore.SGD):
        def __init__(self, params: Any, weight_decay: float = 0.5, **shared: Any) -> None:
            super().__init__(params, weight_decay=weight_decay, **shared)

    assert Named(start(), maximize=True).hyper["weight_decay"] == 0.5
    others = [each for each in DEFAULTS if each != "weight_decay"]
    assert [*inspect.signature(Named).parameters] == ["params", "weight_decay", *others]


def test_other_defaults_are_of_known_arguments() -> None:
    words = "^weight_deacy: Wrong takes no such argument; did you mean weight_decay"
    with pytest.raises(TypeError, match=words):
        type("Wrong", (lrcore.Adam,), {}, weight_deacy=0.1)


@every_class
def test_decay_by_either_name(name: str) -> None:
    cls = CLASSES[name]
    for decay, decoupled in (("l2", False), ("decoupled", True)):
        by_decay, by_flag = {"decay": decay}, {"decoupled_weight_decay": decoupled}
        made = [
            cls(start(), 0.01, weight_decay=0.25, **each) for each in (by_decay, by_flag, by_decay | by_flag)
        ]
        assert [each.options["decay"] for each in made] == [decay] * 3
        assert "decoupled_weight_decay" not in made[1].options
        assert len({run(each, 3).tobytes() for each in made}) == 1
        words = f"^decay: got '{decay}' and decoupled_weight_decay={not decoupled}; "
        with pytest.raises(ValueError, match=words):
            cls(start(), decay=decay, decoupled_weight_decay=not decoupled)
        with pytest.raises(
            ValueError, match=f"^decay: got 'independent' and decoupled_weight_decay={decoupled}; "
        ):
            cls(start(), decay="independent", decoupled_weight_decay=decoupled)


def test_options_are_read_only() -> None:
    options: Any = lrcore.Adam(start()).options
    assert dict(options) == {"eps_placement": "corrected", "amsgrad": False, "decay": "l2", "maximize": False}
    with pytest.raises(TypeError):
        options["amsgrad"] = True


WRONG = {
    "weight_deacy": r"; did you mean weight_decay\?",
    "learning_rate": r"; did you mean lr\?",
    "maximise": r"; did you mean maximize\?",
    **dict.fromkeys(
        ("max_grad_norm", "global_clipnorm", "clip_norm", "grad_clip"), r"; did you mean max_norm\?"
    ),
    "clipvalue": r"; write grads\.clip\(",
    **dict.fromkeys(("qqq", "minimize", "total_steps", "min_lr_ratio"), "; expected params, lr, "),
    **dict.fromkeys(
        (each for each in OF_ONE_STEP if each not in DEFAULTS), r"; pass it to each step: opt\.step\("
    ),
}


@every_class
def test_unknown_arguments_are_named(name: str) -> None:
    """Unknown arguments include those of other classes and those of `step`."""
    own = inspect.signature(CLASSES[name]).parameters
    others = {each for cls in CLASSES.values() for each in inspect.signature(cls).parameters}
    for argument, words in (dict.fromkeys(others - {*own}, "; ") | WRONG).items():
        with pytest.raises(TypeError, match=f"^{argument}: {name} takes no such argument{words}"):
            CLASSES[name](start(), **{argument: 0.5})
