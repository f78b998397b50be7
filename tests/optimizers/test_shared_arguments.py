"""The arguments that all optimizers share: one table, from which signatures, defaults and docstrings follow."""

from __future__ import annotations

import copy
import inspect
import pickle
import typing
from typing import Any

import pytest

import lrcore
from lrcore import schedules
from lrcore.optimizers._shared import DEFAULTS, OF_ONE_STEP, Shared
from support import CLASSES, run, start

every_class = pytest.mark.parametrize("name", CLASSES)


class Plain(lrcore.Adam):
    """A class with the defaults of its base."""


class Decayed(lrcore.Adam, weight_decay=0.25, decay="decoupled"):
    """A class with other defaults."""


class Rated(Decayed, maximize=True):
    """A class with a constructor of its own."""

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
    """Whatever its bases change is changed too, and what is passed comes first."""
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

    assert Decoupled(start()).options["decay"] == "decoupled"
    assert Decoupled(start(), decay="l2").options["decay"] == "l2"
    assert Decoupled(start(), decoupled_weight_decay=False).options["decay"] == "l2"
    assert Coupled(start()).options["decay"] == "l2"
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


def test_options_are_read_only() -> None:
    options: Any = lrcore.Adam(start()).options
    assert dict(options) == {"eps_placement": "corrected", "amsgrad": False, "decay": "l2", "maximize": False}
    with pytest.raises(TypeError):
        options["amsgrad"] = True


WRONG = {
    "weight_deacy": r"; did you mean weight_decay\?",
    "learning_rate": r"; did you mean lr\?",
    "maximise": r"; did you mean maximize\?",
    **dict.fromkeys(("qqq", "minimize", "total_steps", "min_lr_ratio"), "; expected params, lr, "),
    **dict.fromkeys(
        (each for each in OF_ONE_STEP if each not in DEFAULTS), r", but each step does: opt\.step\("
    ),
}


@every_class
def test_unknown_arguments_are_named(name: str) -> None:
    """Also those of another class, and those of a step."""
    own = inspect.signature(CLASSES[name]).parameters
    others = {each for cls in CLASSES.values() for each in inspect.signature(cls).parameters}
    for argument, words in (dict.fromkeys(others - {*own}, "; ") | WRONG).items():
        with pytest.raises(TypeError, match=f"^{argument}: {name} takes no such argument{words}"):
            CLASSES[name](start(), **{argument: 0.5})
