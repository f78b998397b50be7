"""One function for each optimizer, for callers that keep their own state.

``adam(params, grads, exp_avg, exp_avg_sq, *, step, lr, ...)`` takes step number `step` in place, on arrays that the
caller keeps. It accepts the hyperparameters and options of `lrcore.Adam` as keywords, with the same defaults and
checks. They determine the variant and thereby the states, which are passed in the order of ``lrcore.rules()`` and start
as zeros. The functions have no parameter groups; call a function for each slice instead.

Slices of larger buffers are supported: pass ``table[256:512]`` with the same slice of each state. Index arrays are not:
``table[rows]`` is a copy, and updates to a copy are lost. Gather the rows, take the step and write them back:

>>> table, m, v = (numpy.zeros((1000, 16), numpy.float32) for _ in range(3))
>>> rows, grads = [1, 5, 9], numpy.ones((3, 16), numpy.float32)
>>> part = [array[rows] for array in (table, m, v)]
>>> lrcore.functional.adam(part[0], grads, *part[1:], step=1, lr=0.1)
>>> for array, new in zip((table, m, v), part):
...     array[rows] = new
"""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, Protocol

from lrcore import _names, optimizers
from lrcore._lrcore_core import FunctionalStep
from lrcore._names import unknown_argument
from lrcore._runtime import require_environment, rules
from lrcore.optimizers import Optimizer, _arguments

__all__ = ["adadelta", "adagrad", "adam", "adamax", "adamw", "lion", "nadam", "radam", "rmsprop", "sgd"]


_STATES = frozenset(state for rule in rules().values() for state in rule.states)


class StepFunction(Protocol):
    """The signature of the functions in this module."""

    def __call__(
        self,
        params: Any,
        grads: Any,
        *states: Any,
        step: int,
        lr: float,
        grad_scale: float = 1.0,
        stream: Any = None,
        **arguments: Any,
    ) -> None:
        """Take one step in place."""


_DOC = """Take one step of `lrcore.{name}` in place, on state that the caller keeps.

Parameters
----------
params : array of float32
    The parameters, updated in place.
grads : array of float32
    The gradients, with as many elements as `params`. They are not modified.
*states : array of float32
    The states that `lrcore.rules()` lists for the variant, each with as many elements as `params`. They are updated in
    place.
step : int
    The number of the step to take, counted from 1.
lr : float
    The learning rate of this step.
grad_scale : float
    A factor by which the gradients are multiplied.
stream : optional
    The CUDA stream of a step on device arrays. By default, it is the current stream of the parameters' library.

All other keywords are documented in `lrcore.{name}`.

Raises
------
TypeError, ValueError, RuntimeError
    If an argument is invalid. No array is changed.
"""


def _function(cls: type[Optimizer]) -> StepFunction:
    """Return the step function of a class."""
    name = cls.__name__.lower()
    known = {*_arguments.NUMBERS, *_arguments.OPTIONS, "decoupled_weight_decay"}
    keywords = {each: value for each, value in inspect.signature(cls).parameters.items() if each in known}
    own = {each: value.default for each, value in keywords.items() if each not in cls._defaults}

    @functools.lru_cache(maxsize=128)
    def configured(**checked: Any) -> FunctionalStep:
        """Return the step with these keyword arguments."""
        require_environment()
        shared = {each: value for each, value in checked.items() if each in cls._defaults}
        settings = _arguments.settings(name, own | checked, shared, cls._defaults)
        options = _arguments.options(settings)
        hyper = _arguments.numbers(settings)
        rule = cls._choose_rule([hyper], options)
        return FunctionalStep(rule, options["decay"], cls._numbers(rule, hyper, options["maximize"]))

    def step_function(
        params: Any,
        grads: Any,
        *states: Any,
        step: int,
        lr: float,
        grad_scale: float = 1.0,
        stream: Any = None,
        **arguments: Any,
    ) -> None:
        for each in arguments:
            if each in _STATES:
                raise TypeError(f"{each}: {name} takes the states as positional arguments")
            if each not in keywords:
                raise unknown_argument(name, each, keywords)
        if "decoupled_weight_decay" in arguments:
            arguments = _arguments.with_decay(arguments)
        checked = _arguments.numbers(arguments) | _arguments.options(arguments)
        configured(**checked).apply(params, grads, states, step, lr, grad_scale, stream)

    positional = [
        each for each in inspect.signature(step_function).parameters.values() if each.name != "arguments"
    ]
    step_function.__name__ = step_function.__qualname__ = name
    step_function.__signature__ = inspect.Signature([*positional, *keywords.values()])  # type: ignore[attr-defined]
    step_function.__doc__ = _DOC.format(name=cls.__name__)
    return step_function


adadelta = _function(optimizers.Adadelta)
adagrad = _function(optimizers.Adagrad)
adam = _function(optimizers.Adam)
adamax = _function(optimizers.Adamax)
adamw = _function(optimizers.AdamW)
lion = _function(optimizers.Lion)
nadam = _function(optimizers.NAdam)
radam = _function(optimizers.RAdam)
rmsprop = _function(optimizers.RMSprop)
sgd = _function(optimizers.SGD)

if not TYPE_CHECKING:
    __getattr__, __dir__ = _names.public_face(__name__)
